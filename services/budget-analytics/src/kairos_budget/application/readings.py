"""What can be read: rows of lists, and the port that fetches them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal, Protocol
from uuid import UUID

from kairos_budget.domain.budget import Budget, Scope, ScopeChain
from kairos_budget.domain.calendar import Bounds
from kairos_budget.domain.forecast import Sample
from kairos_budget.domain.ledger import Balances

GroupBy = Literal["model", "bot", "project", "day"]


class BadPosition(ValueError):  # noqa: N818 - reads as the fact it states
    """The position to go on from is not one this list gave out; the request is refused."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Which part of a list: `after` is the position of the last row seen, as an earlier answer gave it."""

    limit: int
    after: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class BudgetReading:
    """A budget with its current period, as it would open if nothing was leased from it yet."""

    budget: Budget
    bounds: Bounds
    balances: Balances


@dataclass(frozen=True, slots=True)
class ScopeIndex:
    """The scopes of an organisation that have a budget now, and whether one of each has reserves."""

    version: int
    scopes: tuple[tuple[Scope, UUID, bool], ...]


@dataclass(frozen=True, slots=True)
class HoldReading:
    """A hold that was open for long when its router last reported. `expires_at` is the lease's."""

    attempt_id: UUID
    lease_id: UUID
    holder: str
    lease_state: str
    model: str
    amount_nano: int
    since: datetime
    reported_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class LeaseReading:
    lease_id: UUID
    holder: str
    state: str
    epoch: int
    chain: ScopeChain
    priority: str | None
    granted_nano: int
    held_nano: int
    accounted_nano: int
    reported_settled_nano: int
    reported_open_nano: int
    returned_nano: int
    unlimited: bool
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class SuspenseReading:
    """What is in suspense because of one lease: its unreported rest and its unknown attempts."""

    lease_id: UUID
    holder: str
    unreported_nano: int
    unknown_nano: int
    unknown_attempts: tuple[UUID, ...]
    since: datetime


@dataclass(frozen=True, slots=True)
class TransferReading:
    sequence: int
    kind: str
    budget_id: UUID
    period_id: UUID
    source: str
    target: str
    amount_nano: int
    lease_id: UUID | None
    attempt_id: UUID | None
    posting_id: UUID | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class SpendReading:
    """`key` is a model name, a bot or project id, or a day; None when the spend has none."""

    key: str | None
    cost_nano: int
    attempts: int
    unknown_attempts: int
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Finding:
    """A figure that is not what the ledger says. `subject` is the id of a period or an attempt."""

    rule: str
    subject: UUID
    stored: int
    recomputed: int


class Readings(Protocol):
    """Lists of one organisation, each with the position to go on from, None at the end."""

    async def budgets(
        self, organisation_id: UUID, part: Slice, *, active: bool | None, scope: str | None
    ) -> tuple[Sequence[BudgetReading], dict[str, Any] | None]: ...

    async def budget(self, organisation_id: UUID, budget_id: UUID) -> BudgetReading | None: ...

    async def leases(
        self, organisation_id: UUID, part: Slice, *, state: str | None
    ) -> tuple[Sequence[LeaseReading], dict[str, Any] | None]: ...

    async def open_holds(
        self, organisation_id: UUID, part: Slice
    ) -> tuple[Sequence[HoldReading], dict[str, Any] | None]: ...

    async def scope_index(self, organisation_id: UUID) -> ScopeIndex: ...

    async def suspense(
        self, organisation_id: UUID, part: Slice
    ) -> tuple[Sequence[SuspenseReading], dict[str, Any] | None]: ...

    async def transfers(
        self,
        organisation_id: UUID,
        part: Slice,
        *,
        budget_id: UUID | None,
        lease_id: UUID | None,
        attempt_id: UUID | None,
    ) -> tuple[Sequence[TransferReading], dict[str, Any] | None]: ...

    async def spend(
        self, organisation_id: UUID, part: Slice, *, group_by: GroupBy, since: date, until: date
    ) -> tuple[Sequence[SpendReading], dict[str, Any] | None]: ...

    async def sample_before(self, organisation_id: UUID, reading: BudgetReading) -> Sample:
        """What the period's present rate is measured from: a recent sample, or its beginning."""

    async def count_open_leases(self) -> int: ...
