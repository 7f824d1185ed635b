"""Admit requests within the quotas. A warm request is admitted from slices in memory and waits for nothing.

The authority is asked when a slice runs low, in the background when there is time. When it is away, a
process uses its share of each limit (limit / processes seen lately) and tells afterwards what it used.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from uuid import UUID

from kairos_router.application.admitted import UNLIMITED, Admitted, Unlimited
from kairos_router.application.quota_counters import CallerQuotas, Counter, rate_limit_headers, told
from kairos_router.application.quota_ports import (
    AuthorityAway,
    Claim,
    QuotaAuthority,
    QuotaExceeded,
    QuotaRules,
    QuotasUnknown,
    Share,
    Taken,
)
from kairos_router.domain.ask import Caller
from kairos_router.domain.quota import Metric, Quota, QuotaScope, subject_of

UNKNOWN_REPLICAS = 4
"""Processes assumed until the authority has told: a process that starts without it uses a quarter."""
HEARTBEAT_S = 1.0
REFILL_PAUSE_S = 0.02
IDLE_S = 2.0
SPARE_SLOTS = 8
MAX_CALLERS = 50_000
MAX_RECENT = 10_000
REMEMBER_REFUSAL_S = 0.25
CLAIMS_PER_CALL = 100


class Quotas:
    """The quotas of this process. `keep` runs for its life; `refused` is told of every refusal."""

    def __init__(
        self,
        authority: QuotaAuthority,
        rules: QuotaRules,
        holder: str,
        *,
        refused: Callable[[Quota], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.clock = clock
        self._authority = authority
        self._store = rules
        self._holder = holder
        self._refused = refused
        self._wall = wall
        self._rules: dict[UUID, tuple[Quota, ...]] | None = None
        self._sets: OrderedDict[tuple[UUID | None, ...], CallerQuotas] = OrderedDict()
        self._recent: dict[int, tuple[Caller, CallerQuotas]] = {}
        self._counters: dict[str, Counter] = {}
        self._epoch = ""
        self._replicas = UNKNOWN_REPLICAS
        self._ahead: float | None = None
        self._away = False
        self._locks: dict[UUID, asyncio.Lock] = {}
        # What was read earlier never replaces what was read later.
        self._reading = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    # --- admission ---

    def known(self, caller: Caller, kind: str) -> Admitted | Unlimited | None:  # noqa: ARG002 - all kinds count alike
        """Admit without waiting; None when the authority has to be asked. Raises QuotaExceeded."""
        if self._rules is None:
            return None
        if caller.scope.organisation_id not in self._rules:
            return UNLIMITED
        of = self._of(caller)
        if not of.entry:
            return Admitted(self, of, []) if of.tokens else UNLIMITED
        buckets = self.try_take(of, of.entry, 1)
        return None if buckets is None else Admitted(self, of, buckets)

    async def admit(self, caller: Caller, kind: str) -> Admitted | Unlimited:
        """Raises QuotaExceeded, QuotasUnknown."""
        if self._rules is None:
            await self.read(again=False)
        admitted = self.known(caller, kind)
        if admitted is not None:
            return admitted
        of = self._of(caller)
        return Admitted(self, of, await self.take(of, of.entry, 1))

    def try_take(self, of: CallerQuotas, counters: Sequence[Counter], units: int) -> list[int] | None:
        """Units of every counter or of none, from memory. None: ask the authority. Raises QuotaExceeded."""
        now = self.clock()
        low = False
        for counter in counters:
            if not counter.fits(units, now):
                return self._otherwise(counters, counter, units, now)
        buckets = []
        for counter in counters:
            buckets.append(counter.take(units, now))
            low = low or counter.low(now)
        if low and of.refill is None and not self._away and now - of.refilled_at > REFILL_PAUSE_S:
            of.refilled_at = now
            of.refill = self._spawn(self._refill(of, counters))
        return buckets

    async def take(self, of: CallerQuotas, counters: Sequence[Counter], units: int) -> list[int]:
        """As `try_take`, asking the authority. Raises QuotaExceeded."""
        async with of.lock:
            found = self.try_take(of, counters, units)
            while found is None:
                await self._ask(counters, units)
                found = self.try_take(of, counters, units)
            return found

    def _otherwise(
        self, counters: Sequence[Counter], short: Counter, units: int, now: float
    ) -> list[int] | None:
        if self._away:
            return self._take_alone(counters, units, now)
        if now < short.blocked_until and units >= short.blocked_need:
            raise self._exceeded(short, counters, short.blocked_for)
        return None

    def _take_alone(self, counters: Sequence[Counter], units: int, now: float) -> list[int]:
        """The authority is away: every counter from its slice, or from this process's share of the limit."""
        taken: list[tuple[Counter, int]] = []
        for counter in counters:
            bucket = self._alone(counter, units, now)
            if bucket is None:
                for each, at in taken:
                    if each.quota.window:
                        each.allowance.correct(at, -units)
                    else:
                        each.slots.leave()
                raise self._exceeded(counter, counters, max(1.0, counter.width))
            taken.append((counter, bucket))
        return [bucket for _, bucket in taken]

    def _alone(self, counter: Counter, units: int, now: float) -> int | None:
        if counter.fits(units, now):
            return counter.take(units, now)
        share = max(1, counter.quota.limit // self._replicas)
        if not counter.quota.window:
            if counter.slots.used >= share:
                return None
            counter.slots.take()
            return 0
        bucket = int(self._authority_now() / counter.width)
        counter.allowance.prune(bucket)
        return bucket if counter.allowance.take_alone(units, bucket, share, now) else None

    def _exceeded(self, counter: Counter, counters: Sequence[Counter], retry_after: float) -> QuotaExceeded:
        self._refused(counter.quota)
        return QuotaExceeded(counter.quota, retry_after, rate_limit_headers(told(counters), self.clock()))

    # --- the authority ---

    async def _refill(self, of: CallerQuotas, counters: Sequence[Counter]) -> None:
        try:
            async with of.lock:
                await self._ask(counters, 0)
        finally:
            of.refill = None

    async def _ask(self, counters: Sequence[Counter], units: int, *, more: bool = True) -> None:
        """One call for units of each counter, and `more` for later. `_away` says when nobody answered.

        Raises QuotaExceeded.
        """
        now = self.clock()
        claims = [self._claim(counter, units, now) for counter in counters]
        if not more:
            claims = [replace(claim, want=0) for claim in claims]
        taken = await self._call(counters, claims)
        if taken is None:
            return
        for counter, share in zip(counters, taken.shares, strict=True):
            self._apply(counter, share, now)
        if not taken.refused:
            return
        for counter, share in zip(counters, taken.shares, strict=True):
            if share.retry_after:
                # Other processes may give units back at any time, so a refusal is not believed for long.
                counter.blocked_until = now + REMEMBER_REFUSAL_S
                counter.blocked_need = units
                counter.blocked_for = share.retry_after
                raise self._exceeded(counter, counters, share.retry_after)

    async def _call(self, counters: Sequence[Counter], claims: Sequence[Claim]) -> Taken | None:
        """None when nothing was granted: the authority is away, or has lost its counts."""
        try:
            taken = await self._authority.take(
                self._holder, claims, epoch=self._epoch, replicas=self._replicas, returning=self._away
            )
        except BaseException as error:
            for counter, claim in zip(counters, claims, strict=True):
                counter.allowance.unheard(claim.deltas)
            if not isinstance(error, AuthorityAway):
                raise
            self._away = True
            return None
        self._away = False
        self._replicas = max(1, taken.replicas)
        self._ahead = taken.now - self.clock()
        self._epoch = taken.epoch
        if not taken.lost:
            return taken
        for each in self._counters.values():
            each.allowance.forgotten()
            each.slots.shrink(0, 0.0)
        return None

    def _claim(self, counter: Counter, need: int, now: float) -> Claim:
        quota, allowance, slots = counter.quota, counter.allowance, counter.slots
        if quota.window is None:
            slots.shrink(self._spare(counter), now)
            wanted = slots.used + min(need, 1) - slots.held
            spare = self._spare(counter)
            return Claim(counter.key, quota.limit, 0, max(0, wanted), max(0, wanted + spare), slots.held)
        if now >= allowance.until:
            allowance.retire()
        elif now - allowance.granted_at < HEARTBEAT_S and allowance.free * 2 < allowance.aim:
            allowance.aim = min(quota.limit, allowance.aim * 2)
        allowance.aim = max(allowance.aim, min(quota.limit, need))
        return Claim(
            counter.key,
            quota.limit,
            quota.window.milliseconds,
            max(0, need - allowance.free),
            max(0, max(need, allowance.aim) - allowance.free),
            0,
            allowance.telling(),
        )

    def _spare(self, counter: Counter) -> int:
        """Places kept beyond those in use; none when they run short for others."""
        if counter.remaining < self._replicas:
            return 0
        return min(max(SPARE_SLOTS, counter.slots.used), counter.quota.limit // (4 * self._replicas))

    def _apply(self, counter: Counter, share: Share, asked: float) -> None:
        counter.remaining = share.remaining
        counter.reset_at = asked + share.reset_after
        if counter.quota.window is None:
            counter.slots.granted(share.granted, asked + share.lasts)
            return
        if share.granted:
            counter.allowance.granted(share.granted, share.bucket, asked + share.lasts, asked)

    def _authority_now(self) -> float:
        return self._wall() if self._ahead is None else self.clock() + self._ahead

    # --- upkeep ---

    async def keep(self) -> None:
        """Once a second: this process lives, this it used alone, and this it does not need."""
        while True:
            await self.beat()
            await asyncio.sleep(HEARTBEAT_S)

    async def beat(self) -> None:
        now = self.clock()
        telling: dict[UUID, list[Counter]] = {}
        for counter in self._counters.values():
            if self._has_news(counter, now):
                telling.setdefault(counter.quota.organisation_id, []).append(counter)
        if not telling:
            await self._ask([], 0, more=False)
        for organisation_id, counters in telling.items():
            async with self._lock(organisation_id):
                for start in range(0, len(counters), CLAIMS_PER_CALL):
                    await self._ask(counters[start : start + CLAIMS_PER_CALL], 0, more=False)
        self._forget_idle()

    def _has_news(self, counter: Counter, now: float) -> bool:
        allowance = counter.allowance
        if counter.quota.window is None:
            return bool(counter.slots.held or counter.slots.used)
        idle = now - allowance.used_at > IDLE_S
        if idle or now >= allowance.until:
            allowance.retire()
        if idle:
            allowance.aim = max(1, allowance.aim // 2)
        return bool(allowance.deltas)

    def _forget_idle(self) -> None:
        now = self._authority_now()
        gone = []
        for counter in self._counters.values():
            if counter.quota.window:
                counter.allowance.prune(int(now / counter.width))
            if counter.allowance.idle and not counter.slots.used and not counter.slots.held:
                gone.append(counter.key)
        if len(gone) > MAX_CALLERS // 10:
            for key in gone:
                del self._counters[key]
            self._sets.clear()
            self._recent.clear()

    async def close(self) -> None:
        """Give everything back."""
        for counter in self._counters.values():
            counter.allowance.retire()
            counter.slots.held = 0
        telling = [each for each in self._counters.values() if each.allowance.deltas or not each.quota.window]
        claims = [
            Claim(each.key, each.quota.limit, each.window_ms, 0, 0, 0, each.allowance.telling())
            for each in telling
        ]
        if claims and not self._away:
            await self._call(telling, claims)

    # --- the rules ---

    async def check(self) -> None:
        """Health probe: raises QuotasUnknown before the first read."""
        if self._rules is None:
            raise QuotasUnknown(QuotasUnknown.__doc__)

    async def read(self, *, again: bool = True) -> None:
        """Read every quota. Raises QuotasUnknown when they can't be read and never were."""
        async with self._reading:
            try:
                if again or self._rules is None:
                    self._rules = await self._store.all()
            except Exception as error:
                if self._rules is None:
                    raise QuotasUnknown from error
                raise
        self._sets.clear()
        self._recent.clear()

    async def changed(self, organisation_id: UUID) -> None:
        """A quota of the organisation was changed: read its quotas anew."""
        async with self._reading:
            found = await self._store.of(organisation_id)
            if self._rules is None:
                return
            self._rules = {**self._rules, organisation_id: found}
            if not found:
                del self._rules[organisation_id]
        live = {quota.quota_id: quota for quota in found}
        for counter in self._counters.values():
            quota = live.get(counter.quota.quota_id)
            if quota is not None and quota.window == counter.quota.window:
                counter.quota = quota
                counter.blocked_until = 0.0
        self._sets.clear()
        self._recent.clear()

    def _of(self, caller: Caller) -> CallerQuotas:
        # Callers of one key are mostly one object, and looking at six identifiers costs more than this.
        recent = self._recent.get(id(caller))
        if recent is not None and recent[0] is caller:
            return recent[1]
        if len(self._recent) >= MAX_RECENT:
            self._recent.clear()
        found = self._set_of(caller)
        self._recent[id(caller)] = (caller, found)
        return found

    def _set_of(self, caller: Caller) -> CallerQuotas:
        key = tuple(subject_of(caller, scope) for scope in QuotaScope)
        found = self._sets.get(key)
        if found is not None:
            return found
        counters = []
        for quota in (self._rules or {}).get(caller.scope.organisation_id, ()):
            subject = quota.subject(caller)
            if subject is not None:
                counters.append(self._counter(quota, subject))
        entry = tuple(each for each in counters if each.quota.metric is not Metric.TOKENS)
        tokens = tuple(each for each in counters if each.quota.metric is Metric.TOKENS)
        made = self._sets[key] = CallerQuotas(entry, tokens, self._lock(caller.scope.organisation_id))
        if len(self._sets) > MAX_CALLERS:
            self._sets.popitem(last=False)
        return made

    def _counter(self, quota: Quota, subject: UUID) -> Counter:
        fresh = Counter(quota, subject)
        return self._counters.setdefault(fresh.key, fresh)

    def _lock(self, organisation_id: UUID) -> asyncio.Lock:
        """One call of an organisation at a time: places are counted as a whole, not by differences."""
        return self._locks.setdefault(organisation_id, asyncio.Lock())

    def _spawn(self, work: Awaitable[None]) -> "asyncio.Task[None]":
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
