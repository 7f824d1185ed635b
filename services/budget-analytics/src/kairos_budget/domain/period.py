"""A budget's money in one calendar period."""

from dataclasses import dataclass
from uuid import UUID

from kairos_budget.domain.budget import Bounds, Budget
from kairos_budget.domain.ledger import Balances


@dataclass(frozen=True, slots=True)
class Period:
    """`announced` are the thresholds already published, so that each is published once."""

    id: UUID
    budget: Budget
    bounds: Bounds
    balances: Balances
    announced: tuple[int, ...] = ()

    def newly_reached(self) -> tuple[int, ...]:
        """Thresholds that settled spend has passed and nobody was told about."""
        spent, limit = self.balances.settled, self.balances.limit
        return tuple(
            percent
            for percent in self.budget.thresholds
            if percent not in self.announced and spent > 0 and spent * 100 >= limit * percent
        )
