"""Streams that begin with part of their worst case: the hold stays ahead, or the stream ends."""

import asyncio
import json
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos_router.application.extend_stream import Extension
from kairos_router.application.hold_money import Wallet
from kairos_router.application.ports import ProviderCall
from kairos_router.domain.ask import hold_on, tokens_in
from kairos_router.domain.pricing import Usage, cost
from kairos_router.domain.replay import Assembly
from kairos_router.domain.stream_hold import LEADS_AHEAD, Plan, opening_hold, plan_of

LEAD, CHUNK, MOST = 10, 100, 4_000


def piece_of(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    document = {"id": "chatcmpl-7", "created": 7, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(document).encode() + b"\n\n"


@dataclass
class Writing:
    """An answer of one token per byte, `LEAD` tokens ahead of its reader, as far ahead as is vouched for."""

    text: str
    step: int
    usage: Usage | None = None
    finished: bool = False
    closed: bool = False
    read: int = 0

    @property
    def generated(self) -> int:
        return min(len(self.text), self.read + LEAD)

    async def next(self) -> bytes:
        if self.read >= len(self.text):
            if self.finished:
                return b""
            self.usage, self.finished = Usage(5, len(self.text)), True
            return b"data: [DONE]\n\n"
        piece = self.text[self.read : self.read + self.step]
        self.read += len(piece)
        return piece_of(piece)

    def content_bytes(self) -> int:
        return self.read

    def close(self) -> None:
        self.closed = True


class AtOnce(Writing):
    """The whole answer with its end and its usage in one piece."""

    async def next(self) -> bytes:
        if self.finished:
            return b""
        self.read = len(self.text)
        self.usage, self.finished = Usage(5, len(self.text)), True
        return piece_of(self.text) + b"data: [DONE]\n\n"


@dataclass
class Writer:
    """A provider of such answers."""

    size: int
    step: int = LEAD
    kind: type[Writing] = Writing
    calls: list[ProviderCall] = field(default_factory=list)
    streams: list[Writing] = field(default_factory=list)

    async def open_stream(self, call: ProviderCall) -> Writing:
        self.calls.append(call)
        self.streams.append(self.kind("x" * self.size, self.step))
        return self.streams[-1]


def bench_of(kit: SimpleNamespace, writer: Writer, limit: int, **more: Any) -> Any:
    more = {"stream_lead_tokens": LEAD, "stream_chunk_tokens": CHUNK} | more
    deployment = kit.deployment("writer", kind="writer", max_output_tokens=MOST, **more)
    return kit.bench(kit.Catalogue(deployment), {"writer": writer}, kit.Budgets(limit))


def ask_of(kit: SimpleNamespace, **fields: Any) -> Any:
    return kit.ask(stream=True, max_tokens=MOST, **fields)


async def read(streaming: Any) -> bytes:
    answer = b""
    while piece := await streaming.next():
        answer += piece
    return answer


async def test_a_stream_begins_with_a_part_and_grows_with_what_is_written(kit: SimpleNamespace) -> None:
    writer = Writer(2_000)
    bench = bench_of(kit, writer, 10**9)
    streaming = await bench.open(ask_of(kit))
    deployment = streaming.attempt.deployment
    full = hold_on(ask_of(kit), deployment, MOST)
    assert streaming.attempt.hold.amount < full / 10
    answer = await read(streaming)
    assert b"kairos" not in answer
    # The provider was told the whole wish; what it wrote is charged exactly, out of a hold that has grown.
    assert writer.calls[0].max_tokens == MOST
    (ended,) = bench.journal.ended
    assert ended.settlement.cost == cost(deployment.price, Usage(5, 2_000))
    assert full > ended.attempt.hold.amount >= ended.settlement.cost
    assert bench.free() == [0]


async def test_a_stream_ends_cleanly_where_its_hold_can_not_stay_ahead(kit: SimpleNamespace) -> None:
    writer = Writer(MOST)
    bench = bench_of(kit, writer, 400_000)
    streaming = await bench.open(ask_of(kit))
    answer = await read(streaming)
    (stream,), (ended,) = writer.streams, bench.journal.ended
    assert stream.closed
    assert answer.endswith(b"data: [DONE]\n\n")
    assert b": x-kairos-ended budget_exhausted\n\n" in answer
    documents = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith(b"data: {")]
    assert documents[-1]["choices"][0]["finish_reason"] == "length"
    assert documents[-1]["choices"][0]["kairos_reason"] == "budget_exhausted"
    assert {each["id"] for each in documents} == {"chatcmpl-7"}
    # A cache that puts answers together from their chunks does not take a cut one for an answer.
    assembly = Assembly()
    for each in documents:
        assembly.feed(each)
    assert assembly.document() is None
    # What the provider may have generated by then, read or not, is within what was held.
    price = ended.attempt.deployment.price
    assert cost(price, Usage(5, stream.generated)) <= ended.attempt.hold.amount <= 400_000
    assert 0 < ended.settlement.cost <= ended.attempt.hold.amount
    assert ended.settlement.usage.estimated
    assert ended.settlement.usage.output_tokens == tokens_in(stream.read) + LEAD, "seen, and not yet seen"
    assert ended.settlement.outcome == "settled"
    assert bench.free() == [0]
    assert await streaming.next() == b""
    streaming.abandon()
    assert len(bench.journal.ended) == 1


async def test_a_cut_stream_tells_its_usage_to_who_asked_for_it(kit: SimpleNamespace) -> None:
    bench = bench_of(kit, Writer(MOST), 400_000)
    answer = await read(await bench.open(ask_of(kit, stream_options={"include_usage": True})))
    documents = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith(b"data: {")]
    (ended,) = bench.journal.ended
    assert documents[-1]["choices"] == []
    assert documents[-1]["usage"]["completion_tokens"] == ended.settlement.usage.output_tokens


