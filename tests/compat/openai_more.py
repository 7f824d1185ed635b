"""Embeddings and responses with the openai client, from providers with the Responses API and without it."""

import json
from typing import Any

import openai
from asking import CHEAP, EMBEDDING, NATIVE, PIXEL, WEATHER, Person, asynchronous, raises, says, sync


def check_embeddings_of_one_and_of_many_texts(router: Any) -> None:
    client = sync(router)
    one = client.embeddings.create(model=EMBEDDING, input="alpha")
    many = client.embeddings.create(model=EMBEDDING, input=["alpha", "beta"], dimensions=16)
    assert len(one.data[0].embedding) == 64
    assert [len(each.embedding) for each in many.data] == [16, 16]
    assert [each.index for each in many.data] == [0, 1]
    assert one.usage.prompt_tokens == one.usage.total_tokens == 2


def check_embeddings_as_base64_and_as_floats_are_the_same(router: Any) -> None:
    client = sync(router)
    floats = client.embeddings.create(model=EMBEDDING, input="gamma", encoding_format="float")
    packed = client.embeddings.create(model=EMBEDDING, input="gamma", encoding_format="base64")
    unasked = client.embeddings.create(model=EMBEDDING, input="gamma")
    assert isinstance(packed.data[0].embedding, str)
    assert (
        max(abs(a - b) for a, b in zip(floats.data[0].embedding, unasked.data[0].embedding, strict=True))
        < 1e-6
    )


async def check_embeddings_of_token_ids_with_the_async_client(router: Any) -> None:
    client = asynchronous(router)
    answer = await client.embeddings.create(model=EMBEDDING, input=[[1, 2, 3], [4, 5]])
    assert (len(answer.data), answer.usage.prompt_tokens) == (2, 5)
    flat = await client.embeddings.create(model=EMBEDDING, input=[1, 2, 3])
    assert len(flat.data) == 1


def check_bad_embedding_requests_name_the_parameter(router: Any) -> None:
    client = sync(router)
    error = raises(openai.BadRequestError, lambda: client.embeddings.create(model=EMBEDDING, input=[]))
    assert error.param == "input"
    error = raises(
        openai.BadRequestError, lambda: client.embeddings.create(model=EMBEDDING, input=["x"] * 2049)
    )
    assert error.param == "input"
    raises(
        openai.BadRequestError, lambda: client.chat.completions.create(model=EMBEDDING, messages=says("no"))
    )


def check_a_response_has_text_and_usage(router: Any) -> None:
    for model in (CHEAP, NATIVE):
        answer = sync(router).responses.create(
            model=model, input="hello there", instructions="be brief", max_output_tokens=100
        )
        assert answer.output_text == "echo: hello there", model
        assert (answer.status, answer.store) == ("completed", False)
        assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens > 0
        assert answer.usage.input_tokens_details.cached_tokens == 0
        assert answer.id.startswith("resp_")


def check_a_response_of_items_with_roles_and_images(router: Any) -> None:
    items: Any = [
        {"role": "developer", "content": "be kind"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hi"}]},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "look"},
                {"type": "input_image", "image_url": PIXEL, "detail": "auto"},
            ],
        },
    ]
    for model in (CHEAP, NATIVE):
        assert sync(router).responses.create(model=model, input=items).output_text == "echo: look"


def check_an_incomplete_response_says_why(router: Any) -> None:
    for model in (CHEAP, NATIVE):
        answer = sync(router).responses.create(model=model, input="a long enough text", max_output_tokens=2)
        assert answer.status == "incomplete"
        assert answer.incomplete_details.reason == "max_output_tokens"


def _sequence(events: Any) -> list[str]:
    """The types of the events, repeated ones once."""
    types = [event.type for event in events]
    return [kind for at, kind in enumerate(types) if at == 0 or types[at - 1] != kind]


TEXT_EVENTS = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


def check_a_response_streams_the_documented_events(router: Any) -> None:
    for model in (CHEAP, NATIVE):
        events = list(sync(router).responses.create(model=model, input="one two three", stream=True))
        assert _sequence(events) == TEXT_EVENTS, (model, _sequence(events))
        assert [event.sequence_number for event in events] == list(range(len(events)))
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        assert text == events[-1].response.output_text == "echo: one two three"
        assert events[-1].response.usage.output_tokens > 0


async def check_a_response_streams_with_the_async_helper(router: Any) -> None:
    for model in (CHEAP, NATIVE):
        async with asynchronous(router).responses.stream(model=model, input="four five") as stream:
            async for _ in stream:
                pass
            answer = await stream.get_final_response()
        assert answer.output_text == "echo: four five"


RESPONSE_WEATHER: Any = {"type": "function", **WEATHER["function"], "strict": False}


def check_a_response_calls_functions_and_reads_their_results(router: Any) -> None:
    for model in (CHEAP, NATIVE):
        client = sync(router)
        items: Any = [{"role": "user", "content": "get_weather in Porto"}]
        answer = client.responses.create(model=model, input=items, tools=[RESPONSE_WEATHER])
        (call,) = [item for item in answer.output if item.type == "function_call"]
        assert json.loads(call.arguments) == {"city": "get_weather in Porto"}
        items += answer.output
        items.append({"type": "function_call_output", "call_id": call.call_id, "output": "rain"})
        after = client.responses.create(model=model, input=items, tools=[RESPONSE_WEATHER])
        assert after.output_text == "echo: rain"


def check_function_calls_stream_in_a_response(router: Any) -> None:
    for model in (CHEAP, NATIVE):
        events = list(
            sync(router).responses.create(
                model=model, input="get_weather in Faro", tools=[RESPONSE_WEATHER], stream=True
            )
        )
        done = next(e for e in events if e.type == "response.function_call_arguments.done")
        deltas = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
        assert "".join(deltas) == done.arguments
        assert events[-1].response.output[0].name == "get_weather"


def check_a_response_is_parsed_into_a_model(router: Any) -> None:
    for model in (CHEAP, NATIVE):
        answer = sync(router).responses.parse(model=model, input="Alan", text_format=Person)
        assert answer.output_parsed == Person(name="Alan", age=7)


async def check_a_response_with_the_async_client(router: Any) -> None:
    answer = await asynchronous(router).responses.create(model=CHEAP, input="async")
    assert answer.output_text == "echo: async"


def check_what_needs_a_store_is_refused_by_name(router: Any) -> None:
    client = sync(router)
    for name, value in (
        ("previous_response_id", "resp_1"),
        ("background", True),
        ("store", True),
        ("conversation", "conv_1"),
    ):
        error = raises(
            openai.BadRequestError,
            lambda given={name: value}: client.responses.create(model=NATIVE, input="x", **given),
        )
        assert error.param == name
    tools: Any = [{"type": "web_search"}]
    error = raises(
        openai.BadRequestError, lambda: client.responses.create(model=CHEAP, input="x", tools=tools)
    )
    assert error.param == "tools"
