import json
from pathlib import Path

import httpx
import openai
import pytest

from kairos_testkit.fake_provider import FakeProvider, count_tokens
from kairos_testkit.faults_script import Fault


@pytest.fixture
def client(fake_provider: FakeProvider) -> openai.OpenAI:
    return openai.OpenAI(base_url=fake_provider.url, api_key="none", max_retries=0)


def ask(client: openai.OpenAI, text: str = "hello there", **more: object) -> openai.types.chat.ChatCompletion:
    return client.chat.completions.create(
        model="fake-echo",
        messages=[{"role": "user", "content": text}],
        **more,  # type: ignore[call-overload]
    )


def test_it_echoes_and_bills_what_it_says(client: openai.OpenAI, fake_provider: FakeProvider) -> None:
    answer = ask(client, extra_headers={"x-kairos-attempt-id": "a-1"})
    assert answer.choices[0].message.content == "echo: hello there"
    assert answer.usage is not None
    (record,) = fake_provider.records
    assert (record.attempt_id, record.billed) == ("a-1", True)
    assert record.input_tokens == answer.usage.prompt_tokens == count_tokens("hello there")
    assert record.output_tokens == answer.usage.completion_tokens


def test_a_stream_ends_with_its_usage(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="fake-echo",
            messages=[{"role": "user", "content": "one two"}],
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "echo: one two"
    )
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == count_tokens("echo: one two")


def test_the_reply_respects_the_token_limit(client: openai.OpenAI) -> None:
    answer = ask(client, "a long enough question", max_tokens=2)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 2


def test_a_scripted_failure_is_used_once_and_not_billed(
    client: openai.OpenAI, fake_provider: FakeProvider
) -> None:
    fake_provider.fail(Fault(status=429, retry_after=3, match="hello"))
    with pytest.raises(openai.RateLimitError) as caught:
        ask(client)
    assert caught.value.response.headers["retry-after"] == "3"
    assert ask(client).choices[0].finish_reason == "stop"
    assert [record.billed for record in fake_provider.records] == [False, True]


@pytest.mark.parametrize("fault", [Fault(drop=True), Fault(cut_after_bytes=20)], ids=["dropped", "cut"])
def test_an_answer_lost_on_the_way_is_billed_all_the_same(
    client: openai.OpenAI, fake_provider: FakeProvider, fault: Fault
) -> None:
    fake_provider.fail(fault)
    with pytest.raises((openai.APIConnectionError, httpx.RemoteProtocolError, json.JSONDecodeError)):
        ask(client)
    assert [record.billed for record in fake_provider.records] == [True]


def test_garbage_and_a_missing_usage_can_be_asked_for(fake_provider: FakeProvider) -> None:
    url = f"{fake_provider.url}/chat/completions"
    body = {"model": "fake-echo", "messages": [{"role": "user", "content": "x"}]}
    httpx.post(f"{fake_provider.base_url}/_script", json={"garbage": True}).raise_for_status()
    httpx.post(f"{fake_provider.base_url}/_script", json={"omit_usage": True}).raise_for_status()
    with pytest.raises(ValueError, match=r"."):
        httpx.post(url, json=body).json()
    assert "usage" not in httpx.post(url, json=body).json()
    assert httpx.post(f"{fake_provider.base_url}/_script", json={"nonsense": 1}).status_code == 400


def test_embeddings_are_deterministic(client: openai.OpenAI) -> None:
    first, second, third = client.embeddings.create(model="fake-embedding", input=["a", "a", "b"]).data
    assert len(first.embedding) == 64
    assert first.embedding == second.embedding != third.embedding


TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"properties": {"city": {"type": "string"}}}},
}


def test_it_calls_the_tools_that_are_named_and_reads_their_results(client: openai.OpenAI) -> None:
    answer = ask(client, "weather in Lisbon", tools=[TOOL]).choices[0]
    assert answer.finish_reason == "tool_calls"
    (call,) = answer.message.tool_calls or []
    assert json.loads(call.function.arguments) == {"city": "weather in Lisbon"}
    assert ask(client, "hello", tools=[TOOL]).choices[0].message.tool_calls is None
    messages = [{"role": "tool", "tool_call_id": call.id, "content": "weather is fine"}]
    after = client.chat.completions.create(model="fake-echo", messages=messages, tools=[TOOL])
    assert after.choices[0].message.content == "echo: weather is fine"


def test_an_answer_has_the_shape_that_was_asked_for(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"who": {"type": "string"}, "age": {"type": "integer"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    answer = ask(client, "Ada", response_format=wanted)
    assert json.loads(answer.choices[0].message.content or "") == {"who": "Ada", "age": 7}


def test_responses_are_answered_whole_and_as_events(
    client: openai.OpenAI, fake_provider: FakeProvider
) -> None:
    whole = client.responses.create(model="fake-echo", input="hello there")
    assert whole.output_text == "echo: hello there"
    events = list(client.responses.create(model="fake-echo", input="hello there", stream=True))
    assert [events[0].type, events[-1].type] == ["response.created", "response.completed"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert whole.usage is not None
    assert {record.output_tokens for record in fake_provider.records} == {whole.usage.output_tokens}


def test_the_usage_it_tells_can_be_a_lie(client: openai.OpenAI, fake_provider: FakeProvider) -> None:
    fake_provider.fail(Fault(wrong_usage={"completion_tokens": 90_000}))
    answer = ask(client)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 90_000
    assert fake_provider.records[0].output_tokens == count_tokens("echo: hello there")


def test_models_and_the_record_are_listed(client: openai.OpenAI, fake_provider: FakeProvider) -> None:
    ask(client)
    assert "fake-echo" in [model.id for model in client.models.list()]
    totals = httpx.get(f"{fake_provider.base_url}/_record").json()["totals"]
    assert totals["requests"] == 1
    httpx.delete(f"{fake_provider.base_url}/_record").raise_for_status()
    assert fake_provider.records == []


def test_bad_bodies_are_refused(fake_provider: FakeProvider) -> None:
    url = f"{fake_provider.url}/chat/completions"
    assert httpx.post(url, content=b"{").status_code == 400
    assert httpx.post(url, json=[]).status_code == 400
    assert httpx.post(url, json={"model": "m"}).status_code == 400


def test_the_record_is_on_disk_before_the_answer(tmp_path: Path) -> None:
    log = tmp_path / "record.jsonl"
    with FakeProvider(log=log) as provider:
        provider.fail(Fault(drop=True))
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.post(
                f"{provider.url}/chat/completions",
                json={"model": "fake-echo", "messages": [{"role": "user", "content": "written"}]},
            )
        (line,) = log.read_text().splitlines()
    assert json.loads(line)["text"] == "written"
