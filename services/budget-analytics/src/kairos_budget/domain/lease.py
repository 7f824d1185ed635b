"""A lease: money of one scope chain that one router process may spend without asking again."""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Literal, Self
from uuid import UUID

from kairos_budget.domain.budget import ScopeChain
from kairos_budget.domain.priority import Priority


class LeaseState(StrEnum):
    """open: its holder takes holds from it. closing: usage its holder reported is still on the way.

    suspended: its holder fell silent, the unreported rest counts as spent. closed: nothing is left of it.
    """

    OPEN = "open"
    CLOSING = "closing"
    SUSPENDED = "suspended"
    CLOSED = "closed"


Retirement = Literal["period_ended", "budgets_changed", "suspended", "closed", "stale_epoch"]


class StaleEpoch(Exception):  # noqa: N818 - reads as the fact it states
    """The lease was taken back since the caller last heard of it; its figures no longer count."""


class UnknownLease(LookupError):  # noqa: N818 - reads as the fact it states
    """No such lease exists, or it is another tenant's; the request is refused."""


class NothingSuspended(Exception):  # noqa: N818 - reads as the fact it states
    """The lease holds nothing in suspense; there is nothing to release."""


@dataclass(frozen=True, slots=True)
class OpenHold:
    """An attempt that has been open for long, as its router reports it."""

    attempt_id: UUID
    amount: int
    since: datetime
    model: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What a holder says of one lease, in nano-USD.

    `settled` counts whole holds of unknown attempts too, `unsettled` are open holds. `returned` is the sum of
    all it ever gave back of the lease. `holds` are the oldest of its open holds.
    """

    settled: int = 0
    unsettled: int = 0
    returned: int = 0
    holds: tuple[OpenHold, ...] = ()


@dataclass(frozen=True, slots=True)
class Allocation:
    """What a lease holds of one budget's period."""

    period_id: UUID
    budget_id: UUID
    ends_at: datetime | None
    leased: int = 0
    suspense: int = 0

    @property
    def held(self) -> int:
        return self.leased + self.suspense


@dataclass(frozen=True, slots=True)
class Lease:
    """Money in nano-USD; the same amount is held of every budget that applies.

    `granted` is the sum of its grants. `accounted` is what usage events have charged to it so far: costs of
    settled attempts and holds of unknown ones. `expected` is the same figure as its holder closed it with.
    `priority` is set when a budget has reserves. `index_version`: budgets made later may need a wider chain.
    """

    id: UUID
    chain: ScopeChain
    holder: str
    epoch: int
    state: LeaseState
    granted: int
    grants: int
    accounted: int
    expected: int | None
    expires_at: datetime
    suspend_after: datetime
    allocations: tuple[Allocation, ...]
    reported_settled: int = 0
    reported_open: int = 0
    priority: Priority | None = None
    index_version: int = 0
    returned: int = 0
    open_holds: tuple[OpenHold, ...] = ()

    @property
    def unlimited(self) -> bool:
        """No budget applied when it was granted."""
        return not self.allocations

    @property
    def held(self) -> int:
        """The most it holds of any one budget."""
        return max((allocation.held for allocation in self.allocations), default=0)

    @property
    def settled_up(self) -> bool:
        """Every attempt its holder reported has been charged."""
        return self.expected is not None and self.accounted >= self.expected

    def with_allocations(self, allocations: tuple[Allocation, ...]) -> Self:
        return replace(self, allocations=allocations)


def slice_for(*, remaining: int, want: int, need: int, holders: int) -> int:
    """How much of `remaining` to grant: at least `need`, beyond it ever smaller slices towards the end.

    With h holders a slice is at most 1/2h of what is left, so that little is stranded with others.
    """
    return min(want, max(need, remaining // (2 * max(holders, 1))), remaining)
