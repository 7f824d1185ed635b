"""Vertex AI by LiteLLM's SDK and Google's library, held to a fake of its models and of its tokens."""

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from kairos_router.adapters.litellm_errors import failure_of
from kairos_router.adapters.litellm_request import connection, embedding_arguments
from kairos_router.adapters.litellm_upstream import LiteLLMUpstream, secrets_of
from kairos_router.application.ports import Fault, ProviderCall, ProviderFailed
from kairos_router.domain.catalogue import Deployment, Dialect, Timeouts
from kairos_router.domain.vertex import TOKEN_URI
from kairos_testkit.fake_vertex import EMAIL, FakeVertex, service_account
from kairos_testkit.faults_script import Fault as Script
from kairos_testkit.ports import free_port

from .sdk_calls import SDK_MARKS, TOOL, asks, failure, pieces  # noqa: TID252 - tests have no importable package name

MODEL = "gemini-2.5-flash"
PLACE = (("vertex_location", "europe-west4"),)
BELOW = f"/v1/projects/mine/locations/europe-west4/publishers/google/models/{MODEL}"
pytestmark = SDK_MARKS


@pytest.fixture
def google() -> Iterator[FakeVertex]:
    with FakeVertex() as running:
        yield running


def at(kit: SimpleNamespace, base_url: str, account: Any, **more: Any) -> Deployment:
    values = {"timeouts": Timeouts(first_byte=30.0, idle=30.0), "dialect": Dialect(options=PLACE)} | more
    key = account if isinstance(account, str) else json.dumps(account)
    values = {"provider": "vertex_ai", "model": MODEL, "api_key": key} | values
    deployment: Deployment = kit.deployment("vertex", kind="litellm", base_url=base_url, **values)
    return deployment


@pytest.fixture
def to_google(google: FakeVertex, kit: SimpleNamespace) -> Deployment:
    return at(kit, google.url, service_account(google.token_uri))


def holds_no_key(failed: ProviderFailed) -> bool:
    lines = service_account("")["private_key"].splitlines()[1:-1]
    told = f"{failed} {failed.body!r} {failed.__cause__}"
    return not any(each in told for each in (*lines, "ya29.", "PRIVATE KEY"))


async def test_a_plain_answer_is_asked_for_with_a_token_of_the_deployments_own_key(
    sdk: LiteLLMUpstream, google: FakeVertex, to_google: Deployment
) -> None:
    google.thoughts = 7
    reply = await sdk.complete(asks(to_google))
    again = await sdk.complete(asks(to_google))
    assert reply.document["choices"][0]["message"]["content"] == "echo: hello there"
    first, second = google.records
    assert (first.path, first.headers["Authorization"]) == (f"{BELOW}:generateContent", "Bearer ya29.1")
    assert second.headers["Authorization"] == "Bearer ya29.1"
    assert first.body["generationConfig"]["max_output_tokens"] == 50
    assert reply.usage is not None
    assert reply.usage.input_tokens == first.usage["promptTokenCount"]
    assert reply.usage.output_tokens == first.usage["candidatesTokenCount"] + 7
    assert again.usage == reply.usage
    (token,) = google.tokens
    assert token.claims["iss"] == EMAIL


async def test_a_stream_becomes_openai_events_with_its_usage(
    sdk: LiteLLMUpstream, google: FakeVertex, to_google: Deployment
) -> None:
    chunks, stream = await pieces(sdk, asks(to_google, "one two three", include_usage=True))
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(each["delta"].get("content") or "" for each in choices) == "echo: one two three"
    (record,) = google.records
    assert record.path == f"{BELOW}:streamGenerateContent?alt=sse"
    assert stream.finished
    assert stream.usage.input_tokens == record.usage["promptTokenCount"]
    assert stream.usage.output_tokens == record.usage["candidatesTokenCount"]


async def test_tools_are_called_and_their_results_read(
    sdk: LiteLLMUpstream, google: FakeVertex, to_google: Deployment
) -> None:
    reply = await sdk.complete(asks(to_google, "weather in Oslo", tools=[TOOL]))
    message = reply.document["choices"][0]["message"]
    (call,) = message["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"city": "weather in Oslo"}
    messages = [
        {"role": "user", "content": "weather in Oslo"},
        message,
        {"role": "tool", "tool_call_id": call["id"], "content": "sunny"},
    ]
    after = await sdk.complete(asks(to_google, messages=messages, tools=[TOOL]))
    assert after.document["choices"][0]["message"]["content"] == 'echo: {"content": "sunny"}'
    assert len(google.records) == 2


async def test_a_caller_has_nothing_kept_at_google(
    sdk: LiteLLMUpstream, google: FakeVertex, to_google: Deployment
) -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "word " * 5_000} | mark]},
        {"role": "user", "content": "hello"},
    ]
    await sdk.complete(asks(to_google, messages=messages))
    assert [record.path for record in google.records] == [f"{BELOW}:generateContent"]


