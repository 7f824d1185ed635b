"""Providers reached by LiteLLM's SDK, held to fakes that answer in the shapes the providers document."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import orjson
import pytest

from kairos_router.adapters.litellm_request import arguments
from kairos_router.adapters.litellm_upstream import LiteLLMUpstream, PoisonedRelease, require_clean
from kairos_router.adapters.translated_responses import TranslatedResponses
from kairos_router.application.ports import Fault, ProviderCall, ProviderFailed
from kairos_router.domain.catalogue import Deployment, Dialect, Timeouts
from kairos_testkit.fake_answers import count_tokens
from kairos_testkit.fake_anthropic import FakeAnthropic
from kairos_testkit.fake_bedrock import FakeBedrock
from kairos_testkit.fake_cohere import FakeCohere
from kairos_testkit.fake_gemini import FakeGemini
from kairos_testkit.faults_script import Fault as Script
from kairos_testkit.ports import free_port

from .sdk_calls import SDK_MARKS, TOOL, asks, failure, pieces  # noqa: TID252 - tests have no importable package name

SOURCES = Path(__file__).parents[1] / "src"
pytestmark = SDK_MARKS


@pytest.fixture
def claude() -> Iterator[FakeAnthropic]:
    with FakeAnthropic() as running:
        yield running


@pytest.fixture
def gemini() -> Iterator[FakeGemini]:
    with FakeGemini() as running:
        yield running


@pytest.fixture
def bedrock() -> Iterator[FakeBedrock]:
    with FakeBedrock() as running:
        yield running


@pytest.fixture
def cohere() -> Iterator[FakeCohere]:
    with FakeCohere() as running:
        yield running


def at(provider: str, model: str, base_url: str, kit: SimpleNamespace, **more: Any) -> Deployment:
    values = {"timeouts": Timeouts(first_byte=30.0, idle=30.0), "api_key": "secret-key"} | more
    deployment: Deployment = kit.deployment(
        provider, kind="litellm", provider=provider, model=model, base_url=base_url, **values
    )
    return deployment


@pytest.fixture
def to_claude(claude: FakeAnthropic, kit: SimpleNamespace) -> Deployment:
    return at("anthropic", "claude-sonnet-4-5", claude.base_url, kit)


def called(chunks: list[Any]) -> tuple[str, Any]:
    """The one tool that a stream calls, and its arguments."""
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    calls = [each["function"] for delta in deltas for each in delta.get("tool_calls") or ()]
    return calls[0]["name"], json.loads("".join(each.get("arguments") or "" for each in calls))


async def test_a_plain_answer_of_anthropic_counts_its_caches_within_the_input(
    sdk: LiteLLMUpstream, claude: FakeAnthropic, to_claude: Deployment
) -> None:
    claude.cached, claude.written = 40, 8
    reply = await sdk.complete(asks(to_claude, temperature=0.5))
    assert reply.document["object"] == "chat.completion"
    assert reply.document["choices"][0]["message"]["content"] == "echo: hello there"
    assert orjson.loads(reply.body) == reply.document
    (record,) = claude.records
    assert (record.body["max_tokens"], record.body["temperature"]) == (50, 0.5)
    assert record.headers["x-api-key"] == "secret-key"
    assert reply.usage is not None
    fresh = record.usage["input_tokens"]
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (
        fresh + 48,
        record.usage["output_tokens"],
    )
    assert (reply.usage.cached_input_tokens, reply.usage.cache_write_tokens) == (40, 8)


async def test_a_stream_of_anthropic_becomes_openai_events(
    sdk: LiteLLMUpstream, claude: FakeAnthropic, to_claude: Deployment
) -> None:
    claude.cached = 40
    chunks, stream = await pieces(sdk, asks(to_claude, "one two three", include_usage=True))
    text = "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"])
    assert text == "echo: one two three"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len([chunk for chunk in chunks if chunk["choices"]]) >= 4
    assert stream.finished
    assert stream.usage.output_tokens == claude.records[0].usage["output_tokens"]
    assert stream.usage.cached_input_tokens == 40
    assert stream.content_bytes() > len(text)
    unasked, quiet = await pieces(sdk, asks(to_claude, "one two three"))
    assert all("usage" not in chunk for chunk in unasked)
    assert quiet.usage == stream.usage


async def test_tools_of_anthropic_are_called_whole_and_in_a_stream(
    sdk: LiteLLMUpstream, claude: FakeAnthropic, to_claude: Deployment
) -> None:
    reply = await sdk.complete(asks(to_claude, "weather in Rome", tools=[TOOL]))
    choice = reply.document["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"city": "weather in Rome"}
    chunks, _ = await pieces(sdk, asks(to_claude, "weather in Rome", tools=[TOOL]))
    assert called(chunks) == ("weather", {"city": "weather in Rome"})
    assert claude.records[0].body["tools"][0]["name"] == "weather"
    messages = [
        {"role": "user", "content": "weather in Rome"},
        choice["message"],
        {"role": "tool", "tool_call_id": call["id"], "content": "sunny"},
    ]
    after = await sdk.complete(asks(to_claude, messages=messages, tools=[TOOL]))
    assert after.document["choices"][0]["message"]["content"] == "echo: sunny"


@pytest.mark.parametrize(
    ("status", "fault", "may_have_run"),
    [
        (400, Fault.INVALID_REQUEST, False),
        (401, Fault.MISCONFIGURED, False),
        (403, Fault.MISCONFIGURED, False),
        (404, Fault.MISCONFIGURED, False),
        (429, Fault.RATE_LIMITED, False),
        (500, Fault.FAILED, False),
        (503, Fault.FAILED, False),
        (504, Fault.TIMEOUT, True),
        (529, Fault.FAILED, False),
    ],
)
async def test_an_error_of_the_provider_says_whether_it_may_have_run(
    sdk: LiteLLMUpstream,
    claude: FakeAnthropic,
    to_claude: Deployment,
    status: int,
    fault: Fault,
    may_have_run: bool,
) -> None:
    claude.fail(Script(status=status, times=0, retry_after=3))
    failed = await failure(sdk, asks(to_claude))
    assert (failed.fault, failed.may_have_run) == (fault, may_have_run)
    assert len(claude.records) == 1, "the SDK tried again without a hold"
    if status == 429:
        assert failed.retry_after == "3"
    if status == 400:
        assert "scripted failure" in json.loads(failed.body)["error"]["message"]


async def test_an_address_nobody_listens_at_was_never_reached(
    sdk: LiteLLMUpstream, kit: SimpleNamespace
) -> None:
    nowhere = at("anthropic", "claude-sonnet-4-5", f"http://127.0.0.1:{free_port()}", kit)
    failed = await failure(sdk, asks(nowhere))
    assert (failed.fault, failed.may_have_run) == (Fault.UNREACHABLE, False)


async def test_our_own_patience_ends_a_call_and_it_may_have_run(
    sdk: LiteLLMUpstream, claude: FakeAnthropic, kit: SimpleNamespace
) -> None:
    claude.fail(Script(delay_ms=3_000))
    impatient = at(
        "anthropic", "claude-sonnet-4-5", claude.base_url, kit, timeouts=Timeouts(first_byte=0.5, idle=0.5)
    )
    failed = await failure(sdk, asks(impatient))
    assert (failed.fault, failed.may_have_run) == (Fault.TIMEOUT, True)


async def test_a_stream_that_was_cut_is_not_whole(
    sdk: LiteLLMUpstream, claude: FakeAnthropic, to_claude: Deployment
) -> None:
    claude.fail(Script(cut_after_bytes=1_500))
    stream = await sdk.open_stream(asks(to_claude, "word " * 60))

    async def drain() -> None:
        while await stream.next():
            pass

    with pytest.raises(ProviderFailed) as caught:
        await drain()
    stream.close()
    assert caught.value.may_have_run
    assert not stream.finished
    assert stream.content_bytes() > 0


async def test_a_stream_that_ends_politely_in_the_middle_is_not_whole_either(
    sdk: LiteLLMUpstream, claude: FakeAnthropic, to_claude: Deployment
) -> None:
    claude.events_at_most = 8
    with pytest.raises(ProviderFailed) as caught:
        await pieces(sdk, asks(to_claude, "word " * 60))
    assert caught.value.may_have_run


async def test_a_responses_request_is_answered_too(sdk: LiteLLMUpstream, to_claude: Deployment) -> None:
    payload = {"model": "m", "input": "hello", "instructions": "be brief"}
    call = ProviderCall(to_claude, payload, 50, uuid4(), operation="responses")
    reply = await TranslatedResponses(sdk).complete(call)
    assert reply.document["output"][0]["content"][0]["text"] == "echo: hello"
    assert reply.document["usage"]["output_tokens"] == count_tokens("echo: hello")


async def test_gemini_answers_whole_and_in_pieces_and_its_thoughts_are_charged(
    sdk: LiteLLMUpstream, gemini: FakeGemini, kit: SimpleNamespace
) -> None:
    gemini.cached, gemini.thoughts = 2, 30
    deployment = at("gemini", "gemini-2.5-flash", gemini.url, kit)
    reply = await sdk.complete(asks(deployment))
    assert reply.document["choices"][0]["message"]["content"] == "echo: hello there"
    assert reply.usage is not None
    said = count_tokens("echo: hello there")
    assert (reply.usage.output_tokens, reply.usage.reasoning_tokens) == (said + 30, 30)
    assert reply.usage.cached_input_tokens == 2
    chunks, stream = await pieces(sdk, asks(deployment, "one two three"))
    text = "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"])
    assert text == "echo: one two three"
    assert stream.usage.reasoning_tokens == 30
    assert [record.path.partition(":")[2] for record in gemini.records] == [
        "generateContent",
        "streamGenerateContent?alt=sse",
    ]
    assert "secret-key" not in "".join(record.path for record in gemini.records)


async def test_gemini_calls_tools_and_its_errors_are_told_apart(
    sdk: LiteLLMUpstream, gemini: FakeGemini, kit: SimpleNamespace
) -> None:
    deployment = at("gemini", "gemini-2.5-flash", gemini.url, kit)
    reply = await sdk.complete(asks(deployment, "weather in Oslo", tools=[TOOL]))
    (call,) = reply.document["choices"][0]["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"city": "weather in Oslo"}
    for status, fault in ((429, Fault.RATE_LIMITED), (403, Fault.MISCONFIGURED), (503, Fault.FAILED)):
        gemini.fail(Script(status=status))
        assert (await failure(sdk, asks(deployment))).fault is fault


def in_bedrock(bedrock: FakeBedrock, kit: SimpleNamespace, **more: Any) -> Deployment:
    options = (
        ("aws_access_key_id", "AKIAFAKE"),
        ("aws_secret_access_key", "fake-secret"),
        ("aws_region_name", "eu-west-1"),
        ("aws_bedrock_runtime_endpoint", bedrock.base_url),
    )
    model = "anthropic.claude-3-5-sonnet-20240620-v1:0"
    return at("bedrock", model, "", kit, api_key=None, dialect=Dialect(options=options), **more)


async def test_bedrock_is_asked_with_a_signature_of_the_deployments_own_keys(
    sdk: LiteLLMUpstream, bedrock: FakeBedrock, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_BEARER_TOKEN_BEDROCK",
        "AWS_SESSION_TOKEN",
    ):
        monkeypatch.setenv(name, "the-routers-own")
    bedrock.cached = 40
    reply = await sdk.complete(asks(in_bedrock(bedrock, kit)))
    assert reply.document["choices"][0]["message"]["content"] == "echo: hello there"
    assert reply.usage is not None
    (record,) = bedrock.records
    assert reply.usage.output_tokens == record.usage["outputTokens"]
    assert (reply.usage.input_tokens, reply.usage.cached_input_tokens) == (
        record.usage["inputTokens"] + 40,
        40,
    )
    assert "Credential=AKIAFAKE/" in record.headers["Authorization"]
    assert "the-routers-own" not in str(record.headers)
    assert record.body["inferenceConfig"]["maxTokens"] == 50


async def test_a_binary_stream_of_bedrock_becomes_openai_events(
    sdk: LiteLLMUpstream, bedrock: FakeBedrock, kit: SimpleNamespace
) -> None:
    bedrock.cached = 40
    deployment = in_bedrock(bedrock, kit)
    chunks, stream = await pieces(sdk, asks(deployment, "one two three", include_usage=True))
    text = "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"])
    assert text == "echo: one two three"
    assert [record.path.rpartition("/")[2] for record in bedrock.records] == ["converse-stream"]
    assert stream.usage.output_tokens == bedrock.records[0].usage["outputTokens"]
    assert stream.usage.input_tokens == bedrock.records[0].usage["inputTokens"] + 40
    assert stream.usage.cached_input_tokens == 40
    assert stream.finished


async def test_tools_of_bedrock_are_called_whole_and_in_a_stream(
    sdk: LiteLLMUpstream, bedrock: FakeBedrock, kit: SimpleNamespace
) -> None:
    deployment = in_bedrock(bedrock, kit)
    reply = await sdk.complete(asks(deployment, "weather in Rome", tools=[TOOL]))
    choice = reply.document["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert json.loads(call["function"]["arguments"]) == {"city": "weather in Rome"}
    chunks, _ = await pieces(sdk, asks(deployment, "weather in Rome", tools=[TOOL]))
    assert called(chunks) == ("weather", {"city": "weather in Rome"})
    messages = [
        {"role": "user", "content": "weather in Rome"},
        choice["message"],
        {"role": "tool", "tool_call_id": call["id"], "content": "sunny"},
    ]
    after = await sdk.complete(asks(deployment, messages=messages, tools=[TOOL]))
    assert after.document["choices"][0]["message"]["content"] == "echo: sunny"


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        (400, Fault.INVALID_REQUEST),
        (403, Fault.MISCONFIGURED),
        (429, Fault.RATE_LIMITED),
        (500, Fault.FAILED),
        (503, Fault.FAILED),
    ],
)
async def test_an_error_of_bedrock_is_told_apart_and_holds_no_secret(
    sdk: LiteLLMUpstream, bedrock: FakeBedrock, kit: SimpleNamespace, status: int, fault: Fault
) -> None:
    bedrock.fail(Script(status=status, times=0))
    deployment = in_bedrock(bedrock, kit)
    failed = await failure(sdk, asks(deployment))
    with pytest.raises(ProviderFailed) as caught:
        await sdk.open_stream(asks(deployment))
    for each in (failed, caught.value):
        assert (each.fault, each.may_have_run) == (fault, False)
        assert "fake-secret" not in f"{each} {each.body!r} {each.__cause__}"
    assert len(bedrock.records) == 2, "the SDK tried again without a hold"


async def test_a_stream_of_bedrock_that_ends_in_the_middle_is_not_whole(
    sdk: LiteLLMUpstream, bedrock: FakeBedrock, kit: SimpleNamespace
) -> None:
    deployment = in_bedrock(bedrock, kit)
    bedrock.fail(Script(cut_after_bytes=1_500))
    faults = []
    for events_at_most, exception in ((None, None), (8, None), (None, "throttlingException")):
        bedrock.events_at_most, bedrock.exception = events_at_most, exception
        with pytest.raises(ProviderFailed) as caught:
            await pieces(sdk, asks(deployment, "word " * 60))
        faults.append((caught.value.may_have_run, caught.value.fault))
    assert [may_have_run for may_have_run, _ in faults] == [True] * 3
    assert faults[2][1] is Fault.FAILED


async def test_cohere_answers_whole_and_calls_tools(
    sdk: LiteLLMUpstream, cohere: FakeCohere, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COHERE_API_KEY", "the-routers-own")
    deployment = at("cohere", "command-a-03-2025", cohere.url, kit)
    reply = await sdk.complete(asks(deployment))
    assert reply.document["choices"][0]["message"]["content"] == "echo: hello there"
    assert reply.usage is not None
    (record,) = cohere.records
    tokens = record.usage["tokens"]
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == tuple(tokens.values())
    assert (record.headers["Authorization"], record.body["max_tokens"]) == ("Bearer secret-key", 50)
    called_one = await sdk.complete(asks(deployment, "weather in Oslo", tools=[TOOL]))
    (call,) = called_one.document["choices"][0]["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"city": "weather in Oslo"}


async def test_a_stream_of_cohere_is_refused_before_anything_is_sent(
    sdk: LiteLLMUpstream, cohere: FakeCohere, kit: SimpleNamespace
) -> None:
    deployment = at("cohere", "command-a-03-2025", cohere.url, kit)
    with pytest.raises(ProviderFailed) as caught:
        await sdk.open_stream(asks(deployment))
    assert (caught.value.fault, caught.value.may_have_run) == (Fault.MISCONFIGURED, False)
    assert cohere.records == []
    # The reason: the SDK still fails at the events. When it no longer does, the refusal can go.
    answer = await sdk._sdk.acompletion(**arguments(asks(deployment)), stream=True)
    with pytest.raises(Exception, match="parsing chunk"):
        [chunk async for chunk in answer]


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        (400, Fault.INVALID_REQUEST),
        (401, Fault.MISCONFIGURED),
        (429, Fault.RATE_LIMITED),
        (500, Fault.FAILED),
    ],
)
async def test_an_error_of_cohere_is_told_apart_and_holds_no_key(
    sdk: LiteLLMUpstream, cohere: FakeCohere, kit: SimpleNamespace, status: int, fault: Fault
) -> None:
    cohere.fail(Script(status=status, times=0))
    failed = await failure(sdk, asks(at("cohere", "command-a-03-2025", cohere.url, kit)))
    assert (failed.fault, failed.may_have_run) == (fault, False)
    assert "secret-key" not in f"{failed} {failed.body!r} {failed.__cause__}"
    assert len(cohere.records) == 1, "the SDK tried again without a hold"


HOSTILE: list[dict[str, Any]] = [
    {"api_base": "http://127.0.0.1:1", "base_url": "http://127.0.0.1:1"},
    {"mock_response": "free of charge", "fallbacks": ["gpt-4o"], "num_retries": 5},
    {"api_key": "os.environ/PATH", "custom_llm_provider": "openai"},
    {"max_tokens": 90_000, "max_completion_tokens": 90_000, "extra_body": {"max_tokens": 90_000}},
    {"extra_headers": {"x-api-key": "theirs"}, "metadata": {"x": 1}},
]


@pytest.mark.parametrize("more", HOSTILE, ids=lambda each: next(iter(each)))
async def test_a_request_can_not_steer_the_sdk(
    sdk: LiteLLMUpstream, claude: FakeAnthropic, to_claude: Deployment, more: dict[str, Any]
) -> None:
    await sdk.complete(asks(to_claude, **more))
    (record,) = claude.records
    assert record.body["max_tokens"] == 50
    assert record.headers["x-api-key"] == "secret-key"
    assert record.body.keys() <= {"model", "messages", "max_tokens"}


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest/meta-data"}}],
        [{"type": "image_url", "image_url": "https://example.com/picture.png"}],
        [{"type": "file", "file": {"file_id": "http://127.0.0.1:5053/internal"}}],
        [{"type": "container_upload", "file_id": "x"}],
    ],
)
async def test_nothing_is_fetched_for_a_caller(
    sdk: LiteLLMUpstream, claude: FakeAnthropic, to_claude: Deployment, content: list[Any]
) -> None:
    failed = await failure(sdk, asks(to_claude, messages=[{"role": "user", "content": content}]))
    assert (failed.fault, failed.status) == (Fault.INVALID_REQUEST, 400)
    assert json.loads(failed.body)["error"]["param"] == "messages"
    assert claude.records == []


@pytest.mark.parametrize(
    "more",
    [
        {"api_key": None},
        {"api_key": "os.environ/HOME"},
        {"dialect": Dialect(options=(("vertex_credentials", "/etc/passwd"),))},
        {"dialect": Dialect(options=(("api_base", "http://127.0.0.1:1"),))},
        {"provider": "bedrock", "api_key": None},
    ],
)
async def test_a_deployment_can_not_borrow_the_routers_own_credentials(
    sdk: LiteLLMUpstream,
    claude: FakeAnthropic,
    kit: SimpleNamespace,
    more: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("ANTHROPIC_API_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "the-routers-own")
    more = dict(more)
    provider = more.pop("provider", "anthropic")
    failed = await failure(sdk, asks(at(provider, "claude-sonnet-4-5", claude.base_url, kit, **more)))
    assert (failed.fault, failed.may_have_run) == (Fault.MISCONFIGURED, False)
    assert claude.records == []


async def test_a_key_is_in_no_message_of_a_failure(
    sdk: LiteLLMUpstream, claude: FakeAnthropic, to_claude: Deployment
) -> None:
    for status in (400, 401, 429, 500):
        claude.fail(Script(status=status))
        failed = await failure(sdk, asks(to_claude))
        assert "secret-key" not in f"{failed} {failed.body!r} {failed.__cause__}"


def test_the_releases_that_steal_credentials_are_refused() -> None:
    for poisoned in ("1.82.7", "1.82.8"):
        with pytest.raises(PoisonedRelease):
            require_clean(poisoned)
    lock = (SOURCES.parents[2] / "requirements/llm-router.txt").read_text("utf-8")
    (line,) = [line for line in lock.splitlines() if line.startswith("litellm==")]
    require_clean(line.split("==")[1].split()[0])


def test_one_module_alone_imports_the_sdk() -> None:
    importing = set()
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            named = isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module"
            names += [ast.literal_eval(node.args[0])] if named and isinstance(node, ast.Call) else []
            if any(name.split(".")[0] == "litellm" for name in names):
                importing.add(path.name)
    assert importing == {"litellm_upstream.py"}


def _run(program: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


MEASURE = """
import json, resource, socket, sys
calls = []
def refuse(*arguments):
    calls.append(str(arguments[:2]))
    raise OSError("no network in this test")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
