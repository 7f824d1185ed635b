"""The books as an accountant reads them, and the port that fetches them."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from kairos_budget.application.readings import Slice
from kairos_budget.domain.budget import Budget
from kairos_budget.domain.calendar import Bounds
from kairos_budget.domain.journal import Balance, Entry, Rate


@dataclass(frozen=True, slots=True)
class Selection:
    """Entries from `since` on, before `until`; of one budget or of all."""

    since: datetime | None = None
    until: datetime | None = None
    budget_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class SettledPeriod:
    """What moved into settled of one period, nano-USD: by attempts, and by corrections and reversals."""

    budget: Budget
    bounds: Bounds
    attempts: int
    adjusted: int


class Accounting(Protocol):
    """One organisation's books; recomputed from transfers, never from stored balances."""

    async def balances(self, organisation_id: UUID, chosen: Selection) -> Sequence[Balance]:
        """Per budget and account, of transfers before `until`."""

    async def entries(
        self, organisation_id: UUID, part: Slice, chosen: Selection
    ) -> tuple[Sequence[Entry], dict[str, Any] | None]:
        """The oldest first."""

    def every_entry(self, organisation_id: UUID, chosen: Selection) -> AsyncIterator[Entry]:
        """All of them, fetched in parts."""

    async def settled_periods(self, organisation_id: UUID, chosen: Selection) -> Sequence[SettledPeriod]:
        """Periods that overlap the selection, with what they settled since they began."""

    async def rates(self, organisation_id: UUID, currency: str | None) -> tuple[Rate, ...]:
        """The oldest first."""

    async def keep_rates(self, organisation_id: UUID, rates: Sequence[Rate]) -> None:
        """A rate given again for its day replaces the one before."""
