"""Responses and embeddings: what is understood, what it is translated to, and what it costs."""

import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from kairos_router.adapters.chat_to_responses import to_response
from kairos_router.adapters.openai_documents import event_documents
from kairos_router.adapters.openai_upstream import OpenAIUpstream
from kairos_router.adapters.response_events import ResponseEvents
from kairos_router.adapters.responses_documents import ResponseTail, response_reply
from kairos_router.adapters.responses_to_chat import to_chat
from kairos_router.adapters.translated_responses import TranslatedResponses
from kairos_router.application.choose_deployment import Refused
from kairos_router.application.ports import Fault, ProviderFailed
from kairos_router.domain.ask import Ask, InvalidAsk, bounds_on, max_tokens_on
from kairos_router.domain.catalogue import Capability
from kairos_router.domain.embedding_ask import parse_embedding_ask
from kairos_router.domain.pricing import Usage
from kairos_router.domain.response_ask import HOSTED_TOOL_CALLS, parse_response_ask
from kairos_router.domain.selection import NothingFits, fitting
from kairos_testkit.fake_answers import count_tokens
from kairos_testkit.fake_provider import FakeProvider
from kairos_testkit.faults_script import Fault as Script

CHAT_ONLY = frozenset(Capability) - {Capability.RESPONSES, Capability.EMBEDDINGS}
NATIVE = CHAT_ONLY | {Capability.RESPONSES}
FUNCTION = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True}


def asked(**fields: Any) -> Ask:
    payload = {"model": "default", "input": "hello", **fields}
    return parse_response_ask(payload, len(json.dumps(payload)))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"background": True}, "background"),
        ({"store": True}, "store"),
        ({"input": []}, "input"),
        ({"input": 7}, "input"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input"),
        ({"tools": [1]}, "tools"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"instructions": ["x"]}, "instructions"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"model": ""}, "model"),
    ],
)
def test_what_can_not_be_done_is_refused_by_the_parameters_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidAsk) as caught:
        asked(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": [{"type": "custom", "name": "x"}]}, "tools"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice"),
        ({"truncation": "auto"}, "truncation"),
        ({"input": [{"type": "computer_call_output", "output": {}}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "mystery"}]}]}, "input"),
    ],
)
def test_what_only_the_api_itself_can_do_needs_a_deployment_that_has_it(
    kit: SimpleNamespace, fields: dict[str, Any], param: str
) -> None:
    ask = asked(**fields)
    assert ask.native == param
    with pytest.raises(NothingFits):
        fitting(ask, [kit.deployment("chat", capabilities=CHAT_ONLY)])
    assert fitting(ask, [kit.deployment("native", capabilities=NATIVE)])


def test_tools_at_the_provider_have_a_bound_and_so_has_their_money(kit: SimpleNamespace) -> None:
    native = kit.deployment("native", capabilities=NATIVE)
    unbounded = asked(tools=[{"type": "web_search"}])
    assert unbounded.payload["max_tool_calls"] == HOSTED_TOOL_CALLS
    bound = bounds_on(unbounded, native, 10).input_tokens
    assert bound == native.context_window * (HOSTED_TOOL_CALLS + 1)
    once = asked(tools=[{"type": "web_search"}], max_tool_calls=1)
    assert bounds_on(once, native, 10).input_tokens == native.context_window * 2
    assert "max_tool_calls" not in asked(tools=[FUNCTION]).payload


