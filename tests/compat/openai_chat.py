"""Chat completions and models with the openai client, unmodified."""

import json
from typing import Any

import openai
from asking import CHEAP, CLOCK, EMBEDDING, NATIVE, PIXEL, WEATHER, Person, asynchronous, raises, says, sync


def check_a_plain_answer_has_text_usage_and_an_id(router: Any) -> None:
    answer = sync(router).chat.completions.create(model=CHEAP, messages=says("plain"))
    assert answer.choices[0].message.content == "echo: plain"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0
    assert answer._request_id


async def check_a_plain_answer_with_the_async_client(router: Any) -> None:
    async with asynchronous(router) as client:
        answer = await client.chat.completions.create(model=CHEAP, messages=says("plain async"))
    assert answer.choices[0].message.content == "echo: plain async"


def check_a_stream_gives_the_text_in_pieces_and_no_usage_unasked(router: Any) -> None:
    stream = sync(router).chat.completions.create(model=CHEAP, messages=says("one two three"), stream=True)
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "echo: one two three"
    assert len(chunks) > 4
    assert all(chunk.usage is None for chunk in chunks)


async def check_a_stream_with_usage_with_the_async_client(router: Any) -> None:
    client = asynchronous(router)
    stream = await client.chat.completions.create(
        model=CHEAP, messages=says("one two"), stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].usage.completion_tokens > 0
    assert not chunks[-1].choices
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == "echo: one two"


def check_a_stream_can_be_left_in_the_middle(router: Any) -> None:
    stream = sync(router).chat.completions.create(model=CHEAP, messages=says("left alone " * 20), stream=True)
    with stream:
        assert next(iter(stream)).choices
    assert sync(router).chat.completions.create(model=CHEAP, messages=says("after")).choices


def check_tools_are_called_and_their_results_answered(router: Any) -> None:
    client, messages = sync(router), says("get_weather in Lisbon")
    choice = client.chat.completions.create(model=CHEAP, messages=messages, tools=[WEATHER]).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "get_weather in Lisbon"}
    messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    after = client.chat.completions.create(model=CHEAP, messages=messages, tools=[WEATHER])
    assert after.choices[0].message.content == "echo: sunny"


def check_several_tools_are_called_at_once(router: Any) -> None:
    answer = sync(router).chat.completions.create(
        model=CHEAP,
        messages=says("get_weather and get_time"),
        tools=[WEATHER, CLOCK],
        parallel_tool_calls=True,
    )
    calls = answer.choices[0].message.tool_calls
    assert [call.function.name for call in calls] == ["get_weather", "get_time"]
    assert len({call.id for call in calls}) == 2


def check_a_tool_can_be_forced_and_forbidden(router: Any) -> None:
    client = sync(router)
    named: Any = {"type": "function", "function": {"name": "get_time"}}
    forced = client.chat.completions.create(
        model=CHEAP, messages=says("hm"), tools=[WEATHER, CLOCK], tool_choice=named
    )
    assert forced.choices[0].message.tool_calls[0].function.name == "get_time"
    none = client.chat.completions.create(
        model=CHEAP, messages=says("get_time"), tools=[CLOCK], tool_choice="none"
    )
    assert none.choices[0].message.tool_calls is None


def check_tool_calls_come_in_a_stream(router: Any) -> None:
    with sync(router).chat.completions.stream(
        model=CHEAP, messages=says("get_weather and get_time"), tools=[WEATHER, CLOCK]
    ) as stream:
        for _ in stream:
            pass
        calls = stream.get_final_completion().choices[0].message.tool_calls
    assert [call.function.name for call in calls] == ["get_weather", "get_time"]
    assert json.loads(calls[0].function.arguments)["city"]


def check_functions_of_old_still_work(router: Any) -> None:
    answer = sync(router).chat.completions.create(
        model=CHEAP, messages=says("get_time now"), functions=[CLOCK["function"]]
    )
    assert answer.choices[0].message.function_call.name == "get_time"


def check_structured_output_is_parsed(router: Any) -> None:
    answer = sync(router).chat.completions.parse(model=CHEAP, messages=says("Ada"), response_format=Person)
    assert answer.choices[0].message.parsed == Person(name="Ada", age=7)


async def check_structured_output_streams_with_the_async_client(router: Any) -> None:
    async with asynchronous(router).chat.completions.stream(
        model=CHEAP, messages=says("Grace"), response_format=Person
    ) as stream:
        answer = await stream.get_final_completion()
    assert answer.choices[0].message.parsed == Person(name="Grace", age=7)


def check_a_json_object_is_answered(router: Any) -> None:
    answer = sync(router).chat.completions.create(
        model=CHEAP, messages=says("json"), response_format={"type": "json_object"}
    )
    assert json.loads(answer.choices[0].message.content) == {"echo": "json"}


def check_images_are_taken_as_data_and_as_an_address(router: Any) -> None:
    for url in (PIXEL, "https://example.com/picture.png"):
        parts: Any = [
            {"type": "text", "text": "seen"},
            {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
        ]
        answer = sync(router).chat.completions.create(
            model=CHEAP, messages=[{"role": "user", "content": parts}]
        )
        assert answer.choices[0].message.content == "echo: seen"


def check_several_choices_with_logprobs(router: Any) -> None:
    answer = sync(router).chat.completions.create(
        model=CHEAP, messages=says("twice"), n=2, logprobs=True, top_logprobs=1, seed=3, stop=["never"]
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[1].logprobs.content[0].logprob == -0.5


def check_fields_nobody_knows_reach_the_provider_untouched(router: Any) -> None:
    sync(router).chat.completions.create(
        model=CHEAP,
        messages=says("field of tomorrow"),
        seed=11,
        extra_body={"tomorrow": {"deep": [1, None, "ü"]}},
        metadata={"a": "b"},
    )
    body = router.received("field of tomorrow")["body"]
    assert body["tomorrow"] == {"deep": [1, None, "ü"]}
    assert (body["seed"], body["metadata"]) == (11, {"a": "b"})
    assert body["model"] == "fake-echo"


def check_the_output_limit_is_kept(router: Any) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        answer = sync(router).chat.completions.create(
            model=CHEAP, messages=says("a rather long text"), **{name: 2}
        )
        assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 2)


def check_headers_tell_the_deployment_and_the_cost(router: Any) -> None:
    raw = sync(router).chat.completions.with_raw_response.create(model=CHEAP, messages=says("headers"))
    assert raw.headers["x-kairos-deployment"] == "fake"
    assert int(raw.headers["x-kairos-cost-nano-usd"]) > 0
    assert raw.headers["x-kairos-completion-id"]
    assert raw.parse().choices


def check_models_are_listed_and_found(router: Any) -> None:
    client = sync(router)
    listed = {model.id: model for model in client.models.list()}
    assert {CHEAP, NATIVE, EMBEDDING} <= listed.keys()
    assert listed[CHEAP].object == "model"
    assert client.models.retrieve(CHEAP).owned_by
    raises(openai.NotFoundError, lambda: client.models.retrieve("no-such-model"))
