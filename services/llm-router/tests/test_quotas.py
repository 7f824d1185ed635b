"""Quotas: never more than the limit in any window, over replicas, crashes and a Redis that is lost.

Every promise is checked against Redis and against the authority in memory, whose clock a test can turn.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis.asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from kairos_router.adapters.redis_quotas import RedisQuotas
from kairos_router.application.limit_requests import Quotas
from kairos_router.application.quota_ports import (
    AuthorityAway,
    Claim,
    QuotaExceeded,
    QuotasUnknown,
    Share,
    Taken,
)
from kairos_router.domain.ask import Caller
from kairos_router.domain.lease import Scope
from kairos_router.domain.quota import BUCKETS, InvalidQuota, Metric, Quota, QuotaScope, Window

ORGANISATION = UUID("00000000-0000-4000-8000-00000000000a")
KEY = UUID("00000000-0000-4000-8000-00000000000b")
CALLER = Caller(Scope(ORGANISATION), KEY)
LIFE = 15.0


class MemoryAuthority:
    """What quotas.lua does, over a clock of the test's."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.away = False
        self.calls = 0
        self.flush()

    def flush(self) -> None:
        self.epoch = uuid4().hex
        self.settling = 0.0
        self.counts: dict[str, dict[int, int]] = {}
        self.places: dict[str, dict[str, tuple[int, float]]] = {}
        self.seen: dict[str, float] = {}

    async def take(
        self, holder: str, claims: Sequence[Claim], *, epoch: str, replicas: int, returning: bool = False
    ) -> Taken:
        self.calls += 1
        if self.away:
            raise AuthorityAway("switched off")
        now = self.clock()
        self.seen = {name: at for name, at in self.seen.items() if now - at < 10} | {holder: now}
        if epoch and epoch != self.epoch:
            self.settling = now + 3
            return Taken(self.epoch, len(self.seen), now, lost=True)
        if returning:
            self.settling = now + 3
        share = max(len(self.seen), replicas) if now < self.settling else 1
        rooms = [self._room(claim, holder, now, share) for claim in claims]
        refused = any(0 < claim.need > room for claim, room in zip(claims, rooms, strict=True))
        shares = [
            self._give(claim, holder, now, room, refused) for claim, room in zip(claims, rooms, strict=True)
        ]
        return Taken(self.epoch, len(self.seen), now, refused=refused, shares=shares)

    def _room(self, claim: Claim, holder: str, now: float, share: int) -> int:
        limit = max(1, claim.limit // share)
        if not claim.window_ms:
            held = self.places.setdefault(claim.key, {})
            others = sum(count for name, (count, end) in held.items() if name != holder and end > now)
            return limit - others - claim.held
        oldest = int(now / (claim.window_ms / 1000 / BUCKETS)) - BUCKETS - 1
        counts = self.counts.setdefault(claim.key, {})
        for bucket, delta in claim.deltas.items():
            if bucket >= oldest:
                counts[bucket] = max(0, counts.get(bucket, 0) + delta)
        return limit - sum(count for bucket, count in counts.items() if bucket >= oldest)

    def _give(self, claim: Claim, holder: str, now: float, room: int, refused: bool) -> Share:
        fair = (room - claim.need) // (2 * len(self.seen))
        give = 0 if refused else max(0, claim.need, min(claim.want, claim.need + fair))
        retry = 1.0 if refused and 0 < claim.need > room else 0.0
        if not claim.window_ms:
            self.places[claim.key][holder] = (claim.held + give, now + LIFE)
            return Share(claim.held + give, 0, LIFE, max(0, room - give), 0.0, retry)
        width = claim.window_ms / 1000 / BUCKETS
        bucket = int(now / width)
        counts = self.counts[claim.key]
        counts[bucket] = counts.get(bucket, 0) + give
        return Share(give, bucket, (bucket + 2) * width - now, max(0, room - give), width, retry)


class Rules:
    def __init__(self, *quotas: Quota) -> None:
        self.quotas = quotas
        self.away = False

    async def all(self) -> dict[UUID, tuple[Quota, ...]]:
        if self.away:
            raise ConnectionError("the database is away")
        return {ORGANISATION: self.quotas} if self.quotas else {}

    async def of(self, organisation_id: UUID) -> tuple[Quota, ...]:
        return self.quotas


def quota(
    metric: str = "requests",
    limit: int = 10,
    window: str | None = "minute",
    scope: str = "api_key",
    **more: Any,
) -> Quota:
    if metric == "concurrent":
        window = None
    values: dict[str, Any] = {"quota_id": uuid4(), "scope_id": None} | more
    return Quota(
        organisation_id=ORGANISATION,
        scope=QuotaScope(scope),
        metric=Metric(metric),
        limit=limit,
        window=Window(window) if window else None,
        **values,
    )


@dataclass
class World:
    """Processes over one authority. `pass_time` turns the clock in memory, and waits with Redis."""

    authority_of: Callable[[], Any]
    clock: Callable[[], float]
    flush: Callable[[], Awaitable[None]]
    processes: list[Quotas] = field(default_factory=list)
    authorities: list[Any] = field(default_factory=list)

    async def forget_refusals(self) -> None:
        """Let the quarter of a second pass for which a refusal is believed."""
        for process in self.processes:
            for counter in process._counters.values():
                counter.blocked_until = 0.0

    async def process(self, *quotas: Quota, known: bool = True) -> Quotas:
        authority = self.authority_of()
        made = Quotas(authority, Rules(*quotas), f"holder-{len(self.processes)}", clock=self.clock)
        if known:
            await made.read()
            await made.beat()
        self.processes.append(made)
        self.authorities.append(authority)
        return made


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.servers)])
async def world(request: pytest.FixtureRequest, kit: Any) -> Any:
    if request.param == "memory":
        clock = kit.Clock()
        authority = MemoryAuthority(clock)

        async def forget() -> None:
            authority.flush()

        yield World(lambda: authority, clock, forget)
        return
    url = request.getfixturevalue("redis_url")
    client = redis.asyncio.Redis.from_url(url)

    async def flush() -> None:
        await client.flushdb()

    found = World(lambda: RedisQuotas(url), time.monotonic, flush)
    yield found
    for each in found.authorities:
        await each.close()
    await client.aclose()


