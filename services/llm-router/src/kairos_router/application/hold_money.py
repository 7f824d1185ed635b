"""Take holds from leases in memory; ask the authority only when they do not reach."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from kairos_router.application.ports import (
    BudgetExceeded,
    Budgets,
    BudgetUnavailable,
    Grant,
    LeaseOver,
    Refusal,
    Renewal,
    RenewalRequest,
)
from kairos_router.domain.ask import Caller
from kairos_router.domain.attempt import Hold, Outcome
from kairos_router.domain.lease import Balance, Scope

# After a refusal, holds that can't fit either are refused without a call for this long, so that
# an exhausted budget does not turn every request into several calls for money.
REFUSAL_REMEMBERED_S = 0.25
# A lease the authority gave nothing more is not topped up again before this, for the same reason.
DRY_S = 1.0
# Top-ups of a busy process are gathered for this long, so that a burst of holds is one call.
GATHER_S = 0.02


@dataclass(frozen=True)
class LeasePolicy:
    """`slice_nano_usd` is asked for at a time; `idle_after` seconds without a hold a lease is given back.

    `margin` seconds before its expiry a lease takes no new holds: clocks and networks are not exact.
    """

    slice_nano_usd: int = 500_000_000
    idle_after: float = 20.0
    margin: float = 0.5
    heartbeat: float = 3.0


@dataclass(eq=False)
class HeldLease:
    """A lease this process holds. `retired` ones take no more holds and are closed when the last one ends."""

    lease_id: UUID
    epoch: int
    scope: Scope
    balance: Balance
    expires_at: float
    used_at: float
    dry_until: float = 0.0
    retired: bool = False
    holds: dict[UUID, Hold] = field(default_factory=dict)

    def serves(self, amount: int, now: float) -> bool:
        return not self.retired and now < self.expires_at and self.balance.fits(amount)


class Wallet:
    """The leases of one process. Everything between two awaits is atomic: there is one event loop."""

    def __init__(
        self, budgets: Budgets, policy: LeasePolicy, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._budgets = budgets
        self._policy = policy
        self._clock = clock
        self._by_scope: dict[Scope, list[HeldLease]] = {}
        self._by_id: dict[UUID, HeldLease] = {}
        self._locks: dict[Scope, asyncio.Lock] = {}
        self._refused: dict[Scope, tuple[float, Refusal]] = {}
        self._unanswered: dict[Scope, UUID] = {}
        self._asking: set[asyncio.Task[Hold]] = set()
        self.low = asyncio.Event()

    def try_hold(self, caller: Caller, amount: int, attempt_id: UUID) -> Hold | None:
        """A hold from what is here, without waiting; None when the leases of the scope do not reach."""
        now = self._clock()
        if not amount:
            return Hold(attempt_id, caller, 0, None, now)
        for lease in self._by_scope.get(caller.scope, ()):
            if lease.serves(amount, now):
                return self._take(lease, caller, amount, attempt_id, now)
        return None

    async def hold(self, caller: Caller, amount: int, attempt_id: UUID) -> Hold:
        """A hold, asking the authority when needed. Raises BudgetExceeded, BudgetUnavailable."""
        hold = self.try_hold(caller, amount, attempt_id)
        if hold is not None:
            return hold
        scope = caller.scope
        self._raise_if_refused(scope, amount)
        async with self._locks.setdefault(scope, asyncio.Lock()):
            hold = self.try_hold(caller, amount, attempt_id)
            if hold is not None:
                return hold
            self._raise_if_refused(scope, amount)
            await self._give_back_unused(scope)
            return await self._ask_for(caller, amount, attempt_id)

    def finish(self, hold: Hold, outcome: Outcome, cost: int) -> None:
        """End a hold: settled at `cost`, released at 0, unknown at the whole hold."""
        lease = self._by_id.get(hold.lease_id) if hold.lease_id else None
        if lease is None or lease.holds.pop(hold.attempt_id, None) is None:
            return
        charge = hold.amount if outcome == "unknown" else cost
        lease.balance = lease.balance.settle(hold.amount, charge)
        self._refused.pop(lease.scope, None)
        if not lease.holds and lease.retired:
            self.low.set()

    def unlimited(self, hold: Hold) -> bool:
        """Whether no budget applies to what the hold was taken for."""
        lease = self._by_id.get(hold.lease_id) if hold.lease_id else None
        return lease is not None and lease.balance.unlimited

    def forget(self, organisation_id: UUID) -> None:
        """The organisation's budgets changed: its leases take no more holds, so that all is asked anew."""
        for lease in self._by_id.values():
            if lease.scope.organisation_id == organisation_id:
                lease.retired = True
        for scope in [scope for scope in self._refused if scope.organisation_id == organisation_id]:
            del self._refused[scope]
        self.low.set()

    def leases(self) -> Iterator[HeldLease]:
        yield from self._by_id.values()

    async def maintain(self) -> None:
        """One round: heartbeat with figures and top-up, and give back what is retired or idle."""
        now = self._clock()
        for lease in list(self._by_id.values()):
            if not lease.holds and now - lease.used_at > self._policy.idle_after:
                lease.retired = True
        await self._renew([lease for lease in self._by_id.values() if lease.holds or not lease.retired])
        for lease in [lease for lease in self._by_id.values() if lease.retired and not lease.holds]:
            await self._close(lease)

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

    def _take(self, lease: HeldLease, caller: Caller, amount: int, attempt_id: UUID, now: float) -> Hold:
        lease.balance = lease.balance.take(amount)
        hold = Hold(attempt_id, caller, amount, lease.lease_id, now)
        lease.holds[attempt_id] = hold
        lease.used_at = now
        if now >= lease.dry_until and self._wanted(lease):
            self.low.set()
        return hold

    def _wanted(self, lease: HeldLease) -> int:
        """How much more the lease should have: it is topped up when less than half its aim is free.

        The aim grows with what is in use, so that many requests at once do not each ask.
        """
        balance = lease.balance
        if balance.unlimited or lease.retired:
            return 0
        aim = max(self._policy.slice_nano_usd, balance.held)
        return aim - balance.free if balance.free < aim // 2 else 0

    def _raise_if_refused(self, scope: Scope, amount: int) -> None:
        remembered = self._refused.get(scope)
        if remembered is None:
            return
        until, refusal = remembered
        if self._clock() >= until:
            del self._refused[scope]
        elif amount > refusal.remaining:
            raise BudgetExceeded(refusal)

    async def _give_back_unused(self, scope: Scope) -> None:
        # Money lying unused in our own leases would make the authority say no to what in truth fits.
        for lease in list(self._by_scope.get(scope, ())):
            if not lease.holds:
                lease.retired = True
                await self._close(lease)

    async def _ask_for(self, caller: Caller, amount: int, attempt_id: UUID) -> Hold:
        # Shielded: a grant whose caller has gone must still arrive here, or its money would be lost to
        # everyone until the lease expires.
        asking = asyncio.create_task(self._ask(caller, amount, attempt_id))
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

    async def _ask(self, caller: Caller, amount: int, attempt_id: UUID) -> Hold:
        scope = caller.scope
        want = max(self._policy.slice_nano_usd, amount)
        while True:
            asked_at = self._clock()
            # A grant whose answer was lost is asked for again by its id, so that it is not granted twice.
            lease_id = self._unanswered.setdefault(scope, uuid4())
            try:
                grant = await self._budgets.grant(scope, lease_id, want=want, need=amount)
            except LeaseOver:
                self._unanswered.pop(scope, None)
                continue
            except BudgetExceeded as error:
                self._unanswered.pop(scope, None)
                self._refused[scope] = (self._clock() + REFUSAL_REMEMBERED_S, error.refusal)
                raise
            self._unanswered.pop(scope, None)
            lease = self._add(scope, grant, asked_at)
            if lease.balance.fits(amount):
                # Taken here and not by the waiter, who runs later: another request could be faster.
                return self._take(lease, caller, amount, attempt_id, self._clock())
            # An older grant came back that is too small for this request; it serves others.

    def _add(self, scope: Scope, grant: Grant, asked_at: float) -> HeldLease:
        lease = HeldLease(
            lease_id=grant.lease_id,
            epoch=grant.epoch,
            scope=scope,
            balance=Balance(grant.granted, unlimited=grant.unlimited),
            expires_at=self._expiry(asked_at, grant.expires_in),
            used_at=asked_at,
        )
        self._by_id[lease.lease_id] = lease
        self._by_scope.setdefault(scope, []).append(lease)
        return lease

    def _expiry(self, asked_at: float, expires_in: float) -> float:
        return asked_at + expires_in - self._policy.margin

    async def _renew(self, leases: list[HeldLease]) -> None:
        if not leases:
            return
        asked_at = self._clock()
        requests = [
            RenewalRequest(
                lease.lease_id, lease.epoch, lease.balance.settled, lease.balance.held, self._wanted(lease)
            )
            for lease in leases
        ]
        for renewal in await self._budgets.renew(requests):
            self._apply(renewal, asked_at)

    def _apply(self, renewal: Renewal, asked_at: float) -> None:
        lease = self._by_id.get(renewal.lease_id)
        if lease is None:
            return
        if renewal.status == "ok":
            lease.balance = lease.balance.extend(renewal.granted_more)
            if not renewal.granted_more:
                lease.dry_until = self._clock() + DRY_S
            lease.expires_at = self._expiry(asked_at, renewal.expires_in)
        elif renewal.status == "expired":
            lease.retired = True
        else:
            # Its open holds end by their usage events; there is nothing left to close.
            self._drop(lease)

    async def _close(self, lease: HeldLease) -> None:
        await self._budgets.close(lease.lease_id, epoch=lease.epoch, settled=lease.balance.settled)
        self._drop(lease)

    def _drop(self, lease: HeldLease) -> None:
        self._by_id.pop(lease.lease_id, None)
        siblings = self._by_scope.get(lease.scope, [])
        if lease in siblings:
            siblings.remove(lease)
        if not siblings:
            self._by_scope.pop(lease.scope, None)
            lock = self._locks.get(lease.scope)
            if lock is not None and not lock.locked():
                del self._locks[lease.scope]
