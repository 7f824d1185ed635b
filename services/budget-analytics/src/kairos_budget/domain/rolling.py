"""Windows that move on with time: the last 24 hours, the last 30 days.

What is settled counts in the bucket of the moment it is settled at, which is never earlier than the moment it
was spent at. A bucket leaves as a whole, when its end is as old as the window is long. So whatever window of
that length one looks at, all that was spent in it is still counted when it ends, and settled + held is within
the limit for every window at every instant; money comes back at most one bucket late.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, Self

from kairos_budget.domain.calendar import EPOCH
from kairos_budget.domain.ledger import Account, Movement

BUCKETS: Final = 48


@dataclass(frozen=True, slots=True)
class Window:
    """`now` is the database's time when the period was locked. `amounts`: settled nano-USD by bucket."""

    hours: int
    now: datetime
    amounts: Mapping[datetime, int] = field(default_factory=dict)

    @property
    def granularity(self) -> timedelta:
        """75 seconds for each hour of the window."""
        return timedelta(hours=self.hours) / BUCKETS

    def current(self) -> datetime:
        return self._bucket(self.now)

    def holds(self, moment: datetime) -> bool:
        """Whether what was settled at the moment still counts."""
        return self._bucket(moment) in self.amounts

    def _bucket(self, moment: datetime) -> datetime:
        return moment - (moment - EPOCH) % self.granularity

    def due(self) -> list[datetime]:
        """Buckets of which no instant lies in the window any more."""
        last = self.now - timedelta(hours=self.hours) - self.granularity
        return sorted(start for start in self.amounts if start <= last)

    def after(self, movements: Sequence[Movement]) -> Self:
        """The window after the movements of the period's money."""
        window = self
        for movement in movements:
            if movement.target is Account.SETTLED:
                window = window.add(movement.amount)
            elif movement.source is Account.SETTLED:
                window = window.take(movement.amount)
        return window

    def add(self, amount: int) -> Self:
        start = self.current()
        return replace(self, amounts={**self.amounts, start: self.amounts.get(start, 0) + amount})

    def take(self, amount: int) -> Self:
        """Less was spent than was settled: the oldest buckets shrink first, the newest count longest."""
        amounts = dict(self.amounts)
        for start in sorted(amounts):
            part = min(amount, amounts[start])
            amounts[start] -= part
            amount -= part
        return replace(self, amounts=amounts)

    def without(self, start: datetime) -> Self:
        return replace(self, amounts={each: held for each, held in self.amounts.items() if each != start})