async def admitted(quotas: Quotas, times: int, caller: Caller = CALLER, tokens: int = 0) -> int:
    """How many of so many requests got in; they leave at once, having used what they reserved."""
    passed = 0
    for _ in range(times):
        try:
            entry = quotas.known(caller, "chat") or await quotas.admit(caller, "chat")
        except QuotaExceeded:
            continue
        try:
            waiting = entry.count(tokens)
            if waiting is not None:
                await waiting
            passed += 1
        except QuotaExceeded:
            pass
        entry.leave(tokens or None)
    return passed


async def test_a_process_admits_exactly_the_limit(world: World) -> None:
    process = await world.process(quota(limit=25))

    assert await admitted(process, 40) == 25


async def test_three_processes_together_admit_the_limit_and_not_one_more(world: World) -> None:
    rule = quota(limit=300)
    processes = [await world.process(rule) for _ in range(3)]

    passed = await asyncio.gather(*(admitted(each, 200) for each in processes))
    # What one process did not use, another one gets: nobody's slice is lost at the limit.
    for each in processes:
        await each.close()
    rest = await admitted(processes[0], 200)

    assert sum(passed) <= 300
    assert sum(passed) >= 300 - 3 * 25, "a process keeps no more than a fair part of the rest"
    assert sum(passed) + rest == 300


async def test_a_warm_request_asks_nobody(world: World) -> None:
    process = await world.process(
        quota(limit=100_000), quota("concurrent", limit=10_000), quota("tokens", limit=10**7)
    )
    await admitted(process, 1, tokens=10)

    for _ in range(50):
        entries = [process.known(CALLER, "chat") for _ in range(4)]
        for entry in entries:
            assert entry is not None
            assert entry.count(10) is None
            entry.leave(10)


async def test_either_all_quotas_of_a_request_are_charged_or_none(world: World) -> None:
    loose, tight = quota(limit=10, scope="organisation"), quota(limit=3)
    process = await world.process(loose, tight)
    assert await admitted(process, 8) == 3

    other = Caller(Scope(ORGANISATION), uuid4())
    assert await admitted(process, 8, other) == 3, "each key has its own counter"
    third = Caller(Scope(ORGANISATION), uuid4())
    fourth = Caller(Scope(ORGANISATION), uuid4())

    assert await admitted(process, 3, third) == 3
    assert await admitted(process, 8, fourth) == 1, "refused requests have cost the organisation nothing"