async def test_an_answer_that_has_ended_is_not_cut_whatever_its_hold(kit: SimpleNamespace) -> None:
    ask = ask_of(kit)
    writer = Writer(300, kind=AtOnce)
    deployment = kit.deployment(stream_lead_tokens=LEAD, stream_chunk_tokens=CHUNK)
    opening = opening_hold(ask, deployment, MOST)
    bench = bench_of(kit, writer, opening)
    answer = await read(await bench.open(ask))
    assert answer.endswith(b"data: [DONE]\n\n")
    assert b"kairos" not in answer
    (ended,) = bench.journal.ended
    assert ended.settlement.cost == 5 * 100 + 300 * 400 > ended.attempt.hold.amount


def test_a_stream_grows_in_parts_that_leave_time_to_ask_for_the_next(kit: SimpleNamespace) -> None:
    deployment = kit.deployment(stream_lead_tokens=50, stream_chunk_tokens=10)
    plan = plan_of(kit.ask(stream=True), deployment, 4_000)
    assert plan == Plan(4_000, 400, 50), "a smaller part would be cut before the first growth"
    assert [plan.low(covered, 0) for covered in (299, 300)] == [True, False]
    assert not plan.low(4_000, 4_000)
    for ask in (kit.ask(), kit.ask(stream=True, n=2), replace(kit.ask(stream=True), operation="responses")):
        assert plan_of(ask, deployment, 4_000) is None


class Shelf:
    """A wallet with nothing at hand: more arrives when somebody has asked for it and `arrived` is set."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.here = False
        self.arrived = asyncio.Event()
        self.given_up = False

    def extend(self, hold: Any, amount: int) -> Any:
        return replace(hold, amount=amount) if self.here else None

    async def widen(self, _hold: Any, amount: int) -> None:
        self.asked.append(amount)
        try:
            await self.arrived.wait()
        except asyncio.CancelledError:
            self.given_up = True
            raise
        self.here = True


async def growing(kit: SimpleNamespace) -> tuple[Extension, Shelf, Plan, int]:
    """An extension over a shelf, its plan, and how much it may see before it must grow."""
    streaming = await bench_of(kit, Writer(2_000), 10**9).open(ask_of(kit))
    attempt, shelf = streaming.attempt, Shelf()
    plan = plan_of(ask_of(kit), attempt.deployment, attempt.max_tokens)
    assert plan is not None
    extension = Extension(cast("Wallet", shelf), ask_of(kit), attempt)
    streaming.abandon()
    low = next(seen for seen in range(MOST) if plan.low(plan.wanted(0), seen))
    return extension, shelf, plan, low


async def test_what_is_not_at_hand_is_asked_for_once_while_the_stream_goes_on(kit: SimpleNamespace) -> None:
    extension, shelf, plan, low = await growing(kit)
    assert extension.covers(low - 1)
    await asyncio.sleep(0)
    assert shelf.asked == [], "half a chunk ahead is soon enough"
    for seen in (low, low + 1):
        assert extension.covers(seen)
        await asyncio.sleep(0)
    assert len(shelf.asked) == 1
    before = extension.hold.amount
    assert shelf.asked[0] > before
    shelf.arrived.set()
    await kit.until(lambda: shelf.here)
    assert extension.covers(low + 2)
    assert extension.hold.amount > before
    assert extension.covers(plan.wanted(low + 2) - LEADS_AHEAD * LEAD)


async def test_a_stream_that_ends_asks_for_no_more(kit: SimpleNamespace) -> None:
    extension, shelf, _plan, low = await growing(kit)
    assert extension.covers(low)
    await asyncio.sleep(0)
    extension.stop()
    await kit.until(lambda: shelf.given_up)


@pytest.mark.parametrize("more", [{"stream_lead_tokens": None}, {"stream_chunk_tokens": None}])
async def test_where_nobody_vouches_for_the_provider_the_worst_case_is_held_from_the_start(
    kit: SimpleNamespace, more: Any
) -> None:
    bench = bench_of(kit, Writer(50), 10**9, **more)
    streaming = await bench.open(ask_of(kit))
    assert streaming.attempt.hold.amount == hold_on(ask_of(kit), streaming.attempt.deployment, MOST)
    await read(streaming)


async def test_a_caller_who_leaves_a_growing_stream_is_charged_out_of_the_grown_hold(
    kit: SimpleNamespace,
) -> None:
    bench = bench_of(kit, Writer(2_000), 10**9)
    streaming = await bench.open(ask_of(kit))
    for _ in range(60):
        await streaming.next()
    streaming.abandon()
    (ended,) = bench.journal.ended
    assert ended.settlement.outcome == "settled"
    assert ended.settlement.cost <= ended.attempt.hold.amount
    assert bench.free() == [0]


@given(
    lead=st.integers(1, 50),
    chunk=st.integers(1, 500),
    most=st.integers(1, 3_000),
    pieces=st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=200),
)
def test_what_may_have_been_generated_is_always_covered(
    lead: int, chunk: int, most: int, pieces: list[tuple[int, bool]]
) -> None:
    """What comes between two looks is within the lead, and so is what comes after the end."""
    plan = Plan(most, chunk, lead)
    covered, seen = plan.wanted(0), 0
    assert covered >= min(most, LEADS_AHEAD * lead)
    for size, granted in pieces:
        written = min(size, lead, most - seen)
        seen += written
        # At this look the provider is at most its lead ahead, and the stream may end here.
        assert covered >= min(most, seen + lead)
        if plan.low(covered, seen) and granted:
            covered = plan.wanted(seen)
        if covered < plan.needed(seen):
            return
