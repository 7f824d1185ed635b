"""A router's heartbeat: it is alive, this is what it spent, and it may want more."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from kairos_budget.application.grant_lease import milliseconds
from kairos_budget.application.ports import LeasePolicy, Money, Transaction
from kairos_budget.domain.book import Book, Timing
from kairos_budget.domain.budget import Budget, applicable
from kairos_budget.domain.lease import Lease, LeaseState, Retirement


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a holder says about one lease. `settled` and `unsettled` (open holds) are nano-USD."""

    lease_id: UUID
    epoch: int
    settled: int
    unsettled: int
    want_more: int


@dataclass(frozen=True, slots=True)
class Renewal:
    """ok: go on. expired: take no new hold, close it when the last is settled. unknown: no such lease."""

    lease_id: UUID
    status: Literal["ok", "expired", "unknown"]
    reason: Retirement | None = None
    granted_more: int = 0
    expires_in_ms: int = 0


@dataclass(frozen=True, slots=True)
class RenewLeases:
    money: Money
    policy: LeasePolicy

    async def __call__(self, holder: str, beats: Sequence[Heartbeat]) -> list[Renewal]:
        async with self.money.system() as tx:
            book = Book()
            await tx.lock_leases(book, {beat.lease_id for beat in beats})
            budgets = await tx.budgets_of(
                {key for lease in book.leases.values() for key in lease.chain.scopes()}
            )
            now = await tx.now()
            fates = {
                beat.lease_id: _fate(book.leases.get(beat.lease_id), beat, holder, budgets, now)
                for beat in beats
            }
            hungry = [beat for beat in beats if beat.want_more and fates[beat.lease_id] == "ok"]
            holders = await self._lock_wanted(tx, book, hungry, holder)
            now = await tx.now()
            renewals = [self._renew(book, beat, fates[beat.lease_id], holders, now) for beat in beats]
            await tx.save(book)
        return renewals

    async def _lock_wanted(
        self, tx: Transaction, book: Book, hungry: Collection[Heartbeat], holder: str
    ) -> int:
        ids = {each.period_id for beat in hungry for each in book.leases[beat.lease_id].allocations}
        if not ids:
            return 1
        await tx.lock_periods(book, ids)
        return 1 + await tx.count_holders(ids, besides=holder)

    def _renew(
        self,
        book: Book,
        beat: Heartbeat,
        fate: Retirement | Literal["ok", "unknown"],
        holders: int,
        now: datetime,
    ) -> Renewal:
        if fate == "unknown":
            return Renewal(beat.lease_id, "unknown")
        lease = book.leases[beat.lease_id]
        if fate == "ok":
            timing = self.policy.timing(now, [each.ends_at for each in lease.allocations])
            lease = book.keep(lease, timing, settled=beat.settled, unsettled=beat.unsettled)
            granted = book.top_up(lease, want=beat.want_more, holders=holders) if beat.want_more else 0
            left = milliseconds(timing.expires_at.timestamp() - now.timestamp())
            return Renewal(lease.id, "ok", granted_more=granted, expires_in_ms=left)
        if fate in {"period_ended", "budgets_changed"}:
            # Its holder lives and has holds to finish: it gets no more time to spend, but is not suspended.
            timing = Timing(min(lease.expires_at, now), self.policy.timing(now, []).suspend_after)
            book.keep(lease, timing, settled=beat.settled, unsettled=beat.unsettled)
        return Renewal(lease.id, "expired", reason=fate)


def _fate(
    lease: Lease | None, beat: Heartbeat, holder: str, budgets: Sequence[Budget], now: datetime
) -> Retirement | Literal["ok", "unknown"]:
    if lease is None or lease.holder != holder:
        return "unknown"
    if lease.epoch != beat.epoch:
        return "stale_epoch"
    if lease.state is LeaseState.SUSPENDED:
        return "suspended"
    if lease.state is not LeaseState.OPEN:
        return "closed"
    if any(each.ends_at is not None and each.ends_at <= now for each in lease.allocations):
        return "period_ended"
    applies = {budget.id for budget in applicable(budgets, lease.chain)}
    return "ok" if applies == {each.budget_id for each in lease.allocations} else "budgets_changed"
