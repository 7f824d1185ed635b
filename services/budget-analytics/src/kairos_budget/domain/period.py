"""A budget's money in one period."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from kairos_budget.domain.budget import Budget
from kairos_budget.domain.calendar import Bounds
from kairos_budget.domain.ledger import Balances
from kairos_budget.domain.priority import Priority

# For this long after a refusal that unused money of other holders could have served, holders give theirs
# back at every heartbeat and leases are granted for what is needed only.
RECALL_FOR: Final = timedelta(seconds=10)
# Money is scarce when less than 1/20 of a limit is available: no holder keeps more than a fair share then.
SCARCE_PART: Final = 20


@dataclass(frozen=True, slots=True)
class Period:
    """`announced` are the thresholds already published, so that each is published once."""

    id: UUID
    budget: Budget
    bounds: Bounds
    balances: Balances
    announced: tuple[int, ...] = ()
    recalling: bool = False

    def spendable(self, priority: Priority | None) -> int:
        """What a lease of this priority may still get."""
        floor = self.budget.reserves.floor(self.balances.limit, priority)
        return max(self.balances.available - floor, 0)

    def reached(self, percent: int) -> bool:
        spent = self.balances.settled
        return spent > 0 and spent * 100 >= self.balances.limit * percent

    def newly_reached(self) -> tuple[int, ...]:
        """Thresholds that settled spend has passed and nobody was told about."""
        return tuple(
            percent
            for percent in self.budget.thresholds
            if percent not in self.announced and self.reached(percent)
        )

    def still_reached(self) -> tuple[int, ...]:
        """What was announced and still holds; the rest may be announced again."""
        return tuple(percent for percent in self.announced if self.reached(percent))
