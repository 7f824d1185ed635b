"""The working set of one transaction: what was locked, what was decided, what must be written.

Every rule about money is a method here. The store loads and locks rows into a book and writes its
changes back; the same methods run in tests without a database.
"""

from dataclasses import dataclass, replace
from itertools import accumulate
from uuid import UUID

from kairos_budget.domain.attempt import (
    Attempt,
    AttemptHold,
    Charge,
    Outcome,
    ResolvedBy,
    SpendChange,
    spend_key,
)
from kairos_budget.domain.lease import (
    LeaseState,
)
from kairos_budget.domain.leasing import BudgetExceeded, Leasing, Timing
from kairos_budget.domain.ledger import Account, Kind, Movement
from kairos_budget.domain.posting import Posting

__all__ = ["Book", "BudgetExceeded", "Timing"]


@dataclass(slots=True)
class Book(Leasing):
    """Leases, attempts and balances of one transaction."""

    def record(self, attempt: Attempt, uncovered: tuple[UUID, ...] = ()) -> bool:
        """Charge one attempt, once; False when it was already resolved.

        `uncovered` are periods of budgets that apply although the attempt's lease holds nothing of them.
        A second report of an unknown attempt resolves it; any other second report is a duplicate.
        """
        known = self.attempts.get(attempt.id)
        if known is not None:
            if known.outcome is not Outcome.UNKNOWN or attempt.outcome is Outcome.UNKNOWN:
                return False
            cost = attempt.cost if attempt.outcome is Outcome.SETTLED else 0
            self.resolve(known, cost=cost, by=attempt.resolved_by, usage=attempt)
            return True
        amount = {Outcome.SETTLED: attempt.cost, Outcome.UNKNOWN: attempt.hold}.get(attempt.outcome, 0)
        target = Account.SUSPENSE if attempt.outcome is Outcome.UNKNOWN else Account.SETTLED
        periods = self._charge(_charge_of(attempt), (amount,), target, uncovered)
        holds = tuple(AttemptHold(period_id, amount) for period_id in periods) if amount else ()
        attempt = replace(attempt, holds=holds if target is Account.SUSPENSE else ())
        self._keep_attempt(attempt)
        return True

    def post(self, posting: Posting) -> None:
        """Charge settled attempts that nobody charged before, all at once."""
        charge = Charge(str(posting.id), posting.lease_id, posting_id=posting.id)
        periods = self._charge(charge, posting.costs, Account.SETTLED, posting.uncovered)
        self.postings.append((posting, tuple(periods)))

    def resolve(
        self,
        attempt: Attempt,
        *,
        cost: int,
        by: ResolvedBy,
        usage: Attempt | None = None,
    ) -> None:
        """Replace the hold of an unknown attempt with what it truly cost; 0 means that it cost nothing."""
        kind = Kind.RELEASE if by is ResolvedBy.RELEASE else Kind.RECONCILE
        cause = f"resolve:{attempt.id}"
        for hold in attempt.holds:
            owed = min(cost, hold.amount)
            movements = [Movement(Account.SUSPENSE, Account.SETTLED, owed)]
            self._move(hold.period_id, kind, movements, cause, charge=_charge_of(attempt))
            back = self.periods[hold.period_id].balances.give_back(hold.amount - owed, Account.SUSPENSE)
            self._move(hold.period_id, kind, back, cause, charge=_charge_of(attempt))
            self._cover(hold.period_id, (cost - owed,), Account.SETTLED, kind, _charge_of(attempt))
        self.count(attempt, -1)
        told = usage or attempt
        resolved = replace(
            attempt,
            outcome=usage.outcome if usage else (Outcome.SETTLED if cost else Outcome.RELEASED),
            resolved_by=by,
            cost=cost,
            holds=(),
            input_tokens=told.input_tokens,
            output_tokens=told.output_tokens,
            price_version=told.price_version,
        )
        self._keep_attempt(resolved)
        self.count(resolved, 1)

    def _charge(
        self, charge: Charge, costs: tuple[int, ...], target: Account, uncovered: tuple[UUID, ...]
    ) -> list[UUID]:
        """Move the sum of the costs; returns the periods it was taken from."""
        kind = Kind.POST if target is Account.SETTLED else Kind.SUSPENSE
        periods = self._charge_lease(charge, costs, target, kind) if charge.lease_id else []
        for period_id in uncovered:
            self._cover(period_id, costs, target, kind, charge)
        return [*periods, *uncovered]

    def _charge_lease(
        self, charge: Charge, costs: tuple[int, ...], target: Account, kind: Kind
    ) -> list[UUID]:
        lease = self.leases.get(charge.lease_id) if charge.lease_id else None
        if lease is None:
            return []
        amount = sum(costs)
        allocations = []
        for allocation in lease.allocations:
            leased = min(amount, allocation.leased)
            suspense = min(amount - leased, allocation.suspense)
            movements = [Movement(Account.LEASED, target, leased)]
            if target is not Account.SUSPENSE:
                # An unknown attempt of a suspended lease stays in suspense; only its name there changes.
                movements.append(Movement(Account.SUSPENSE, target, suspense))
            self._move(allocation.period_id, kind, movements, f"{kind}:{charge.cause}", charge=charge)
            self._cover(allocation.period_id, costs, target, kind, charge, reserved=leased + suspense)
            allocations.append(
                replace(
                    allocation, leased=allocation.leased - leased, suspense=allocation.suspense - suspense
                )
            )
        kept = replace(lease, allocations=tuple(allocations), accounted=lease.accounted + amount)
        if kept.state is LeaseState.SUSPENDED and not kept.held:
            kept = replace(kept, state=LeaseState.CLOSED)
        self._settle_up(self._keep(kept))
        return [allocation.period_id for allocation in allocations]

    def _cover(
        self,
        period_id: UUID,
        costs: tuple[int, ...],
        target: Account,
        kind: Kind,
        charge: Charge,
        reserved: int = 0,
    ) -> None:
        """Commit what the costs are above what was `reserved` for them."""
        balances = self.periods[period_id].balances
        movements = balances.cover(sum(costs) - reserved, target)
        if any(movement.source is Account.EXCESS for movement in movements):
            spent = accumulate(costs)
            self.overspends += sum(each > reserved + balances.available for each in spent)
        self._move(period_id, kind, movements, f"cover:{kind}:{charge.cause}", charge=charge)

    def count(self, attempt: Attempt, sign: int) -> None:
        """Tell analytics of an attempt, or with a sign of -1 take back what they were told."""
        change = SpendChange(
            attempts=sign,
            cost=sign * attempt.cost,
            unknown=sign * (attempt.outcome is Outcome.UNKNOWN),
            input_tokens=sign * attempt.input_tokens,
            output_tokens=sign * attempt.output_tokens,
        )
        key = spend_key(attempt)
        self.spend[key] = self.spend.get(key, SpendChange()).plus(change)


def _charge_of(attempt: Attempt) -> Charge:
    return Charge(str(attempt.id), attempt.lease_id, attempt_id=attempt.id)