@pytest.mark.parametrize(
    ("status", "fault"),
    [
        (400, Fault.INVALID_REQUEST),
        (401, Fault.MISCONFIGURED),
        (403, Fault.MISCONFIGURED),
        (429, Fault.RATE_LIMITED),
        (500, Fault.FAILED),
    ],
)
async def test_an_error_is_told_apart_and_holds_no_key(
    sdk: LiteLLMUpstream, google: FakeVertex, to_google: Deployment, status: int, fault: Fault
) -> None:
    google.fail(Script(status=status, times=0))
    failed = await failure(sdk, asks(to_google))
    stream = await sdk.open_stream(asks(to_google))
    with pytest.raises(ProviderFailed) as caught:
        await stream.next()
    stream.close()
    for each in (failed, caught.value):
        assert (each.fault, each.may_have_run) == (fault, False)
        assert holds_no_key(each)
    assert len(google.records) == 2, "the SDK tried again without a hold"


class BadRequestError(Exception):
    """As the SDK's own, whose message is the provider's."""

    status_code = 400

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def test_no_line_of_the_private_key_leaves_in_a_message(to_google: Deployment) -> None:
    call = asks(to_google)
    lines = service_account("")["private_key"].splitlines()
    for told in (to_google.api_key or "", "\n".join(lines), f"bad key: {lines[3]}"):
        failed = failure_of(BadRequestError(told), secrets=secrets_of(call))
        assert failed.fault is Fault.INVALID_REQUEST
        assert b"***" in failed.body
        assert lines[3] not in failed.body.decode()


