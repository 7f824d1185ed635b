"""Take holds from leases in memory; ask the authority only when they do not reach."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from uuid import UUID, uuid4

from kairos_contracts.scopes import model_scope_id
from kairos_router.application.held_lease import HeldLease, Purse
from kairos_router.application.ports import (
    BudgetExceeded,
    Budgets,
    BudgetUnavailable,
    Grant,
    LeaseOver,
    Renewal,
    RenewalRequest,
)
from kairos_router.domain.ask import Caller
from kairos_router.domain.attempt import Hold, Outcome
from kairos_router.domain.lease import Balance
from kairos_router.domain.scope_index import Key, key_of

# After a refusal, holds that can't fit either are refused without a call for this long, so that
# an exhausted budget does not turn every request into several calls for money.
REFUSAL_REMEMBERED_S = 0.25
# A lease the authority gave nothing more is not topped up again before this, for the same reason.
DRY_S = 1.0
# Top-ups of a busy process are gathered for this long, so that a burst of holds is one call.
GATHER_S = 0.02
# A grant without an answer is closed after this when nobody asks for it again: it may have been made.
LOST_AFTER_S = 5.0


@dataclass(frozen=True)
class LeasePolicy:
    """`slice_nano_usd` is asked for at a time; `idle_after` seconds without a hold a lease is given back.

    `margin` seconds before its expiry a lease takes no new holds: clocks and networks are not exact.
    """

    slice_nano_usd: int = 500_000_000
    idle_after: float = 20.0
    margin: float = 0.5
    heartbeat: float = 3.0


class Wallet:
    """The leases of one process. Everything between two awaits is atomic: there is one event loop."""

    def __init__(
        self, budgets: Budgets, policy: LeasePolicy, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._budgets = budgets
        self._policy = policy
        self._clock = clock
        self._purses: dict[UUID, Purse] = {}
        self._by_id: dict[UUID, HeldLease] = {}
        self._asking: set[asyncio.Task[Hold]] = set()
        self.low = asyncio.Event()

    def try_hold(self, caller: Caller, amount: int, attempt_id: UUID, model: str = "") -> Hold | None:
        """A hold from what is here, without waiting; None when the leases of the scope do not reach."""
        now = self._clock()
        if not amount:
            return Hold(attempt_id, caller, 0, None, now, model)
        purse = self._purses.get(caller.scope.organisation_id)
        if purse is None or purse.index is None:
            return None
        key = purse.index.key(caller.scope, model, caller.priority or "normal")
        lease = purse.serving(key, amount, now)
        return None if lease is None else self._take(lease, caller, amount, attempt_id, now, model)

    async def hold(self, caller: Caller, amount: int, attempt_id: UUID, model: str = "") -> Hold:
        """A hold, asking the authority when needed. Raises BudgetExceeded, BudgetUnavailable."""
        hold = self.try_hold(caller, amount, attempt_id, model)
        if hold is not None:
            return hold
        purse = self._purses.setdefault(caller.scope.organisation_id, Purse())
        key = await self._key(purse, caller, model)
        self._raise_if_refused(purse, key, amount)
        async with purse.locks.setdefault(key, asyncio.Lock()):
            hold = self.try_hold(caller, amount, attempt_id, model)
            if hold is not None:
                return hold
            self._raise_if_refused(purse, key, amount)
            await self._give_back_unused(purse, key)
            asked = Hold(attempt_id, caller, amount, None, 0.0, model)
            try:
                return await self._ask_for(purse, key, asked)
            except BudgetExceeded:
                # Money lying unused in our own leases would make the authority say no to what in truth fits.
                if not await self._recall_own(purse):
                    raise
                return await self._ask_for(purse, key, asked)

    def extend(self, hold: Hold, amount: int) -> Hold | None:
        """The same hold grown to `amount`, from what is here; None when no lease reaches.

        It moves to another lease when its own has too little free: nothing of it has been charged yet.
        """
        lease = self._by_id.get(hold.lease_id) if hold.lease_id else None
        if lease is None or hold.attempt_id not in lease.holds:
            return None
        now, more = self._clock(), amount - lease.holds[hold.attempt_id].amount
        if more <= 0:
            return lease.holds[hold.attempt_id]
        if lease.serves(more, now):
            lease.balance = lease.balance.take(more)
            grown = lease.holds[hold.attempt_id] = replace(hold, amount=amount)
            self._used(lease, now)
            return grown
        purse = self._purses.get(hold.caller.scope.organisation_id)
        if purse is None or purse.index is None:
            return None
        priority = hold.caller.priority or "normal"
        key = purse.index.key(hold.caller.scope, hold.model, priority)
        other = purse.serving(key, amount, now)
        if other is None:
            return None
        self.finish(hold, "released", 0)
        return self._take(other, hold.caller, amount, hold.attempt_id, now, hold.model, hold.taken_at)

    async def widen(self, hold: Hold, amount: int) -> None:
        """Get enough money here that `extend` reaches. Raises BudgetExceeded, BudgetUnavailable."""
        lease = self._by_id.get(hold.lease_id) if hold.lease_id else None
        more = amount - hold.amount
        if lease is not None and not lease.retired:
            await self._renew([lease], want=more)
            if lease.serves(more, self._clock()):
                return
        spare = await self.hold(hold.caller, amount, uuid4(), hold.model)
        self.finish(spare, "released", 0)

    def finish(self, hold: Hold, outcome: Outcome, cost: int) -> None:
        """End a hold: settled at `cost`, released at 0, unknown at the whole hold."""
        lease = self._by_id.get(hold.lease_id) if hold.lease_id else None
        if lease is None:
            return
        held = lease.holds.pop(hold.attempt_id, None)
        if held is None:
            return
        charge = held.amount if outcome == "unknown" else cost
        lease.balance = lease.balance.settle(held.amount, charge)
        purse = self._purses.get(lease.scope.organisation_id)
        if purse is not None and purse.refused:
            purse.refused.clear()
        if not lease.holds and lease.retired:
            self.low.set()

    def unlimited(self, hold: Hold) -> bool:
        """Whether no budget applies to what the hold was taken for."""
        lease = self._by_id.get(hold.lease_id) if hold.lease_id else None
        return lease is not None and lease.balance.unlimited

    def forget(self, organisation_id: UUID) -> None:
        """The organisation's budgets changed: its leases take no more holds, so that all is asked anew."""
        purse = self._purses.get(organisation_id)
        if purse is None:
            return
        purse.index = None
        purse.refused.clear()
        for lease in purse.all():
            lease.retired = True
        self.low.set()

    def leases(self) -> Iterator[HeldLease]:
        yield from self._by_id.values()

    async def maintain(self) -> None:
        """One round: heartbeat with figures and top-up, and give back what is retired, idle or lost."""
        now = self._clock()
        for lease in list(self._by_id.values()):
            if not lease.holds and now - lease.used_at > self._policy.idle_after:
                lease.retired = True
            elif lease.balance.free > 2 * self._aim(lease):
                lease.shrink(self._aim(lease))
        await self._renew([lease for lease in self._by_id.values() if lease.holds or not lease.retired])
        for lease in [lease for lease in self._by_id.values() if lease.retired and not lease.holds]:
            await self._close(lease)
        await self._close_lost(now)
        for organisation_id in [each for each, purse in self._purses.items() if purse.empty]:
            del self._purses[organisation_id]

    async def keep(self) -> None:
        """Maintain until cancelled: at every heartbeat, and as soon as a lease runs low."""
        while True:
            try:
                await self.maintain()
            except BudgetUnavailable:
                # The leases serve until they expire; the next round tries again.
                await asyncio.sleep(min(1.0, self._policy.heartbeat))
            try:
                async with asyncio.timeout(self._policy.heartbeat):
                    await self.low.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(GATHER_S)
            self.low.clear()

    async def close(self) -> None:
        """Give everything back. A lease with an open hold stays: only its expiry tells what became of it."""
        for lease in list(self._by_id.values()):
            lease.retired = True
            if lease.holds:
                continue
            try:
                await self._close(lease)
            except BudgetUnavailable:
                return

    def _take(
        self,
        lease: HeldLease,
        caller: Caller,
        amount: int,
        attempt_id: UUID,
        now: float,
        model: str,
        taken_at: float | None = None,
    ) -> Hold:
        lease.balance = lease.balance.take(amount)
        hold = Hold(attempt_id, caller, amount, lease.lease_id, now if taken_at is None else taken_at, model)
        lease.holds[attempt_id] = hold
        self._used(lease, now)
        return hold

    def _used(self, lease: HeldLease, now: float) -> None:
        lease.used_at = now
        if now >= lease.dry_until and self._wanted(lease):
            self.low.set()

    def _aim(self, lease: HeldLease) -> int:
        # The aim grows with what is in use, so that many requests at once do not each ask.
        return max(self._policy.slice_nano_usd, lease.balance.held)

    def _wanted(self, lease: HeldLease) -> int:
        """How much more the lease should have: it is topped up when less than half its aim is free."""
        balance = lease.balance
        if balance.unlimited or lease.retired:
            return 0
        aim = self._aim(lease)
        return aim - balance.free if balance.free < aim // 2 else 0

    async def _key(self, purse: Purse, caller: Caller, model: str) -> Key:
        """Where leases for this request are kept, by an index that is read first when it is missing."""
        async with purse.reading:
            while purse.index is None:
                purse.index = await self._budgets.scopes(caller.scope.organisation_id)
        return purse.index.key(caller.scope, model, caller.priority or "normal")

    def _raise_if_refused(self, purse: Purse, key: Key, amount: int) -> None:
        remembered = purse.refused.get(key)
        if remembered is None:
            return
        until, refusal = remembered
        if self._clock() >= until:
            del purse.refused[key]
        elif amount > refusal.remaining:
            raise BudgetExceeded(refusal)

    async def _give_back_unused(self, purse: Purse, key: Key) -> None:
        for lease in list(purse.leases.get(key, ())):
            if not lease.holds:
                lease.retired = True
                await self._close(lease)

    async def _recall_own(self, purse: Purse) -> bool:
        """Give back what lies free in leases of other chains of the organisation; whether there was any."""
        now = self._clock()
        shrunk = [lease for lease in purse.all() if lease.shrink(0)]
        for lease in shrunk:
            lease.dry_until = now + DRY_S
        await self._renew(shrunk)
        return bool(shrunk)

    async def _ask_for(self, purse: Purse, key: Key, wish: Hold) -> Hold:
        # Shielded: a grant whose caller has gone must still arrive here, or its money would be lost to
        # everyone until the lease expires.
        asking = asyncio.create_task(self._ask(purse, key, wish))
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            asking.add_done_callback(self._release_orphan)
            raise

    def _release_orphan(self, asking: asyncio.Task[Hold]) -> None:
        if not asking.cancelled() and asking.exception() is None:
            self.finish(asking.result(), "released", 0)

    async def _ask(self, purse: Purse, key: Key, wish: Hold) -> Hold:
        caller, amount = wish.caller, wish.amount
        scope = replace(caller.scope, model_id=model_scope_id(wish.model))
        want = max(self._policy.slice_nano_usd, amount)
        while True:
            asked_at = self._clock()
            # A grant whose answer was lost is asked for again by its id, so that it is not granted twice.
            lease_id, _ = purse.unanswered.setdefault(key, (uuid4(), asked_at))
            try:
                grant = await self._budgets.grant(
                    scope, lease_id, want=want, need=amount, priority=caller.priority or "normal"
                )
            except LeaseOver:
                # It was granted for another chain, or is over; whatever it held goes back.
                await self._budgets.close(lease_id, epoch=1, settled=0)
                purse.unanswered.pop(key, None)
                continue
            except BudgetExceeded as error:
                purse.unanswered.pop(key, None)
                purse.refused[key] = (self._clock() + REFUSAL_REMEMBERED_S, error.refusal)
                raise
            purse.unanswered.pop(key, None)
            lease = self._add(purse, grant, asked_at)
            if lease.balance.fits(amount):
                # Taken here and not by the waiter, who runs later: another request could be faster.
                return self._take(lease, caller, amount, wish.attempt_id, self._clock(), wish.model)
            # An older grant came back that is too small for this request; it serves others.

    def _add(self, purse: Purse, grant: Grant, asked_at: float) -> HeldLease:
        lease = HeldLease(
            lease_id=grant.lease_id,
            epoch=grant.epoch,
            scope=grant.scope,
            key=key_of(grant.scope, grant.priority),
            balance=Balance(grant.granted, unlimited=grant.unlimited),
            expires_at=self._expiry(asked_at, grant.expires_in),
            used_at=asked_at,
        )
        self._by_id[lease.lease_id] = lease
        # The purse may have been emptied and removed while the answer was on its way.
        self._purses.setdefault(grant.scope.organisation_id, purse).add(lease)
        purse.outdated(grant.index_version)
        return lease

    def _expiry(self, asked_at: float, expires_in: float) -> float:
        return asked_at + expires_in - self._policy.margin

    async def _renew(self, leases: list[HeldLease], *, want: int = 0) -> None:
        if not leases:
            return
        asked_at = self._clock()
        requests = [
            RenewalRequest(
                lease.lease_id,
                lease.epoch,
                lease.balance.settled,
                lease.balance.held,
                max(0 if asked_at < lease.dry_until else self._wanted(lease), want),
                lease.returned,
                tuple(lease.old_holds(asked_at)),
            )
            for lease in leases
        ]
        for renewal in await self._budgets.renew(requests):
            self._apply(renewal, asked_at)

    def _apply(self, renewal: Renewal, asked_at: float) -> None:
        lease = self._by_id.get(renewal.lease_id)
        if lease is None:
            return
        purse = self._purses.get(lease.scope.organisation_id)
        if purse is not None:
            purse.outdated(renewal.index_version)
        if renewal.status == "ok":
            lease.balance = lease.balance.extend(renewal.granted_more)
            if not renewal.granted_more:
                lease.dry_until = self._clock() + DRY_S
            lease.expires_at = self._expiry(asked_at, renewal.expires_in)
            if renewal.keep is not None and lease.shrink(renewal.keep):
                self.low.set()
        elif renewal.status == "expired":
            lease.retired = True
        else:
            # Its open holds end by their usage events; there is nothing left to close.
            self._drop(lease)

    async def _close(self, lease: HeldLease) -> None:
        await self._budgets.close(lease.lease_id, epoch=lease.epoch, settled=lease.balance.settled)
        self._drop(lease)

    async def _close_lost(self, now: float) -> None:
        """Close grants that nobody asks for any more; one that never happened is nothing to the authority."""
        for purse in list(self._purses.values()):
            for key, (lease_id, asked_at) in list(purse.unanswered.items()):
                lock = purse.locks.get(key)
                if now - asked_at > LOST_AFTER_S and not (lock and lock.locked()):
                    await self._budgets.close(lease_id, epoch=1, settled=0)
                    purse.unanswered.pop(key, None)

    def _drop(self, lease: HeldLease) -> None:
        self._by_id.pop(lease.lease_id, None)
        purse = self._purses.get(lease.scope.organisation_id)
        if purse is not None:
            purse.drop(lease)
