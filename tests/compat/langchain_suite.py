"""What callers do with LangChain's ChatOpenAI and OpenAIEmbeddings, unmodified."""

from typing import Any

import openai
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel


class Person(BaseModel):
    """A person."""

    name: str
    age: int


@tool
def get_weather(city: str) -> str:
    """The weather of a place."""
    return f"sunny in {city}"


def chat(router: Any, model: str = "default", **more: Any) -> ChatOpenAI:
    return ChatOpenAI(model=model, base_url=router.base_url, api_key=router.api_key, max_retries=0, **more)


def check_invoke_gives_text_and_usage(router: Any) -> None:
    answer = chat(router).invoke([SystemMessage("be brief"), HumanMessage("hello there")])
    assert answer.content == "echo: hello there"
    assert answer.usage_metadata["total_tokens"] > 0


async def check_ainvoke(router: Any) -> None:
    assert (await chat(router).ainvoke("async")).content == "echo: async"


def check_a_stream_adds_up_with_its_usage(router: Any) -> None:
    chunks = list(chat(router, stream_usage=True).stream("one two three"))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.content == "echo: one two three"
    assert whole.usage_metadata["output_tokens"] > 0


def check_batch(router: Any) -> None:
    answers = chat(router).batch(["a", "b", "c"])
    assert [answer.content for answer in answers] == ["echo: a", "echo: b", "echo: c"]


def check_bound_tools_are_called_and_answered(router: Any) -> None:
    bound = chat(router).bind_tools([get_weather])
    asked = HumanMessage("get_weather in Lisbon")
    answer = bound.invoke([asked])
    (call,) = answer.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "get_weather in Lisbon"})
    result = ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])
    assert bound.invoke([asked, answer, result]).content == "echo: sunny in get_weather in Lisbon"


def check_structured_output_by_schema_and_by_function(router: Any) -> None:
    for method in ("json_schema", "function_calling"):
        structured = chat(router).with_structured_output(Person, method=method)
        assert structured.invoke("Ada") == Person(name="Ada", age=7), method


def check_the_responses_api(router: Any) -> None:
    for model in ("default", "fake-native"):
        asking = chat(router, model, use_responses_api=True)
        assert asking.invoke("over responses").text == "echo: over responses"
        assert "".join(chunk.text for chunk in asking.stream("in pieces")) == "echo: in pieces"
        (call,) = asking.bind_tools([get_weather]).invoke("get_weather in Porto").tool_calls
        assert call["name"] == "get_weather"


def check_embeddings(router: Any) -> None:
    # Its own count of tokens downloads a vocabulary; the router counts.
    embeddings = OpenAIEmbeddings(
        model="fake-embedding",
        base_url=router.base_url,
        api_key=router.api_key,
        check_embedding_ctx_length=False,
    )
    vectors = embeddings.embed_documents(["alpha", "beta"])
    assert [len(vector) for vector in vectors] == [64, 64]
    near = max(abs(a - b) for a, b in zip(embeddings.embed_query("alpha"), vectors[0], strict=True))
    assert near < 1e-6


def check_an_error_is_typed(router: Any) -> None:
    try:
        chat(router, "nope").invoke("x")
    except openai.NotFoundError as error:
        found = error
    assert found.code == "model_not_found"