def test_a_request_becomes_the_chat_completion_that_asks_for_the_same() -> None:
    chat = to_chat(
        {
            "model": "m",
            "instructions": "be brief",
            "input": [
                {"role": "developer", "content": "and kind"},
                {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
                {"type": "reasoning", "summary": []},
                {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
                {"type": "function_call", "call_id": "c2", "name": "weather", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c1", "output": "sun"},
                {
                    "type": "function_call_output",
                    "call_id": "c2",
                    "output": [{"type": "input_text", "text": "x"}],
                },
                {"role": "assistant", "content": [{"type": "output_text", "text": "sunny"}]},
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "see"},
                        {"type": "input_image", "image_url": "data:x", "detail": "low"},
                        {"type": "input_file", "file_data": "data:y", "filename": "a.pdf"},
                    ],
                },
            ],
            "tools": [FUNCTION],
            "tool_choice": {"type": "function", "name": "weather"},
            "parallel_tool_calls": False,
            "text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True}},
            "reasoning": {"effort": "low", "summary": "auto"},
            "top_logprobs": 2,
            "temperature": 0.1,
            "store": False,
            "field_of_tomorrow": {"kept": True},
        }
    )
    call = {"type": "function", "function": {"name": "weather", "arguments": "{}"}}
    assert chat.pop("messages") == [
        {"role": "system", "content": "be brief"},
        {"role": "system", "content": "and kind"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", **call}, {"id": "c2", **call}]},
        {"role": "tool", "tool_call_id": "c1", "content": "sun"},
        {"role": "tool", "tool_call_id": "c2", "content": "x"},
        {"role": "assistant", "content": "sunny"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "see"},
                {"type": "image_url", "image_url": {"url": "data:x", "detail": "low"}},
                {"type": "file", "file": {"file_data": "data:y", "filename": "a.pdf"}},
            ],
        },
    ]
    function = {"name": "weather", "parameters": {"type": "object"}, "strict": True}
    assert chat == {
        "model": "m",
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "parallel_tool_calls": False,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": {}, "strict": True},
        },
        "reasoning_effort": "low",
        "logprobs": True,
        "top_logprobs": 2,
        "temperature": 0.1,
        "field_of_tomorrow": {"kept": True},
    }


def test_tools_that_are_not_allowed_are_left_out() -> None:
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "clock"}]}
    chat = to_chat(
        {"input": "x", "tools": [FUNCTION, {"type": "function", "name": "clock"}], "tool_choice": choice}
    )
    assert [tool["function"]["name"] for tool in chat["tools"]] == ["clock"]
    assert chat["tool_choice"] == "required"


def completion(message: dict[str, Any], finish_reason: str = "stop") -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish_reason}
    return {"id": "x", "created": 5, "model": "m", "choices": [choice]}


CALLS = [
    {"id": "c1", "type": "function", "function": {"name": "a", "arguments": "{}"}},
    {"id": "c2", "type": "function", "function": {"name": "b", "arguments": '{"x": 1}'}},
]


@pytest.mark.parametrize(
    ("message", "kinds"),
    [
        ({"content": "hi"}, ["message"]),
        ({"content": ""}, ["message"]),
        ({"content": None, "refusal": "no"}, ["message"]),
        ({"content": "hi", "reasoning_content": "hm"}, ["reasoning", "message"]),
        ({"content": None, "tool_calls": CALLS}, ["function_call", "function_call"]),
        ({"content": "so", "tool_calls": CALLS}, ["message", "function_call", "function_call"]),
    ],
)
def test_whole_and_streamed_answers_become_the_same_items(message: dict[str, Any], kinds: list[str]) -> None:
    whole = to_response({}, completion(message), Usage(3, 4), "k")
    assert [item["type"] for item in whole["output"]] == kinds
    delta = {name: value for name, value in message.items() if name != "tool_calls"}
    chunks = [{"model": "m", "choices": [{"index": 0, "delta": delta}]}]
    for index, call in enumerate(message.get("tool_calls") or ()):
        parts = ({"index": index, **call}, {"index": index, "function": {"arguments": ""}})
        chunks += [{"choices": [{"index": 0, "delta": {"tool_calls": [part]}}]} for part in parts]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    events = ResponseEvents({}, "k")
    raw = b"".join(map(events.chunk, chunks)) + events.end(Usage(3, 4))
    documents = event_documents(raw)
    assert documents[-1]["response"]["output"] == whole["output"]
    assert documents[-1]["response"]["usage"] == whole["usage"]
    assert [each["sequence_number"] for each in documents] == list(range(len(documents)))
    added = [each for each in documents if each["type"] == "response.output_item.added"]
    done = [each["item"] for each in documents if each["type"] == "response.output_item.done"]
    assert [each["output_index"] for each in added] == list(range(len(kinds)))
    assert done == whole["output"]


