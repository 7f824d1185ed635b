"""What one transaction locked and what it must write: balances move here, and nowhere else."""

from dataclasses import dataclass, field, replace
from uuid import UUID

from kairos_budget.domain.attempt import (
    Attempt,
    Charge,
    SpendChange,
    SpendKey,
)
from kairos_budget.domain.lease import (
    Lease,
)
from kairos_budget.domain.ledger import Account, Kind, Movement, Transfer, transfer_key
from kairos_budget.domain.period import Period
from kairos_budget.domain.posting import Posting
from kairos_budget.domain.rolling import Window


@dataclass(slots=True)
class Entries:
    """The rows of one working set, and every movement of money between their accounts."""

    periods: dict[UUID, Period] = field(default_factory=dict)
    leases: dict[UUID, Lease] = field(default_factory=dict)
    attempts: dict[UUID, Attempt] = field(default_factory=dict)
    transfers: list[Transfer] = field(default_factory=list)
    postings: list[tuple[Posting, tuple[UUID, ...]]] = field(default_factory=list)
    spend: dict[SpendKey, SpendChange] = field(default_factory=dict)
    windows: dict[UUID, Window] = field(default_factory=dict)
    overspends: int = 0
    changed_leases: set[UUID] = field(default_factory=set)
    changed_periods: set[UUID] = field(default_factory=set)
    changed_attempts: set[UUID] = field(default_factory=set)

    def open_window(self, period_id: UUID, window: Window) -> None:
        """Let what has left a rolling period's window be available again."""
        self.windows[period_id] = window
        for start in window.due():
            amount = self.windows[period_id].amounts[start]
            movements = self.periods[period_id].balances.give_back(amount, Account.SETTLED)
            self._move(period_id, Kind.EXPIRE, movements, f"expire:{start.isoformat()}")
            self.windows[period_id] = self.windows[period_id].without(start)
            period = self.periods[period_id]
            self.periods[period_id] = replace(period, announced=period.still_reached())
            self.changed_periods.add(period_id)

    def set_limit(self, period_id: UUID, limit: int, cause: str) -> None:
        """Apply a new limit. Below what is committed it stops new leases and takes nothing back."""
        movements = self.periods[period_id].balances.change_limit(limit)
        self._move(period_id, Kind.ADJUST, movements, cause)

    def adjust(self, period_id: UUID, amount: int, kind: Kind, charge: Charge) -> None:
        """Add a signed amount to what is settled; below zero money comes back. Raises ImpossibleBalances."""
        balances = self.periods[period_id].balances
        movements = (
            balances.cover(amount, Account.SETTLED)
            if amount > 0
            else balances.give_back(-amount, Account.SETTLED)
        )
        self._move(period_id, kind, movements, f"{kind}:{charge.cause}", charge=charge)

    def announce(self) -> list[tuple[Period, int]]:
        """Thresholds the changed periods have newly reached; each is returned once."""
        reached = []
        for period_id in sorted(self.changed_periods):
            period = self.periods[period_id]
            percents = period.newly_reached()
            if percents:
                period = replace(period, announced=(*period.announced, *percents))
                self.periods[period_id] = period
                reached += [(period, percent) for percent in percents]
        return reached

    def _move(
        self,
        period_id: UUID,
        kind: Kind,
        movements: list[Movement],
        cause: str,
        lease_id: UUID | None = None,
        charge: Charge | None = None,
    ) -> None:
        movements = [movement for movement in movements if movement.amount]
        if not movements:
            return
        period = self.periods[period_id]
        self.periods[period_id] = replace(period, balances=period.balances.apply(movements))
        self.changed_periods.add(period_id)
        if period_id in self.windows and kind is not Kind.EXPIRE:
            self.windows[period_id] = self.windows[period_id].after(movements)
        self.transfers += [
            Transfer(
                key=transfer_key(cause, period_id, movement),
                organisation_id=period.budget.organisation_id,
                budget_id=period.budget.id,
                period_id=period_id,
                kind=kind,
                movement=movement,
                lease_id=charge.lease_id if charge else lease_id,
                attempt_id=charge.attempt_id if charge else None,
                posting_id=charge.posting_id if charge else None,
                adjustment_id=charge.adjustment_id if charge else None,
            )
            for movement in movements
        ]

    def _keep(self, lease: Lease) -> Lease:
        self.leases[lease.id] = lease
        self.changed_leases.add(lease.id)
        return lease

    def _keep_attempt(self, attempt: Attempt) -> None:
        self.attempts[attempt.id] = attempt
        self.changed_attempts.add(attempt.id)