async def test_tokens_are_reserved_on_admission_and_corrected_by_the_answer(world: World) -> None:
    process = await world.process(quota("tokens", limit=1_000))
    entry = await process.admit(CALLER, "chat")
    waiting = entry.count(900)
    assert waiting is not None
    await waiting
    assert await admitted(process, 1, tokens=200) == 0, "the estimate counts until the answer is there"

    entry.leave(100)
    await process.beat()
    await world.forget_refusals()

    assert await admitted(process, 5, tokens=300) == 3


async def test_a_request_stopped_by_its_tokens_counts_as_no_request(world: World) -> None:
    process = await world.process(quota(limit=5), quota("tokens", limit=100))

    assert await admitted(process, 10, tokens=1_000) == 0
    assert await admitted(process, 10, tokens=20) == 5


async def test_places_are_given_back_and_never_more_are_taken_than_there_are(world: World) -> None:
    rule = quota("concurrent", limit=4, scope="organisation")
    first, second = await world.process(rule), await world.process(rule)

    held = [await first.admit(CALLER, "chat") for _ in range(3)]
    held.append(await second.admit(CALLER, "chat"))
    for process in (first, second):
        with pytest.raises(QuotaExceeded):
            await process.admit(CALLER, "chat")
    held.pop().leave(None)
    await second.beat()
    await world.forget_refusals()

    held.append(await first.admit(CALLER, "chat"))
    with pytest.raises(QuotaExceeded):
        await second.admit(CALLER, "chat")


async def test_a_caller_without_quotas_costs_and_says_nothing(world: World) -> None:
    process = await world.process()

    entry = process.known(CALLER, "chat")

    assert entry is not None
    assert entry.headers() == []
    assert entry.count(10) is None


async def test_the_headers_say_what_is_left_as_openai_and_the_draft_name_it(world: World) -> None:
    process = await world.process(quota(limit=10), quota("tokens", limit=1_000))
    entry = await process.admit(CALLER, "chat")
    waiting = entry.count(100)
    if waiting is not None:
        await waiting

    headers = dict(entry.headers())

    assert headers[b"x-ratelimit-limit-requests"] == b"10"
    assert headers[b"x-ratelimit-remaining-requests"] == b"9"
    assert headers[b"x-ratelimit-limit-tokens"] == b"1000"
    assert headers[b"x-ratelimit-remaining-tokens"] == b"900"
    assert headers[b"x-ratelimit-reset-requests"].endswith(b"s")
    assert headers[b"ratelimit-limit"] == b"10"
    assert headers[b"ratelimit-remaining"] == b"9"
    assert headers[b"ratelimit-reset"].isdigit()


async def test_a_refusal_says_which_quota_and_when_to_come_back(world: World) -> None:
    process = await world.process(quota(limit=2))
    await admitted(process, 2)

    with pytest.raises(QuotaExceeded, match="2 requests per minute of each api_key") as refused:
        await process.admit(CALLER, "chat")

    assert 0 < refused.value.retry_after <= 70
    assert dict(refused.value.headers)[b"ratelimit-remaining"] == b"0"


async def test_counts_that_were_lost_are_told_anew_by_those_who_used_them(world: World) -> None:
    rule = quota(limit=30, scope="organisation")
    first, second = await world.process(rule), await world.process(rule)
    assert await admitted(first, 10) + await admitted(second, 10) == 20
    await first.beat()

    await world.flush()
    for process in (first, second):
        await process.beat()
        await process.beat()

    more = await admitted(first, 30) + await admitted(second, 30)
    assert more <= 10, "what was used before the loss still counts"


async def test_a_changed_limit_holds_at_once_and_keeps_what_was_counted(world: World) -> None:
    rule = quota(limit=5)
    process = await world.process(rule)
    await admitted(process, 5)
    store: Any = process._store

    store.quotas = (quota(limit=8, quota_id=rule.quota_id),)
    await process.changed(ORGANISATION)
    assert await admitted(process, 10) == 3

    store.quotas = ()
    await process.changed(ORGANISATION)
    assert await admitted(process, 10) == 10