def test_a_filtered_answer_is_incomplete() -> None:
    document = to_response({}, completion({"content": "h"}, "content_filter"), None, "k")
    assert (document["status"], document["incomplete_details"]) == (
        "incomplete",
        {"reason": "content_filter"},
    )
    assert document["usage"] is None


def test_a_response_that_failed_is_no_answer_and_may_have_run() -> None:
    for body in (b"x", b"{}", b'{"output": [], "status": "failed"}'):
        with pytest.raises(ProviderFailed) as caught:
            response_reply(body)
        assert caught.value.may_have_run
    tail = ResponseTail(include_usage=True)
    tail.feed(b'data: {"type":"response.created","response":{"usage":null,"error":null}}\n\n')
    failed = {"usage": {"input_tokens": 5, "output_tokens": 2}, "error": {"message": "x"}}
    event = json.dumps({"type": "response.failed", "response": failed}).encode()
    with pytest.raises(ProviderFailed) as caught:
        tail.feed(b"data: " + event + b"\n\n")
    assert caught.value.fault is Fault.FAILED
    assert tail.usage == Usage(5, 2)


# --- money ---


@pytest.fixture
async def upstream() -> AsyncIterator[TranslatedResponses]:
    running = TranslatedResponses(OpenAIUpstream())
    yield running
    await running.close()


def bench_of(kit: SimpleNamespace, upstream: Any, provider: FakeProvider, limit: int, **more: Any) -> Any:
    deployment = kit.deployment("one", base_url=provider.url, **more)
    return kit.bench(kit.Catalogue(deployment), {"openai": upstream}, kit.Budgets(limit))


async def drain(streaming: Any) -> bytes:
    events = b""
    while piece := await streaming.next():
        events += piece
    return events


