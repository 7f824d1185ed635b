"""Event streams cut anywhere, usage in every shape, the simulator's own answers."""

import itertools
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos_router.adapters.openai_documents import (
    LONGEST_EVENT,
    EventTail,
    parse_answer,
    read_usage,
    request_body,
)
from kairos_router.adapters.simulator import Simulator
from kairos_router.application.ports import ProviderCall, ProviderFailed
from kairos_router.domain.pricing import Usage

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def event(document: Any) -> bytes:
    return b"data: " + (document if isinstance(document, bytes) else orjson.dumps(document)) + b"\n\n"


def chunk(text: str | None, **more: Any) -> bytes:
    delta = {} if text is None else {"content": text}
    return event({"choices": [{"index": 0, "delta": delta}], **more})


TOLD = event({"choices": [], "usage": USAGE})
DONE = event(b"[DONE]")
STREAM = b": a comment\n\n" + chunk("Hello") + chunk(' "usage": {') + chunk(None) + TOLD + DONE


def read_in_pieces(tail: EventTail, stream: bytes, cuts: list[int]) -> bytes:
    edges = [0, *sorted({cut % len(stream) for cut in cuts}), len(stream)]
    return b"".join(tail.feed(stream[a:b]) for a, b in itertools.pairwise(edges))


@given(st.lists(st.integers(0, 10_000), max_size=12))
def test_wherever_a_stream_is_cut_the_caller_gets_the_same_events_and_we_the_usage(cuts: list[int]) -> None:
    wanted, plain = EventTail(include_usage=True), EventTail(include_usage=False)
    assert read_in_pieces(wanted, STREAM, cuts) == STREAM
    assert read_in_pieces(plain, STREAM, cuts) == STREAM.replace(TOLD, b"")
    for tail in (wanted, plain):
        assert tail.usage == Usage(7, 3)
        assert tail.finished
        assert tail.content_bytes() == len('Hello "usage": {')


def test_carriage_returns_end_events_too() -> None:
    tail = EventTail(include_usage=False)
    crlf = STREAM.replace(b"\n", b"\r\n")
    assert tail.feed(crlf) == crlf.replace(TOLD.replace(b"\n", b"\r\n"), b"")
    assert tail.usage == Usage(7, 3)


def test_usage_within_a_chunk_of_text_leaves_the_chunk_alone() -> None:
    tail = EventTail(include_usage=False)
    last = chunk("end", usage=USAGE)
    assert tail.feed(last) == last
    assert tail.usage == Usage(7, 3)


def test_nothing_is_passed_on_before_the_provider_has_begun_to_answer() -> None:
    tail = EventTail(include_usage=False)
    assert tail.feed(b": wait\n\n") == b""
    assert tail.feed(chunk("x")) == b": wait\n\n" + chunk("x")


@pytest.mark.parametrize(
    "stream", [event(b"<html>"), event({"error": {"message": "overloaded"}}), b"x" * (LONGEST_EVENT + 1)]
)
def test_what_is_no_chat_stream_is_the_providers_failure_and_may_have_run(stream: bytes) -> None:
    with pytest.raises(ProviderFailed) as caught:
        EventTail(include_usage=False).feed(stream)
    assert caught.value.may_have_run


def test_a_long_stream_is_counted_without_being_kept() -> None:
    tail = EventTail(include_usage=False)
    for _ in range(2_000):
        tail.feed(chunk("word "))
    assert len(tail._uncounted) < 2_000
    assert tail.content_bytes() == 10_000


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (USAGE, Usage(7, 3)),
        (USAGE | {"prompt_tokens_details": {"cached_tokens": 5}}, Usage(7, 3, 5)),
        (USAGE | {"prompt_tokens_details": {"cached_tokens": -5}}, Usage(7, 3)),
        (None, None),
        ({"prompt_tokens": -1, "completion_tokens": 3}, None),
        ({"prompt_tokens": "7", "completion_tokens": 3}, None),
        ({"prompt_tokens": True, "completion_tokens": 3}, None),
        ({"prompt_tokens": 0, "completion_tokens": 0}, None),
    ],
)
def test_only_believable_usage_is_read(usage: Any, expected: Usage | None) -> None:
    assert read_usage({"usage": usage}) == expected


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"choices": []}', b'{"choices": ["x"]}', b"\xff{"])
def test_an_answer_without_choices_is_no_answer(body: bytes) -> None:
    with pytest.raises(ProviderFailed):
        parse_answer(body)


def call_of(kit: SimpleNamespace, text: str = "hello", **more: Any) -> ProviderCall:
    payload = {"model": "default", "messages": [{"role": "user", "content": text}], **more}
    return ProviderCall(kit.deployment(), payload, 40, uuid4())


def test_the_request_carries_our_limit_in_the_providers_field_and_the_rest_untouched(
    kit: SimpleNamespace,
) -> None:
    call = call_of(kit, max_tokens=9_999, max_completion_tokens=9_999, seed=7, vendor_thing={"a": [1]})
    body = orjson.loads(request_body(call, stream=False))
    assert body == {
        "model": "model-of-paid",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 40,
        "seed": 7,
        "vendor_thing": {"a": [1]},
    }


def test_a_streams_usage_is_always_asked_for(kit: SimpleNamespace) -> None:
    body = orjson.loads(request_body(call_of(kit, stream=True, stream_options={"other": 1}), stream=True))
    assert body["stream_options"] == {"other": 1, "include_usage": True}


async def test_the_simulator_says_the_same_thing_twice_plain_and_streamed(kit: SimpleNamespace) -> None:
    simulator, call = Simulator(), call_of(kit, "how are you")
    plain = await simulator.complete(call)
    assert plain.body == (await simulator.complete(call)).body
    assert plain.document["choices"][0]["message"]["content"] == "You said: how are you"
    stream = await simulator.open_stream(call)
    tail = EventTail(include_usage=False)
    while piece := await stream.next():
        tail.feed(piece)
    assert stream.finished
    assert stream.usage == plain.usage
    assert stream.content_bytes() == tail.content_bytes() == len("You said: how are you")


@given(st.text(max_size=400))
async def test_the_simulator_keeps_within_the_bounds_of_its_hold(kit: SimpleNamespace, text: str) -> None:
    call = call_of(kit, text)
    reply = await Simulator().complete(call)
    assert reply.usage is not None
    assert 0 < reply.usage.output_tokens <= call.max_tokens
    assert reply.usage.input_tokens <= max(1, len(orjson.dumps(call.payload)))
