"""Leases: reserve money for a router, and take back what it does not use."""

from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from kairos_budget.domain.budget import ScopeChain
from kairos_budget.domain.entries import Entries
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
from kairos_budget.domain.ledger import Account, Kind, Movement
from kairos_budget.domain.period import Period
from kairos_budget.domain.priority import Priority


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
class Leasing(Entries):
    """What may be done with leases."""

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