@pytest.mark.parametrize("capabilities", [CHAT_ONLY, NATIVE], ids=["translated", "native"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_response_is_held_and_settled_by_the_providers_usage(
    kit: SimpleNamespace, upstream: Any, provider: FakeProvider, capabilities: Any, stream: bool
) -> None:
    bench = bench_of(kit, upstream, provider, 10**9, capabilities=capabilities)
    ask = asked(input="hello out there", max_output_tokens=50, stream=stream)
    await drain(await bench.open(ask)) if stream else await bench.ask(ask)
    (ended,), (booked,) = bench.journal.ended, provider.records
    assert ended.settlement.cost == booked.input_tokens * 100 + booked.output_tokens * 400 > 0
    assert ended.attempt.hold.amount >= ended.settlement.cost
    assert bench.free() == [0]
    body = provider.requests[-1].body
    native = capabilities is NATIVE
    assert provider.requests[-1].path == ("/v1/responses" if native else "/v1/chat/completions")
    assert body.get("max_output_tokens" if native else "max_tokens") == 50
    assert body.get("store") is (False if native else None)


@pytest.mark.parametrize("capabilities", [CHAT_ONLY, NATIVE], ids=["translated", "native"])
@pytest.mark.parametrize("fault", [Script(drop=True), Script(garbage=True)], ids=["dropped", "garbage"])
async def test_a_response_that_may_have_run_keeps_its_hold(
    kit: SimpleNamespace, upstream: Any, provider: FakeProvider, capabilities: Any, fault: Script
) -> None:
    bench = bench_of(kit, upstream, provider, 10**9, capabilities=capabilities)
    provider.fail(Script(drop=fault.drop, garbage=fault.garbage))
    with pytest.raises(ProviderFailed):
        await bench.ask(asked())
    assert bench.journal.outcomes() == [("one", "unknown")]


@pytest.mark.parametrize("capabilities", [CHAT_ONLY, NATIVE], ids=["translated", "native"])
async def test_a_streamed_response_that_is_cut_is_unknown_or_exact(
    kit: SimpleNamespace, upstream: Any, provider: FakeProvider, capabilities: Any
) -> None:
    bench = bench_of(kit, upstream, provider, 10**9, capabilities=capabilities)
    provider.fail(Script(cut_after_bytes=3_000))
    streaming = await bench.open(asked(input="word " * 60, stream=True))
    with pytest.raises(ProviderFailed):
        await drain(streaming)
    assert bench.journal.outcomes() == [("one", "unknown")]


@pytest.mark.parametrize("capabilities", [CHAT_ONLY, NATIVE], ids=["translated", "native"])
async def test_a_response_without_usage_is_charged_by_what_was_seen(
    kit: SimpleNamespace, upstream: Any, provider: FakeProvider, capabilities: Any
) -> None:
    bench = bench_of(kit, upstream, provider, 10**9, capabilities=capabilities)
    provider.fail(Script(omit_usage=True, times=0))
    await bench.ask(asked(input="hello"))
    await drain(await bench.open(asked(input="hello", stream=True)))
    for ended in bench.journal.ended:
        assert ended.settlement.usage.estimated
        assert ended.settlement.usage.output_tokens >= count_tokens("echo: hello")


def embeddings(given: Any, **more: Any) -> Ask:
    return parse_embedding_ask({"model": "default", "input": given, **more})


@pytest.mark.parametrize(
    ("given", "size", "inputs"),
    [("abc", 3, 1), (["abc", "de"], 5, 2), ([1, 2, 3], 3, 1), ([[1, 2], [3]], 3, 2), ("ü", 2, 1)],
)
def test_an_embeddings_request_is_bounded_by_bytes_or_by_token_ids(
    given: Any, size: int, inputs: int, kit: SimpleNamespace
) -> None:
    ask = embeddings(given)
    assert (ask.size, ask.inputs) == (size, inputs)
    assert max_tokens_on(ask, kit.deployment()) == 0


@pytest.mark.parametrize(
    "given", [None, "", [], [""], [[]], [1, "a"], [["a"]], [-1], [True], {}, ["a"] * 2_049]
)
def test_a_bad_input_of_embeddings_is_refused(given: Any) -> None:
    with pytest.raises(InvalidAsk) as caught:
        embeddings(given)
    assert caught.value.param == "input"


def test_each_text_has_the_context_window_to_itself(kit: SimpleNamespace) -> None:
    deployment = kit.deployment(capabilities=frozenset({Capability.EMBEDDINGS}), context_window=100)
    many = embeddings(["x" * 300] * 50)
    assert fitting(many, [deployment])
    assert bounds_on(many, deployment, 0).input_tokens == 100 * 50
    with pytest.raises(NothingFits):
        fitting(embeddings(["x" * 5_000]), [deployment])
    with pytest.raises(NothingFits):
        fitting(kit.ask(), [deployment])


async def test_embeddings_cost_their_input_and_a_budget_stops_them(
    kit: SimpleNamespace, upstream: Any, provider: FakeProvider
) -> None:
    more = {"capabilities": frozenset({Capability.EMBEDDINGS}), "price": (100, 0)}
    bench = bench_of(kit, upstream, provider, 10**9, **more)
    answer = await bench.ask(embeddings(["alpha", "beta"], dimensions=8))
    assert [len(each["embedding"]) for each in answer.reply.document["data"]] == [8, 8]
    (ended,) = bench.journal.ended
    assert ended.settlement.cost == provider.records[0].input_tokens * 100
    assert ended.settlement.usage.output_tokens == 0
    provider.fail(Script(omit_usage=True))
    await bench.ask(embeddings(["alpha"]))
    assert bench.journal.ended[-1].settlement.cost > 0
    poor = bench_of(kit, upstream, provider, 10, **more)
    with pytest.raises(Refused):
        await poor.ask(embeddings("alpha " * 100))
    assert poor.journal.sent == []
