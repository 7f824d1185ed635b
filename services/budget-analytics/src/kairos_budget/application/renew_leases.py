"""A router's heartbeat: it is alive, this is what it spent and gave back, and it may want more."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal
from uuid import UUID

from kairos_budget.application.grant_lease import milliseconds
from kairos_budget.application.ports import LeasePolicy, Money, Pressure, Transaction
from kairos_budget.domain.book import Book, Timing
from kairos_budget.domain.budget import Budget, Scope, ScopeKey, applicable
from kairos_budget.domain.lease import Lease, LeaseState, Report, Retirement
from kairos_budget.domain.period import SCARCE_PART

Fate = Retirement | Literal["ok", "unknown"]


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a holder says about one lease. Amounts are nano-USD."""

    lease_id: UUID
    epoch: int
    report: Report
    want_more: int = 0


@dataclass(frozen=True, slots=True)
class Renewal:
    """ok: go on. expired: take no new hold, close it when the last is settled. unknown: no such lease.

    `keep` is the most the holder may keep beyond its open holds; it gives the rest back with its next
    heartbeat. None: as much as it has.
    """

    lease_id: UUID
    status: Literal["ok", "expired", "unknown"]
    reason: Retirement | None = None
    granted_more: int = 0
    expires_in_ms: int = 0
    index_version: int = 0
    keep: int | None = None


@dataclass(slots=True)
class _Round:
    """What was read before periods are locked."""

    fates: dict[UUID, Fate]
    versions: dict[UUID, int]
    pressure: dict[UUID, Pressure] = field(default_factory=dict)
    holders: int = 1


@dataclass(frozen=True, slots=True)
class RenewLeases:
    money: Money
    policy: LeasePolicy

    async def __call__(self, holder: str, beats: Sequence[Heartbeat]) -> list[Renewal]:
        async with self.money.system() as tx:
            book = Book()
            await tx.lock_leases(book, {beat.lease_id for beat in beats})
            versions = await tx.index_versions(
                {lease.chain.organisation_id for lease in book.leases.values()}
            )
            budgets = await tx.budgets_of(
                {key for lease in book.leases.values() for key in lease.chain.scopes()}
            )
            outgrown = await _outgrown(tx, book.leases.values(), versions)
            now = await tx.now()
            round_ = _Round({}, versions)
            for beat in beats:
                lease = book.leases.get(beat.lease_id)
                fate = _fate(lease, beat, holder, budgets, now)
                grown = fate == "ok" and beat.lease_id in outgrown
                round_.fates[beat.lease_id] = "budgets_changed" if grown else fate
            await self._lock(tx, book, beats, round_, holder)
            now = await tx.now()
            renewals = [self._renew(book, beat, round_, now) for beat in beats]
            await tx.save(book)
        return renewals

    async def _lock(
        self, tx: Transaction, book: Book, beats: Collection[Heartbeat], round_: _Round, holder: str
    ) -> None:
        """Lock the periods of leases that want more or give back; of the others only look at the figures."""
        kept = [beat for beat in beats if round_.fates[beat.lease_id] in {"ok", *_STILL_ALIVE}]
        held = {each.period_id for beat in kept for each in book.leases[beat.lease_id].allocations}
        if not held:
            return
        round_.pressure = await tx.pressure_on(held)
        hungry = [beat for beat in kept if beat.want_more and round_.fates[beat.lease_id] == "ok"]
        back = [beat for beat in kept if beat.report.returned > book.leases[beat.lease_id].returned]
        moving = {
            each.period_id for beat in (*hungry, *back) for each in book.leases[beat.lease_id].allocations
        }
        if moving:
            await tx.lock_periods(book, moving)
        if hungry:
            round_.holders += await tx.count_holders(moving, besides=holder)

    def _renew(self, book: Book, beat: Heartbeat, round_: _Round, now: datetime) -> Renewal:
        fate = round_.fates[beat.lease_id]
        if fate == "unknown":
            return Renewal(beat.lease_id, "unknown")
        lease = book.leases[beat.lease_id]
        version = round_.versions[lease.chain.organisation_id]
        if fate == "ok":
            timing = self.policy.timing(now, [each.ends_at for each in lease.allocations])
            lease = book.keep(replace(lease, index_version=version), timing, beat.report)
            granted = book.top_up(lease, want=beat.want_more, holders=round_.holders) if beat.want_more else 0
            left = milliseconds(timing.expires_at.timestamp() - now.timestamp())
            keep = None if granted else _keep(lease, round_.pressure, book)
            return Renewal(lease.id, "ok", None, granted, left, version, keep)
        if fate in _STILL_ALIVE:
            # Its holder lives and has holds to finish: it gets no more time to spend, but is not suspended.
            timing = Timing(min(lease.expires_at, now), self.policy.timing(now, []).suspend_after)
            book.keep(lease, timing, beat.report)
        return Renewal(lease.id, "expired", reason=fate, index_version=version)


_STILL_ALIVE: frozenset[Fate] = frozenset({"period_ended", "budgets_changed"})


def _keep(lease: Lease, pressure: Mapping[UUID, Pressure], book: Book) -> int | None:
    """How much free money the lease may keep: none where it is missing, a fair share where it is scarce."""
    free = lease.granted - lease.returned - lease.reported_settled - lease.reported_open
    keep: int | None = None
    for period_id in (each.period_id for each in lease.allocations):
        found, locked = pressure[period_id], book.periods.get(period_id)
        if found.recalling or found.excess:
            return 0
        available = locked.balances.available if locked else found.available
        if available * SCARCE_PART < found.limit:
            share = (available + max(free, 0)) // (2 * found.holders)
            keep = share if keep is None else min(keep, share)
    # Half as much again is let be, or leases would shrink and grow in turns.
    return keep if keep is not None and 2 * free > 3 * keep else None


async def _outgrown(tx: Transaction, leases: Collection[Lease], versions: Mapping[UUID, int]) -> set[UUID]:
    """Leases whose requests may spend in a scope that has had no budget when they were granted.

    Such a scope is of a kind that the lease's chain does not name; requests in it belong on a wider chain.
    """
    known: dict[UUID, int] = {}
    for lease in leases:
        organisation_id = lease.chain.organisation_id
        if lease.index_version < versions[organisation_id]:
            known[organisation_id] = min(lease.index_version, known.get(organisation_id, lease.index_version))
    if not known:
        return set()
    added = await tx.scopes_since(known)
    return {lease.id for lease in leases if any(_misses(lease, key, version) for key, version in added)}


def _misses(lease: Lease, key: ScopeKey, version: int) -> bool:
    ours = key.organisation_id == lease.chain.organisation_id and key.scope is not Scope.ORGANISATION
    return ours and version > lease.index_version and lease.chain.lacks(key.scope)


def _fate(
    lease: Lease | None, beat: Heartbeat, holder: str, budgets: Sequence[Budget], now: datetime
) -> Fate:
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
    found = applicable(budgets, lease.chain)
    reserved = lease.priority is None and any(budget.reserves for budget in found)
    same = {budget.id for budget in found} == {each.budget_id for each in lease.allocations}
    return "ok" if same and not reserved else "budgets_changed"
