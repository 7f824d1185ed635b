"""The working set of one transaction: what was locked, what was decided, what must be written.

Every rule about money is a method here. The store loads and locks rows into a book and writes its
changes back; the same methods run in tests without a database.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import accumulate
from uuid import UUID

from kairos_budget.domain.attempt import (
    Attempt,
    AttemptHold,
    Charge,
    Outcome,
    ResolvedBy,
    SpendChange,
    SpendKey,
    spend_key,
)
from kairos_budget.domain.budget import ScopeChain
from kairos_budget.domain.lease import (
    Allocation,
    Lease,
    LeaseState,
    NothingSuspended,
    Report,
    StaleEpoch,
    UnknownLease,
    slice_for,
)
from kairos_budget.domain.ledger import Account, Kind, Movement, Transfer, transfer_key
from kairos_budget.domain.period import Period
from kairos_budget.domain.posting import Posting
from kairos_budget.domain.priority import Priority
from kairos_budget.domain.rolling import Window


class BudgetExceeded(Exception):  # noqa: N818 - reads as the fact it states
    """A budget has less left than the least that is asked for; nothing is granted from any budget.

    `remaining` is what a lease of the same priority may still get of it, in nano-USD.
    """

    def __init__(self, period: Period, remaining: int, need: int) -> None:
        super().__init__(period.budget.name)
        self.period = period
        self.remaining = remaining
        self._need = need

    @property
    def recallable(self) -> bool:
        """Whether it would fit if holders gave unused money back."""
        return self._need <= self.remaining + self.period.balances.leased


@dataclass(frozen=True, slots=True)
class Timing:
    """When a lease stops granting holds, and when silence turns it into suspense."""

    expires_at: datetime
    suspend_after: datetime


@dataclass(slots=True)
class Book:
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

    # Leases ---------------------------------------------------------------------------------------

    def grant(
        self,
        lease_id: UUID,
        *,
        chain: ScopeChain,
        holder: str,
        want: int,
        need: int,
        holders: int,
        timing: Timing,
        priority: Priority | None = None,
        index_version: int = 0,
    ) -> Lease:
        """Reserve the same amount from every period in the book, or nothing. Raises BudgetExceeded."""
        granted = want
        if self.periods:
            tightest = min(self.periods.values(), key=lambda period: period.spendable(priority))
            remaining = tightest.spendable(priority)
            if need > remaining:
                raise BudgetExceeded(tightest, remaining, need)
            granted = slice_for(remaining=remaining, want=want, need=need, holders=holders)
            if any(period.recalling for period in self.periods.values()):
                granted = need
        lease = Lease(
            id=lease_id,
            chain=chain,
            holder=holder,
            epoch=1,
            state=LeaseState.OPEN,
            granted=0,
            grants=0,
            accounted=0,
            expected=None,
            expires_at=timing.expires_at,
            suspend_after=timing.suspend_after,
            allocations=tuple(
                Allocation(period.id, period.budget.id, period.bounds.ends_at)
                for period in sorted(self.periods.values(), key=lambda each: each.id)
            ),
            priority=priority,
            index_version=index_version,
        )
        return self._reserve(lease, granted)

    def top_up(self, lease: Lease, *, want: int, holders: int) -> int:
        """Grant up to `want` more to an open lease, possibly nothing; returns how much."""
        if lease.unlimited:
            granted = want
        else:
            periods = [self.periods[each.period_id] for each in lease.allocations]
            if any(period.recalling for period in periods):
                return 0
            available = min(period.spendable(lease.priority) for period in periods)
            granted = slice_for(remaining=available, want=want, need=0, holders=holders)
        if granted:
            self._reserve(lease, granted)
        return granted

    def _reserve(self, lease: Lease, amount: int) -> Lease:
        grants = lease.grants + 1
        allocations = []
        for allocation in lease.allocations:
            movements = self.periods[allocation.period_id].balances.reserve(amount)
            self._move(allocation.period_id, Kind.LEASE, movements, f"lease:{lease.id}:{grants}", lease.id)
            allocations.append(replace(allocation, leased=allocation.leased + amount))
        return self._keep(
            replace(lease, granted=lease.granted + amount, grants=grants, allocations=tuple(allocations))
        )

    def keep(self, lease: Lease, timing: Timing, report: Report) -> Lease:
        """Note that the holder is alive and what it last reported, and take what it gave back."""
        back = report.returned - lease.returned
        if back > 0:
            # The sum it ever returned, so that a heartbeat sent twice gives back once.
            lease = self._shrink(lease, back, f"shrink:{lease.id}:{report.returned}")
            lease = replace(lease, returned=report.returned)
        return self._keep(
            replace(
                lease,
                expires_at=timing.expires_at,
                suspend_after=timing.suspend_after,
                reported_settled=report.settled,
                reported_open=report.unsettled,
                open_holds=report.holds,
            )
        )

    def _shrink(self, lease: Lease, back: int, cause: str) -> Lease:
        allocations = []
        for allocation in lease.allocations:
            amount = min(back, allocation.leased)
            movements = self.periods[allocation.period_id].balances.give_back(amount, Account.LEASED)
            self._move(allocation.period_id, Kind.RETURN, movements, cause, lease.id)
            allocations.append(replace(allocation, leased=allocation.leased - amount))
        return lease.with_allocations(tuple(allocations))

    def close(
        self, lease_id: UUID, *, epoch: int, settled: int, suspend_after: datetime
    ) -> tuple[Lease, int]:
        """Take final figures and give back what is not owed; returns the lease and what was returned.

        What the holder reports as settled but usage events have not charged yet stays where it is until they
        arrive. Closing again changes nothing. Raises UnknownLease, StaleEpoch.
        """
        lease = self.lease(lease_id)
        if lease.epoch != epoch:
            raise StaleEpoch
        if lease.expected is not None or lease.state is LeaseState.CLOSED:
            return lease, 0
        expected = max(settled, lease.accounted)
        owed = expected - lease.accounted
        before = lease.held
        state = LeaseState.SUSPENDED if lease.state is LeaseState.SUSPENDED else LeaseState.CLOSING
        lease = replace(
            lease, expected=expected, state=state, suspend_after=suspend_after, reported_settled=settled
        )
        lease = self._give_back(lease, keep=owed, cause=f"close:{lease.id}")
        return self._settle_up(lease), before - lease.held

    def suspend(self, lease: Lease) -> int:
        """Move what a silent holder did not report to suspense; returns how much."""
        allocations = []
        for allocation in lease.allocations:
            movements = [Movement(Account.LEASED, Account.SUSPENSE, allocation.leased)]
            self._move(allocation.period_id, Kind.SUSPENSE, movements, f"suspend:{lease.id}", lease.id)
            allocations.append(replace(allocation, leased=0, suspense=allocation.held))
        kept = lease.with_allocations(tuple(allocations))
        state = LeaseState.SUSPENDED if kept.held else LeaseState.CLOSED
        self._keep(replace(kept, state=state))
        return kept.held

    def release(self, lease_id: UUID) -> int:
        """Give a lease's suspense back by an administrator's decision; returns how much.

        Raises UnknownLease, NothingSuspended.
        """
        lease = self.lease(lease_id)
        suspended = max((allocation.suspense for allocation in lease.allocations), default=0)
        if not suspended:
            raise NothingSuspended
        released = self._give_back(
            lease, keep=0, cause=f"release:{lease.id}:{lease.epoch}", kind=Kind.RELEASE
        )
        # The epoch moves on, so that a holder that wakes up can't close what is no longer its own.
        self._keep(replace(released, state=LeaseState.CLOSED, epoch=lease.epoch + 1))
        return suspended

    def settle_rest(self, lease_id: UUID, cause: str) -> int:
        """Give back all of a suspended lease because a complete record shows that nothing more was spent."""
        lease = self.lease(lease_id)
        rest = lease.held if lease.state is LeaseState.SUSPENDED else 0
        if rest:
            lease = self._give_back(lease, keep=0, cause=cause, kind=Kind.RECONCILE)
            self._keep(replace(lease, state=LeaseState.CLOSED, epoch=lease.epoch + 1))
        return rest

    def _give_back(self, lease: Lease, *, keep: int, cause: str, kind: Kind = Kind.RETURN) -> Lease:
        allocations = []
        for allocation in lease.allocations:
            leased = max(allocation.leased - keep, 0)
            suspense = max(allocation.suspense - max(keep - allocation.leased, 0), 0)
            for amount, account in ((leased, Account.LEASED), (suspense, Account.SUSPENSE)):
                movements = self.periods[allocation.period_id].balances.give_back(amount, account)
                self._move(allocation.period_id, kind, movements, cause, lease.id)
            allocations.append(
                replace(
                    allocation, leased=allocation.leased - leased, suspense=allocation.suspense - suspense
                )
            )
        return self._keep(lease.with_allocations(tuple(allocations)))

    def _settle_up(self, lease: Lease) -> Lease:
        if not lease.settled_up or lease.state is LeaseState.CLOSED:
            return lease
        lease = self._give_back(lease, keep=0, cause=f"complete:{lease.id}")
        return self._keep(replace(lease, state=LeaseState.CLOSED))

    def lease(self, lease_id: UUID) -> Lease:
        try:
            return self.leases[lease_id]
        except KeyError as error:
            raise UnknownLease(str(lease_id)) from error

    # Attempts -------------------------------------------------------------------------------------

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

    # Limits and windows ---------------------------------------------------------------------------

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

    # Bookkeeping ----------------------------------------------------------------------------------

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


def _charge_of(attempt: Attempt) -> Charge:
    return Charge(str(attempt.id), attempt.lease_id, attempt_id=attempt.id)
