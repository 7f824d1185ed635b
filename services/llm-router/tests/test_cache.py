"""The answer cache: what is the same question, who may get its answer, and what happens without Redis."""

import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos_router.adapters.redis_answers import (
    COMPRESSED_FROM_BYTES,
    LARGEST_BYTES,
    RedisAnswers,
    decode,
    encode,
)
from kairos_router.application.cache_policies import CachePolicies
from kairos_router.application.cache_ports import Kept, StoreAway
from kairos_router.domain.ask import Ask, Caller, parse_ask
from kairos_router.domain.cache_key import plan
from kairos_router.domain.cache_policy import CachePolicy, Mode, SharedBy
from kairos_router.domain.embedding_ask import parse_embedding_ask
from kairos_router.domain.lease import Scope
from kairos_router.domain.replay import DONE, Assembly, events_of
from kairos_router.entrypoints.cached_answers import CachedAnswers
from kairos_router.entrypoints.completions import Served
from kairos_router.entrypoints.credentials import Rejected

ORGANISATION, OTHER = UUID(int=10), UUID(int=11)
KEY = UUID(int=12)
CALLER = Caller(Scope(ORGANISATION), KEY)
POLICY = CachePolicy(ORGANISATION, "default", Mode.ALL, 60)


def ask_for(text: str = "hello", **fields: Any) -> Ask:
    payload = {"model": "default", "messages": [{"role": "user", "content": text}], **fields}
    return parse_ask(payload, len(str(payload)))


def document(text: str = "an answer", **message: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "model-of-first",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, **message},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }


