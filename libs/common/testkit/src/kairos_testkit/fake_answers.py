"""What the fake providers say: an echo, calls of the tools that were named, JSON of the asked shape.

Everything follows from the request alone, so a test can compute the answer and its bill itself.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

_CHARACTERS_PER_TOKEN: Final = 4


def count_tokens(text: str) -> int:
    """Four characters are a token."""
    return math.ceil(len(text) / _CHARACTERS_PER_TOKEN)


def text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return ""


def example(schema: Mapping[str, Any], text: str, definitions: Mapping[str, Any] | None = None) -> Any:
    """The plainest value of a JSON schema; strings are the text that was asked."""
    definitions = definitions or schema.get("$defs") or {}
    if "$ref" in schema:
        return example(definitions[schema["$ref"].rsplit("/", 1)[-1]], text, definitions)
    first = next((schema[name][0] for name in ("anyOf", "oneOf", "allOf") if schema.get(name)), None)
    if first is not None:
        return example(first, text, definitions)
    if "const" in schema or schema.get("enum"):
        return schema.get("const") or schema["enum"][0]
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        properties = schema.get("properties") or {}
        return {name: example(each, text, definitions) for name, each in properties.items()}
    if kind == "array":
        return [example(schema.get("items") or {"type": "string"}, text, definitions)]
    return {"string": text, "integer": 7, "number": 1.5, "boolean": True}.get(kind)


@dataclass(frozen=True, slots=True)
class ToolCall:
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Said:
    """An answer in nobody's format. `finish` is OpenAI's finish_reason."""

    text: str | None
    calls: tuple[ToolCall, ...] = field(default=())
    finish: str = "stop"

    @property
    def tokens(self) -> int:
        whole = (self.text or "") + "".join(call.name + call.arguments for call in self.calls)
        return count_tokens(whole)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request in nobody's format. `force` is a tool's name, "required", "none" or "auto".

    `tools` are name and JSON schema of each; `schema` is the shape the answer must have.
    """

    last: str
    prompt_tokens: int
    last_is_result: bool = False
    tools: Sequence[tuple[str, Mapping[str, Any]]] = ()
    force: str = "auto"
    schema: Mapping[str, Any] | None = None
    max_tokens: int | None = None


def say(asked: Asked, reply: str | None = None) -> Said:
    """`reply` is a scripted text that replaces the echo."""
    called = () if reply is not None or asked.last_is_result else tuple(_called(asked))
    if called:
        calls = (
            ToolCall(f"call_{number}", name, json.dumps(example(schema, asked.last)))
            for number, (name, schema) in enumerate(called)
        )
        return Said(None, tuple(calls), "tool_calls")
    if reply is None and asked.schema is not None:
        reply = json.dumps(example(asked.schema, asked.last))
    text = f"echo: {asked.last}" if reply is None else reply
    if asked.max_tokens is not None and count_tokens(text) > asked.max_tokens:
        return Said(text[: asked.max_tokens * _CHARACTERS_PER_TOKEN], finish="length")
    return Said(text)


def _called(asked: Asked) -> Sequence[tuple[str, Mapping[str, Any]]]:
    """The tools that are named in the text, or that the request forces."""
    if asked.force == "none":
        return ()
    named = [tool for tool in asked.tools if tool[0] in asked.last]
    if asked.force == "auto" or (asked.force == "required" and named):
        return named
    if asked.force == "required":
        return asked.tools[:1]
    return [tool for tool in asked.tools if tool[0] == asked.force]
