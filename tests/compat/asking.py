"""What the suites of the openai client share; the 2.x and the 3.x client run them alike."""

from typing import Any

import openai
import pydantic

CHEAP, NATIVE, EMBEDDING = "default", "fake-native", "fake-embedding"
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CLOCK: Any = {
    "type": "function",
    "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}},
}
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
    "AAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAAAABJRU5ErkJggg=="
)


class Person(pydantic.BaseModel):
    name: str
    age: int


def sync(router: Any, **more: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=router.base_url, **({"api_key": router.api_key, "max_retries": 0} | more))


def asynchronous(router: Any, **more: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=router.base_url, api_key=router.api_key, max_retries=0, **more)


def says(text: str) -> Any:
    return [{"role": "user", "content": text}]


def raises(kind: type[Exception], call: Any) -> Any:
    try:
        call()
    except kind as error:
        found = error
    else:
        raise AssertionError(f"no {kind.__name__}")
    assert type(found) is kind, type(found)
    return found