async def test_without_a_token_nothing_has_run(
    sdk: LiteLLMUpstream,
    google: FakeVertex,
    to_google: Deployment,
    kit: SimpleNamespace,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # The SDK logs this failure, apart from the suite's own logs.
    logger = logging.getLogger("LiteLLM")
    logger.addHandler(caplog.handler)
    google.token_status = 400
    failed = await failure(sdk, asks(to_google))
    assert (failed.fault, failed.may_have_run) == (Fault.MISCONFIGURED, False)
    assert holds_no_key(failed)
    broken = service_account(google.token_uri)
    broken["private_key"] = broken["private_key"].replace("\n", "\nAAAA", 1)
    unreadable = await failure(sdk, asks(at(kit, google.url, broken)))
    assert (unreadable.fault, unreadable.may_have_run) == (Fault.MISCONFIGURED, False)
    assert holds_no_key(unreadable)
    assert google.records == []
    logger.removeHandler(caplog.handler)
    assert "Failed to load vertex credentials" in caplog.text
    assert not any(line in caplog.text for line in broken["private_key"].splitlines()[1:-1])


async def test_a_slow_server_of_tokens_keeps_nobody_else_waiting(
    sdk: LiteLLMUpstream, google: FakeVertex, kit: SimpleNamespace
) -> None:
    google.token_delay_s = 1.0
    deployment = at(kit, google.url, service_account(google.token_uri))
    asked = asyncio.create_task(sdk.complete(asks(deployment)))
    longest, last = 0.0, monotonic()
    while not asked.done():
        await asyncio.wait({asked}, timeout=0.02)
        longest, last = max(longest, monotonic() - last), monotonic()
    assert (await asked).document["choices"]
    assert longest < 0.8, "the loop stood still while the token was fetched"


AMBIENT = (
    "VERTEXAI_PROJECT",
    "VERTEXAI_LOCATION",
    "VERTEX_LOCATION",
    "VERTEXAI_CREDENTIALS",
    "DEFAULT_VERTEXAI_PROJECT",
    "DEFAULT_VERTEXAI_LOCATION",
    "DEFAULT_GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_CLOUD_PROJECT",
    "GOOGLE_CLOUD_QUOTA_PROJECT",
    "GEMINI_API_KEY",
    "GOOGLE_API_KEY",
)


async def test_no_credential_of_the_machine_is_ever_used(
    sdk: LiteLLMUpstream,
    google: FakeVertex,
    to_google: Deployment,
    kit: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with FakeVertex() as others:
        found = tmp_path / "theirs.json"
        found.write_text(json.dumps(service_account(others.token_uri, project_id="theirs")), "utf-8")
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(found))
        monkeypatch.setenv("GCE_METADATA_HOST", others.base_url.removeprefix("http://"))
        monkeypatch.setenv("VERTEXAI_API_BASE", others.base_url)
        for name in AMBIENT:
            monkeypatch.setenv(name, found.read_text("utf-8") if "CREDENTIALS" in name else "theirs")
        await sdk.complete(asks(to_google))
        for key in (None, "", str(found), "null", "{}"):
            failed = await failure(sdk, asks(at(kit, google.url, "", api_key=key)))
            assert (failed.fault, failed.may_have_run) == (Fault.MISCONFIGURED, False)
        beta = await failure(sdk, asks(at(kit, google.url, "", provider="vertex_ai_beta", api_key=None)))
        assert beta.fault is Fault.MISCONFIGURED
        assert (others.tokens, others.records) == ([], [])
    (record,) = google.records
    assert record.path == f"{BELOW}:generateContent"
    assert "theirs" not in f"{record.headers} {record.body}"
    # Without an address of its own it is Google's, whatever the environment says.
    own = connection(at(kit, "", service_account(TOKEN_URI)))
    assert own["api_base"] == "https://europe-west4-aiplatform.googleapis.com"
    assert (own["vertex_project"], "api_key" in own) == ("mine", False)


REFUSED: list[dict[str, Any]] = [
    {"token_uri": "http://169.254.169.254/token"},
    {"token_uri": "http://127.0.0.1:5053/internal"},
    {"token_uri": "https://oauth2.googleapis.com.example.com/token"},
    {"token_uri": "https://oauth2.googleapis.com/token?x"},
    {"token_uri": ""},
    {"type": "external_account", "credential_source": {"executable": {"command": "/bin/true"}}},
    {"type": "external_account", "credential_source": {"file": "/etc/passwd"}},
    {"type": "authorized_user", "refresh_token": "x", "client_secret": "x"},
    {"type": "impersonated_service_account"},
    {"type": None},
    {"universe_domain": "example.com"},
    {"private_key": "/etc/passwd"},
]


@pytest.mark.parametrize("more", REFUSED, ids=str)
def test_a_key_of_an_organisation_leads_to_googles_own_tokens_only(
    more: dict[str, Any], kit: SimpleNamespace
) -> None:
    account = service_account(TOKEN_URI) | more
    for owner in (uuid4(), None) if "token_uri" not in more else (uuid4(),):
        with pytest.raises(ProviderFailed) as refused:
            connection(at(kit, "", account, owner=owner))
        assert (refused.value.fault, refused.value.may_have_run) == (Fault.MISCONFIGURED, False)
        assert holds_no_key(refused.value)


def test_an_organisation_reaches_vertex_with_a_key_of_its_own(kit: SimpleNamespace) -> None:
    account = service_account(TOKEN_URI, trust_boundary={"x": "y"}, quota_project_id="theirs")
    found = connection(at(kit, "", account, owner=uuid4()))
    assert json.loads(found["vertex_credentials"]).keys() == {
        "type",
        "client_email",
        "private_key",
        "private_key_id",
        "project_id",
        "token_uri",
    }
    assert found["api_base"] == "https://europe-west4-aiplatform.googleapis.com"
    with pytest.raises(ProviderFailed):
        connection(at(kit, f"http://127.0.0.1:{free_port()}", account, owner=uuid4()))


@pytest.mark.parametrize(
    "more",
    [
        {"dialect": Dialect()},
        {"dialect": Dialect(options=(("vertex_location", "evil.example.com/"),))},
        {"dialect": Dialect(options=(("vertex_location", "eu#"),))},
        {"dialect": Dialect(options=(*PLACE, ("vertex_project", "../../x")))},
        {"model": "../../../gemini-2.5-flash"},
        {"model": "agent_engine/1"},
        {"model": "claude-sonnet-4-5"},
    ],
    ids=str,
)
def test_neither_place_nor_model_leads_elsewhere(more: dict[str, Any], kit: SimpleNamespace) -> None:
    with pytest.raises(ProviderFailed) as refused:
        connection(at(kit, "", service_account(TOKEN_URI), owner=uuid4(), **more))
    assert refused.value.fault is Fault.MISCONFIGURED


@pytest.mark.parametrize(
    ("location", "host"),
    [
        ("global", "aiplatform.googleapis.com"),
        ("eu", "aiplatform.eu.rep.googleapis.com"),
        ("us-central1", "us-central1-aiplatform.googleapis.com"),
    ],
)
def test_a_location_has_an_address_of_googles(location: str, host: str, kit: SimpleNamespace) -> None:
    dialect = Dialect(options=(("vertex_location", location),))
    found = connection(at(kit, "", service_account(TOKEN_URI), dialect=dialect))
    assert found["api_base"] == f"https://{host}"


def test_embeddings_are_refused_before_anything_is_sent(to_google: Deployment) -> None:
    with pytest.raises(ProviderFailed) as refused:
        embedding_arguments(ProviderCall(to_google, {"input": "x"}, 0, uuid4(), operation="embeddings"))
    assert refused.value.fault is Fault.MISCONFIGURED