async def test_what_was_read_before_a_change_does_not_undo_it(kit: Any) -> None:
    old, new = quota(limit=5), quota(limit=1)
    rules, reading, gate = Rules(old), asyncio.Event(), asyncio.Event()
    process = Quotas(MemoryAuthority(kit.Clock()), rules, "holder")

    async def slowly() -> dict[UUID, tuple[Quota, ...]]:
        found = {ORGANISATION: rules.quotas}
        reading.set()
        await gate.wait()
        return found

    rules.all = slowly  # type: ignore[method-assign] # a database that takes its time
    under_way = asyncio.ensure_future(process.read())
    await reading.wait()
    rules.quotas = (new,)
    change = asyncio.ensure_future(process.changed(ORGANISATION))
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(under_way, change)

    assert await admitted(process, 10) == 1


async def test_before_the_quotas_are_known_nobody_is_admitted(kit: Any) -> None:
    rules = Rules()
    rules.away = True
    process = Quotas(MemoryAuthority(kit.Clock()), rules, "holder")

    assert process.known(CALLER, "chat") is None
    with pytest.raises(QuotasUnknown):
        await process.admit(CALLER, "chat")


# --- an authority that is away ---


async def test_without_the_authority_each_process_uses_its_share_alone_and_tells_later(kit: Any) -> None:
    clock = kit.Clock()
    authority = MemoryAuthority(clock)
    world = World(lambda: authority, clock, asyncio.sleep)  # type: ignore[arg-type]
    rule = quota(limit=30)
    processes = [await world.process(rule) for _ in range(3)]
    for each in processes:
        await each.beat()

    authority.away = True
    passed = [await admitted(each, 40) for each in processes]
    assert passed == [10, 10, 10]

    authority.away = False
    for each in processes:
        await each.beat()
    assert [await admitted(each, 40) for each in processes] == [0, 0, 0]


async def test_a_process_that_never_saw_the_authority_takes_a_quarter(kit: Any) -> None:
    authority = MemoryAuthority(kit.Clock())
    authority.away = True
    process = Quotas(authority, Rules(quota(limit=40), quota("concurrent", limit=8)), "holder")

    assert await admitted(process, 100) == 10
    await process.read()
    places = [await Quotas(authority, Rules(quota("concurrent", limit=8)), "x").admit(CALLER, "chat")]
    assert len(places) == 1


async def test_a_dead_authority_is_asked_once_and_not_by_every_request(kit: Any) -> None:
    authority = MemoryAuthority(kit.Clock())
    process = Quotas(authority, Rules(quota(limit=40)), "holder")
    authority.away = True

    await admitted(process, 100)

    assert authority.calls == 1


async def test_redis_that_nobody_can_reach_is_away_within_its_timeout() -> None:
    authority = RedisQuotas("redis://127.0.0.1:1/0")
    begun = time.monotonic()

    with pytest.raises(AuthorityAway):
        await authority.take("holder", [], epoch="", replicas=1)

    assert time.monotonic() - begun < 1.0
    await authority.close()


async def test_places_of_a_killed_process_come_back(kit: Any) -> None:
    clock = kit.Clock()
    authority = MemoryAuthority(clock)
    world = World(lambda: authority, clock, asyncio.sleep)  # type: ignore[arg-type]
    rule = quota("concurrent", limit=2, scope="organisation")
    dead, alive = await world.process(rule), await world.process(rule)
    for _ in range(2):
        await dead.admit(CALLER, "chat")
    with pytest.raises(QuotaExceeded):
        await alive.admit(CALLER, "chat")

    clock.now += LIFE + 1

    await alive.admit(CALLER, "chat")


@pytest.mark.servers
async def test_redis_forgets_the_places_of_a_process_that_is_silent(redis_url: str) -> None:
    authority = RedisQuotas(redis_url)
    claim = Claim("places", 2, 0, 2, 2)
    taken = await authority.take("dead", [claim], epoch="", replicas=1)
    refused = await authority.take("alive", [Claim("places", 2, 0, 1, 1)], epoch=taken.epoch, replicas=1)
    client = redis.asyncio.Redis.from_url(redis_url)
    held = (await client.hgetall("kairos:quota:places"))[b"dead"].decode()
    await client.hset("kairos:quota:places", "dead", held.split(":")[0] + ":1")

    after = await authority.take("alive", [Claim("places", 2, 0, 1, 1)], epoch=taken.epoch, replicas=1)

    assert refused.refused
    assert taken.shares[0].lasts == pytest.approx(LIFE, abs=0.1)
    assert not after.refused
    await client.aclose()
    await authority.close()