def megabytes():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * resource.getpagesize() / 1048576
import kairos_router.bootstrap
before, there = megabytes(), "litellm" in sys.modules
"""


def test_a_router_without_such_a_deployment_never_imports_the_sdk() -> None:
    assert not _run(MEASURE + "print(json.dumps({'there': there}))")["there"]


def test_importing_the_sdk_uses_no_network_and_costs_memory_that_others_do_not_pay() -> None:
    found = _run(
        MEASURE
        + "from kairos_router.adapters.litellm_upstream import LiteLLMUpstream as L\n"
        + "from kairos_router.settings import quiet_litellm as q\n"
        + "sdk = L(q)._import()\n"
        + "print(json.dumps({'calls': calls, 'before': before, 'after': megabytes()}))"
    )
    assert found["calls"] == []
    print(f"llm-router {found['before']:.0f} MB, with LiteLLM {found['after']:.0f} MB")
    assert found["after"] - found["before"] > 20


async def test_closing_leaves_no_client_of_the_sdk_open(
    sdk: LiteLLMUpstream, claude: FakeAnthropic, gemini: FakeGemini, kit: SimpleNamespace
) -> None:
    """The last one: the SDK's clients are shared by all tests above."""
    await sdk.complete(asks(at("anthropic", "claude-sonnet-4-5", claude.base_url, kit)))
    await sdk.complete(asks(at("gemini", "gemini-2.5-flash", gemini.url, kit)))
    handlers = list(sdk._sdk.in_memory_llm_clients_cache.cache_dict.values())
    clients = [getattr(handler, "client", None) for handler in handlers]
    held = [client for client in clients if client is not None and hasattr(client, "aclose")]
    assert held
    await sdk.close()
    assert all(client.is_closed for client in held)
