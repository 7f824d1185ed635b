"""The arithmetic of money a router process may spend without asking anyone.

A lease is a slice of every budget that applies to its scope. Holds are taken from it before a
request goes to a provider, and settled after. All steps are pure; who keeps the result decides.
"""

from dataclasses import dataclass
from typing import Self
from uuid import UUID

from kairos_router.domain.records import record

# nano-USD one attempt may hold or cost: a million USD. More is a mistake or a lie, and would not fit the
# numbers of the ledger, with all that is reported in the same message.
MOST_ATTEMPT = 10**15
# What one lease without a limit serves before another one is asked for.
MOST_UNLIMITED = 10**17


class DoesNotFit(Exception):  # noqa: N818 - reads as the fact it states
    """The hold is larger than what is free in the lease; nothing was taken."""


class NotHeld(ValueError):  # noqa: N818 - reads as the fact it states
    """More is settled or released than was held: a programming error that would invent money."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose budgets apply. A lease covers all budgets of such a chain at once.

    `model_id` is made of the deployment's model name: kairos_contracts.scopes.model_scope_id.
    """

    organisation_id: UUID
    project_id: UUID | None = None
    bot_id: UUID | None = None
    team_id: UUID | None = None
    contact_id: UUID | None = None
    api_key_id: UUID | None = None
    model_id: UUID | None = None


@record
class Balance:
    """nano-USD of one lease. Always: held + settled <= granted + overspent, unless unlimited.

    `overspent` grows only when a provider charges more than the worst case that was held; such a
    cost is recorded in full and makes the lease smaller for everyone after.
    """

    granted: int
    held: int = 0
    settled: int = 0
    overspent: int = 0
    unlimited: bool = False

    @property
    def free(self) -> int:
        return max(0, self.granted - self.held - self.settled)

    def fits(self, amount: int) -> bool:
        most = MOST_UNLIMITED if self.unlimited else self.granted
        return amount <= most - self.held - self.settled

    def take(self, amount: int) -> Self:
        """Hold `amount`. Raises DoesNotFit."""
        if amount < 0 or not self.fits(amount):
            raise DoesNotFit
        return type(self)(self.granted, self.held + amount, self.settled, self.overspent, self.unlimited)

    def settle(self, hold: int, cost: int) -> Self:
        """Turn a hold into what it really cost; the rest is free again. Raises NotHeld."""
        if hold > self.held or min(hold, cost) < 0:
            raise NotHeld
        return type(self)(
            self.granted,
            self.held - hold,
            self.settled + cost,
            self.overspent + max(0, cost - hold),
            self.unlimited,
        )

    def extend(self, more: int) -> Self:
        granted = self.granted + max(0, more)
        return type(self)(granted, self.held, self.settled, self.overspent, self.unlimited)

    def shrink(self, keep: int) -> Self:
        """Give up what is free above `keep`; holds are never touched."""
        granted = self.granted - max(0, self.free - max(0, keep))
        return type(self)(granted, self.held, self.settled, self.overspent, self.unlimited)