async def test_a_slice_that_was_kept_too_long_is_void(kit: Any) -> None:
    clock = kit.Clock()
    authority = MemoryAuthority(clock)
    world = World(lambda: authority, clock, asyncio.sleep)  # type: ignore[arg-type]
    rule = quota(limit=100, scope="organisation")
    sleeper, busy = await world.process(rule), await world.process(rule)
    await admitted(sleeper, 1)
    for counter in sleeper._counters.values():
        counter.allowance.aim = 100
    await admitted(sleeper, 1)
    [counter] = sleeper._counters.values()
    assert counter.allowance.free > 5

    clock.now += 70
    assert await admitted(busy, 150) == 100

    assert await admitted(sleeper, 10) == 0


@pytest.mark.servers
async def test_redis_counts_two_buckets_more_than_the_window_and_no_older_ones(redis_url: str) -> None:
    authority = RedisQuotas(redis_url)
    client = redis.asyncio.Redis.from_url(redis_url)
    day = Window.DAY.milliseconds
    width = day // BUCKETS
    seconds, micros = await client.time()
    now = (seconds * 1_000 + micros // 1_000) // width

    async def room(bucket: int) -> int:
        await client.delete("kairos:quota:c")
        await client.hset("kairos:quota:c", str(bucket), "4")
        taken = await authority.take("holder", [Claim("c", 10, day, 1, 1)], epoch="", replicas=1)
        return taken.shares[0].remaining + taken.shares[0].granted

    assert [await room(now - back) for back in (0, BUCKETS, BUCKETS + 1)] == [6, 6, 6]
    assert await room(now - BUCKETS - 3) == 10
    assert await room(now + 1) == 6, "a clock that was set back opens no door"
    await client.aclose()
    await authority.close()


# --- the arithmetic, over any order of events ---

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "ask", "ask", "wait", "beat", "die"]),
        st.integers(0, 2),
        st.integers(1, 12),
        st.floats(0.01, 70.0),
    ),
    min_size=10,
    max_size=120,
)


def _most_in_a_window(admissions: list[tuple[float, int]], window: float) -> int:
    most = 0
    for start, _ in admissions:
        most = max(most, sum(units for at, units in admissions if start <= at < start + window))
    return most


@settings(max_examples=150, deadline=None)
@given(events=EVENTS, limit=st.integers(1, 60), corrections=st.booleans())
def test_no_window_ever_sees_more_than_the_limit(
    events: list[tuple[str, int, int, float]], limit: int, corrections: bool
) -> None:
    async def play() -> int:
        now = [1_000.0]
        authority = MemoryAuthority(lambda: now[0])
        rule = quota("tokens", limit=limit, scope="organisation")
        made = iter(range(1_000_000))

        def process() -> Quotas:
            return Quotas(authority, Rules(rule), f"p{next(made)}", clock=lambda: now[0])

        processes = [process() for _ in range(3)]
        used: list[tuple[float, int]] = []
        for kind, which, units, seconds in events:
            if kind == "wait":
                now[0] += seconds
            elif kind == "beat":
                await processes[which].beat()
            elif kind == "die":
                processes[which] = process()
            else:
                # Slices as a busy process takes them, so that there is something to keep and to lose.
                for counter in processes[which]._counters.values():
                    counter.allowance.aim = limit
                try:
                    entry = await processes[which].admit(CALLER, "chat")
                    waiting = entry.count(units)
                    if waiting is not None:
                        await waiting
                except QuotaExceeded:
                    continue
                actual = max(1, units // 2) if corrections else units
                used.append((now[0], actual))
                entry.leave(actual)
            now[0] += 0.001
        return _most_in_a_window(used, 60.0)

    assert asyncio.run(play()) <= limit


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"limit": 0}, "at least 1"),
        ({"metric": Metric.CONCURRENT, "window": Window.DAY}, "need a window"),
        ({"window": None}, "need a window"),
        ({"scope": QuotaScope.ORGANISATION, "scope_id": KEY}, "names no other scope"),
    ],
)
def test_a_quota_that_contradicts_itself_is_not_made(wrong: dict[str, Any], why: str) -> None:
    values: dict[str, Any] = {
        "quota_id": uuid4(),
        "organisation_id": ORGANISATION,
        "scope": QuotaScope.API_KEY,
        "scope_id": None,
        "metric": Metric.REQUESTS,
        "limit": 1,
        "window": Window.MINUTE,
    }
    with pytest.raises(InvalidQuota, match=why):
        Quota(**(values | wrong))