class MemoryAnswers:
    """The store in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[Kept, float]] = {}
        self.locks: dict[str, tuple[str, float]] = {}
        self.spaces: dict[str, dict[str, bytes]] = {}
        self.away = False

    def _reach(self) -> None:
        if self.away:
            raise StoreAway("switched off")

    async def get(self, key: str) -> Kept | None:
        self._reach()
        kept, until = self.kept.get(key, (None, 0.0))
        return kept if until > time.monotonic() else None

    async def put(self, key: str, kept: Kept, ttl_seconds: int) -> None:
        self._reach()
        self.kept[key] = (kept, time.monotonic() + ttl_seconds)

    async def lock(self, key: str, holder: str, seconds: float) -> bool:
        self._reach()
        if self.locks.get(key, ("", 0.0))[1] > time.monotonic():
            return False
        self.locks[key] = (holder, time.monotonic() + seconds)
        return True

    async def unlock(self, key: str, holder: str) -> None:
        self._reach()
        if self.locks.get(key, ("", 0.0))[0] == holder:
            del self.locks[key]

    async def vectors(self, space: str) -> dict[str, bytes]:
        self._reach()
        return dict(self.spaces.get(space, {}))

    async def add_vector(self, space: str, key: str, value: bytes, ttl_seconds: int) -> None:
        self._reach()
        self.spaces.setdefault(space, {})[key] = value

    async def close(self) -> None:
        """Nothing is open."""


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.servers)])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    if request.param == "memory":
        yield MemoryAnswers()
        return
    # A loaded machine is not what is tried here.
    answers = RedisAnswers(request.getfixturevalue("redis_url"), patience=2.0)
    yield answers
    await answers.close()


class Provider:
    """Answers in place of deployments, and counts how often it had to."""

    def __init__(self) -> None:
        self.calls = 0
        self.called = asyncio.Event()
        self.gate: asyncio.Event | None = None
        self.error: Exception | None = None
        self.headers = [(b"x-kairos-deployment", b"first"), (b"x-kairos-cost-nano-usd", b"1700")]
        self.document = document()
        self.fingerprint: str | None = "first"

    def label(self, model: str) -> str:
        return model

    def controlled(self, control: bytes) -> "Provider":
        return self

    async def _answer(self) -> None:
        self.calls += 1
        self.called.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error

    async def complete(self, ask: Ask, caller: Caller, completion_id: UUID) -> Served:
        await self._answer()
        return Served(orjson.dumps(self.document), list(self.headers), 10, 0.2)

    async def open(self, ask: Ask, caller: Caller, completion_id: UUID) -> Any:
        await self._answer()
        return ProviderFlow(self.headers, events_of(self.document, include_usage=True))


class ProviderFlow:
    time_to_first_token = 0.1
    cost_so_far = 1700
    tokens = 10

    def __init__(self, headers: Any, events: list[bytes]) -> None:
        self.headers = list(headers)
        self._events = iter(events)
        self.abandoned = False

    async def next(self) -> bytes:
        return next(self._events, b"")

    def abandon(self) -> None:
        self.abandoned = True


class NothingSimilar:
    async def find(self, space: str, text: str, numbers: str, floor: float) -> str | None:
        return None

    async def add(self, space: str, text: str, numbers: str, key: str, ttl_seconds: int) -> None:
        """Nothing is compared."""


@dataclass
class Desk:
    """One process with its cache."""

    answers: CachedAnswers
    provider: Provider
    policies: Any
    notes: list[tuple[str, Kept]] = field(default_factory=list)

    async def ask(self, ask: Ask, caller: Caller = CALLER, control: bytes = b"") -> Served:
        answers = self.answers.controlled(control) if control else self.answers
        served = await answers.complete(ask, caller, uuid4())
        await self.settled()
        return served

    async def stream(self, ask: Ask, caller: Caller = CALLER) -> tuple[bytes, dict[bytes, bytes]]:
        flow = await self.answers.open(ask, caller, uuid4())
        pieces = []
        while piece := await flow.next():
            pieces.append(piece)
        flow.abandon()
        await self.settled()
        return b"".join(pieces), dict(flow.headers)

    async def settled(self) -> None:
        """Until what is kept in the background has been kept."""
        await asyncio.gather(*self.answers._tasks)

    def set(self, *policies: CachePolicy) -> None:
        self.policies._policies = {}
        for policy in policies:
            self.policies._policies.setdefault(policy.organisation_id, {})[policy.route] = policy


def desk_over(
    store: Any, *policies: CachePolicy, similar: Any = None, provider: Provider | None = None
) -> Desk:
    provider = provider or Provider()
    known = CachePolicies(None)  # type: ignore[arg-type] # policies are set directly
    notes: list[tuple[str, Kept]] = []

    def note(ask: Ask, caller: Caller, completion_id: UUID, kept: Kept, kind: str, seconds: float) -> None:
        notes.append((kind, kept))

    def describe(organisation_id: UUID, deployment: str) -> tuple[str, str, str]:
        return (f"model-of-{deployment}", "openai", "test-1")

    answers = CachedAnswers(
        provider,
        known,
        store,
        similar or NothingSimilar(),
        note=note,
        describe=describe,
        resolve=lambda *_: provider.fingerprint,
        holder=uuid4().hex,
    )
    desk = Desk(answers, provider, known, notes)
    desk.set(*(policies or (POLICY,)))
    return desk


def cache_header(served: Served) -> bytes | None:
    return dict(served.headers).get(b"x-kairos-cache")


async def test_the_same_question_is_answered_once_and_the_second_time_for_nothing(store: Any) -> None:
    desk = desk_over(store)

    first = await desk.ask(ask_for())
    second = await desk.ask(ask_for())

    assert (cache_header(first), cache_header(second)) == (b"miss", b"hit")
    assert second.body == first.body
    assert dict(second.headers)[b"x-kairos-cost-nano-usd"] == b"0"
    assert dict(second.headers)[b"x-kairos-deployment"] == b"first"
    assert second.tokens == 0
    assert desk.provider.calls == 1
    [(kind, kept)] = desk.notes
    assert kind == "exact"
    assert (kept.cost, kept.input_tokens, kept.output_tokens) == (1700, 7, 3)
    assert (kept.model, kept.provider, kept.price_version) == ("model-of-first", "openai", "test-1")


async def test_no_organisation_ever_gets_the_answer_of_another(store: Any) -> None:
    desk = desk_over(store, POLICY, replace(POLICY, organisation_id=OTHER))
    await desk.ask(ask_for())

    other = await desk.ask(ask_for(), Caller(Scope(OTHER), KEY))

    assert cache_header(other) == b"miss"


async def test_a_policy_may_keep_answers_to_one_key(store: Any) -> None:
    desk = desk_over(store, replace(POLICY, shared_by=SharedBy.API_KEY))
    await desk.ask(ask_for())

    assert cache_header(await desk.ask(ask_for(), Caller(Scope(ORGANISATION), uuid4()))) == b"miss"
    assert cache_header(await desk.ask(ask_for())) == b"hit"
    keyless = await desk.ask(ask_for(), Caller(Scope(ORGANISATION)))
    assert cache_header(keyless) is None, "nobody can tell whose answer it would be"


async def test_a_route_without_a_policy_keeps_nothing(store: Any) -> None:
    desk = desk_over(store, replace(POLICY, route="another"))

    assert [cache_header(await desk.ask(ask_for())) for _ in range(2)] == [None, None]
    desk.set(replace(POLICY, mode=Mode.OFF))
    assert [cache_header(await desk.ask(ask_for())) for _ in range(2)] == [None, None]
    desk.set(replace(POLICY, route="*"))
    assert [cache_header(await desk.ask(ask_for())) for _ in range(2)] == [b"miss", b"hit"]


async def test_the_header_chooses_a_fresh_answer_none_kept_or_a_kept_one_only(store: Any) -> None:
    desk = desk_over(store)
    with pytest.raises(Rejected, match="not_cached"):
        await desk.ask(ask_for(), control=b"only-if-cached")
    assert cache_header(await desk.ask(ask_for(), control=b"no-store")) is None
    assert cache_header(await desk.ask(ask_for())) == b"miss", "no-store has kept nothing"

    desk.provider.document = document("a newer answer")
    fresh = await desk.ask(ask_for(), control=b"no-cache")
    kept = await desk.ask(ask_for(), control=b"only-if-cached")

    assert b"a newer answer" in fresh.body
    assert kept.body == fresh.body
    with pytest.raises(Rejected, match="not_cached"):
        await desk.ask(ask_for(temperature=0), Caller(Scope(OTHER)), control=b"Only-If-Cached")
    with pytest.raises(Rejected, match="invalid_header"):
        await desk.ask(ask_for(), control=b"none")


async def test_a_purge_and_a_shorter_time_hold_for_what_is_kept_already(store: Any) -> None:
    desk = desk_over(store, replace(POLICY, ttl_seconds=60))
    await desk.ask(ask_for())

    desk.set(replace(POLICY, generation=1))
    assert cache_header(await desk.ask(ask_for())) == b"miss"
    desk.set(replace(POLICY, generation=1), CachePolicy(ORGANISATION, "*", generation=1))
    assert cache_header(await desk.ask(ask_for())) == b"miss", "a purge of everything reaches each route"
    assert cache_header(await desk.ask(ask_for())) == b"hit"
    for planned in [plan(ask_for(), CALLER, replace(POLICY, generation=1), 1, "first")]:
        assert planned is not None
        old = await store.get(planned.key)
        await store.put(planned.key, replace(old, stored_at=time.time() - 30), 60)
    assert cache_header(await desk.ask(ask_for())) == b"hit"
    desk.set(replace(POLICY, generation=1, ttl_seconds=20), CachePolicy(ORGANISATION, "*", generation=1))
    assert cache_header(await desk.ask(ask_for())) == b"miss"


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens": "seven"}, {"prompt_tokens": -7}, ["x"], {"prompt_tokens": 2**60}]
)
async def test_usage_that_can_not_be_true_spoils_neither_the_answer_nor_what_is_kept(usage: Any) -> None:
    desk = desk_over(MemoryAnswers())
    desk.provider.document = document() | {"usage": usage}
    assert cache_header(await desk.ask(ask_for())) == b"miss"
    assert cache_header(await desk.ask(ask_for())) == b"hit"
    [(_, kept)] = desk.notes
    assert (kept.input_tokens, kept.output_tokens) == (0, 0)


async def test_kept_answers_do_not_outlive_who_answers_their_route(store: Any) -> None:
    desk = desk_over(store)
    await desk.ask(ask_for())
    assert cache_header(await desk.ask(ask_for())) == b"hit"

    desk.provider.fingerprint = "another"
    assert cache_header(await desk.ask(ask_for())) == b"miss"
    desk.provider.fingerprint = None
    assert cache_header(await desk.ask(ask_for())) is None, "nobody answers to this name any more"
    desk.provider.fingerprint = "first"
    assert cache_header(await desk.ask(ask_for())) == b"hit"


async def test_errors_and_answers_a_budget_has_changed_are_not_kept(store: Any) -> None:
    desk = desk_over(store)
    desk.provider.error = RuntimeError("the provider failed")
    for _ in range(2):
        with pytest.raises(RuntimeError):
            await desk.ask(ask_for())
    await desk.settled()
    assert desk.provider.calls == 2

    desk.provider.error = None
    desk.provider.headers.append((b"x-kairos-degraded", b"budget.clamped"))
    assert [cache_header(await desk.ask(ask_for())) for _ in range(2)] == [b"miss", b"miss"]


# --- streams ---


async def test_a_kept_stream_is_replayed_as_a_stream_and_serves_a_plain_request(store: Any) -> None:
    desk = desk_over(store)
    desk.provider.document = document("word " * 300)

    first, miss = await desk.stream(ask_for(stream=True, stream_options={"include_usage": True}))
    again, hit = await desk.stream(ask_for(stream=True))
    plain = await desk.ask(ask_for())

    assert (miss[b"x-kairos-cache"], hit[b"x-kairos-cache"]) == (b"miss", b"hit")
    assert desk.provider.calls == 1
    assert again.endswith(DONE)
    assert b'"usage"' in first
    assert b'"usage"' not in again, "usage is told only to those who ask for it"
    assert len(again.split(b"\n\n")) > 3, "in pieces, as it came"
    assert orjson.loads(plain.body)["choices"] == desk.provider.document["choices"]
    assert orjson.loads(plain.body)["usage"]["total_tokens"] == 10


async def test_a_kept_plain_answer_serves_a_stream(store: Any) -> None:
    desk = desk_over(store)
    calls = [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}]
    desk.provider.document = document(None, tool_calls=calls)  # type: ignore[arg-type]
    await desk.ask(ask_for(tools=[{"type": "function", "function": {"name": "f"}}]))

    events, headers = await desk.stream(
        ask_for(tools=[{"type": "function", "function": {"name": "f"}}], stream=True)
    )

    assert headers[b"x-kairos-cache"] == b"hit"
    assembly = Assembly()
    for event in events.split(b"\n\n")[:-2]:
        assembly.feed(json.loads(event.removeprefix(b"data: ")))
    whole = assembly.document()
    assert whole is not None
    assert whole["choices"][0]["message"]["tool_calls"] == calls


async def test_a_stream_that_breaks_off_or_is_left_is_not_kept(store: Any) -> None:
    desk = desk_over(store)
    flow = await desk.answers.open(ask_for(stream=True), CALLER, uuid4())
    await flow.next()
    flow.abandon()
    await desk.settled()

    assert cache_header(await desk.ask(ask_for())) == b"miss"


TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=1_500)


@given(
    texts=st.lists(TEXT, min_size=1, max_size=3),
    arguments=st.lists(TEXT, max_size=3),
    usage=st.booleans(),
)
def test_a_document_comes_back_whole_from_its_own_stream(
    texts: list[str], arguments: list[str], usage: bool
) -> None:
    calls = [
        {"id": f"c{at}", "type": "function", "function": {"name": "f", "arguments": text}}
        for at, text in enumerate(arguments)
    ]
    whole: dict[str, Any] = document()
    whole["choices"] = [
        {
            "index": index,
            "message": {
                "role": "assistant",
                "content": text or None,
                **({"tool_calls": calls} if calls else {}),
            },
            "finish_reason": "stop",
        }
        for index, text in enumerate(texts)
    ]
    if not usage:
        del whole["usage"]

    assembly = Assembly()
    events = events_of(whole, include_usage=usage)
    for event in events[:-1]:
        assembly.feed(json.loads(event.removeprefix(b"data: ")))

    assert events[-1] == DONE
    assert assembly.document() == whole


@pytest.mark.parametrize(
    "chunk",
    [
        {"error": {"message": "broken"}},
        {"choices": [{"index": 0, "delta": {"audio": {"data": "x"}}}]},
        {"choices": [{"index": 0, "delta": {"content": "no end"}}]},
        {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 5}]}, "finish_reason": "stop"}]},
        [],
    ],
)
def test_a_stream_that_can_not_be_put_together_without_loss_is_not_kept(chunk: Any) -> None:
    assembly = Assembly()
    assembly.feed(chunk)

    assert assembly.document() is None


# --- what is the same question ---


def key_of(ask: Ask, caller: Caller = CALLER, policy: CachePolicy = POLICY) -> str | None:
    planned = plan(ask, caller, policy, 0, "")
    return planned.key if planned else None


def test_the_key_covers_everything_that_can_change_the_answer_and_nothing_else() -> None:
    plain = key_of(ask_for())

    for same in [
        ask_for(stream=True, stream_options={"include_usage": True}),
        ask_for(user="somebody", metadata={"a": "b"}),
        parse_ask({"messages": [{"content": "hello", "role": "user"}], "model": "default"}, 10),
    ]:
        assert key_of(same) == plain
    others = [
        ask_for("Hello"),
        ask_for(temperature=0),
        ask_for(max_tokens=5),
        ask_for(tools=[{"type": "function", "function": {"name": "f"}}]),
        ask_for(some_new_field=1),
        ask_for(response_format={"type": "json_object"}),
    ]
    keys = [key_of(other) for other in others]
    assert len({plain, *keys}) == len(others) + 1
    assert key_of(ask_for(), policy=replace(POLICY, generation=1)) != plain


def test_a_policy_may_keep_only_what_was_asked_for_with_temperature_zero() -> None:
    policy = replace(POLICY, mode=Mode.DETERMINISTIC)

    assert key_of(ask_for(), policy=policy) is None
    assert key_of(ask_for(temperature=0.7), policy=policy) is None
    assert key_of(ask_for(temperature=0), policy=policy) is not None
    texts = parse_embedding_ask({"model": "default", "input": "hello"})
    assert key_of(texts, policy=policy) is not None, "a vector is always the same"


def test_an_image_in_the_request_is_part_of_the_question_and_one_elsewhere_keeps_it_out() -> None:
    def picture(url: str) -> Ask:
        content = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": url}}]
        payload = {"model": "default", "messages": [{"role": "user", "content": content}]}
        return parse_ask(payload, len(str(payload)))

    first, second = (
        key_of(picture("data:image/png;base64,AAAA")),
        key_of(picture("data:image/png;base64,BBBB")),
    )
    assert first is not None
    assert first != second
    assert key_of(picture("https://example.org/changes.png")) is None


# --- many at once ---


async def test_of_equal_requests_at_once_one_is_answered_and_the_others_wait_for_it(store: Any) -> None:
    desk = desk_over(store)
    desk.provider.gate = asyncio.Event()
    waiting = [asyncio.ensure_future(desk.answers.complete(ask_for(), CALLER, uuid4())) for _ in range(50)]
    await desk.provider.called.wait()

    desk.provider.gate.set()
    served = await asyncio.gather(*waiting)

    assert desk.provider.calls == 1
    assert sorted(cache_header(each) or b"" for each in served) == [b"hit"] * 49 + [b"miss"]


async def test_two_processes_ask_a_provider_once(store: Any) -> None:
    provider = Provider()
    provider.gate = asyncio.Event()
    first, second = desk_over(store, provider=provider), desk_over(store, provider=provider)
    asked = [
        asyncio.ensure_future(each.answers.complete(ask_for(), CALLER, uuid4())) for each in (first, second)
    ]
    await provider.called.wait()

    provider.gate.set()
    served = await asyncio.gather(*asked)

    assert provider.calls == 1
    assert sorted(cache_header(each) or b"" for each in served) == [b"hit", b"miss"]


async def test_when_the_one_under_way_fails_another_takes_its_place(store: Any) -> None:
    desk = desk_over(store)
    desk.provider.gate = asyncio.Event()
    leader = asyncio.ensure_future(desk.answers.complete(ask_for(), CALLER, uuid4()))
    await desk.provider.called.wait()
    follower = asyncio.ensure_future(desk.answers.complete(ask_for(), CALLER, uuid4()))
    await asyncio.sleep(0.05)

    leader.cancel()
    desk.provider.gate.set()
    served = await asyncio.wait_for(follower, 10)

    assert cache_header(served) == b"miss"
    assert desk.provider.calls == 2


# --- a store that is away, or too small ---


async def test_without_the_store_requests_go_on_as_if_there_were_no_cache() -> None:
    store = MemoryAnswers()
    desk = desk_over(store)
    await desk.ask(ask_for())
    store.away = True

    assert [cache_header(await desk.ask(ask_for())) for _ in range(2)] == [b"miss", b"miss"]
    with pytest.raises(Rejected, match="not_cached"):
        await desk.ask(ask_for(), control=b"only-if-cached")


async def test_a_redis_that_hangs_costs_a_request_some_milliseconds_once() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4_096):
            continue
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    store = RedisAnswers(f"redis://127.0.0.1:{port}/0")
    desk = desk_over(store)

    begun = time.monotonic()
    await desk.ask(ask_for())
    first = time.monotonic() - begun
    begun = time.monotonic()
    for _ in range(20):
        await desk.ask(ask_for())
    rest = time.monotonic() - begun

    assert first < 0.5
    assert rest < 0.5
    assert desk.provider.calls == 21
    await store.close()
    server.close()
    await server.wait_closed()
    gc.collect()


async def test_a_large_answer_is_kept_packed_and_a_huge_one_not_at_all(store: Any) -> None:
    kept = Kept(b"x" * (LARGEST_BYTES // 2), "first", "m", "p", "v", 1, 2, 3, time.time())
    packed = encode(kept)
    assert len(packed) < COMPRESSED_FROM_BYTES * 10
    assert decode(packed) == kept
    assert decode(b"1garbage") is None

    if isinstance(store, RedisAnswers):
        noise = b"".join(uuid4().bytes for _ in range(LARGEST_BYTES // 16 + 4_096))
        await store.put("huge", replace(kept, body=noise), 60)
        assert await store.get("huge") is None


async def test_a_kept_answer_is_gone_after_its_time(store: Any) -> None:
    kept = Kept(b"{}", "first", "m", "p", "v", 1, 2, 3, time.time())
    await store.put("short", kept, 1)
    assert await store.get("short") == kept

    end = time.monotonic() + 10
    while await store.get("short") is not None:
        assert time.monotonic() < end
        await asyncio.sleep(0.1)


async def test_only_the_holder_of_a_lock_opens_it(store: Any) -> None:
    assert await store.lock("k", "me", 5)
    assert not await store.lock("k", "you", 5)
    await store.unlock("k", "you")
    assert not await store.lock("k", "you", 5)
    await store.unlock("k", "me")
    assert await store.lock("k", "you", 5)
