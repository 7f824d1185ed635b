"""A request to the Responses API: what it asks for, and which of it only a provider with that API can do.

This router keeps no responses (docs/decisions/0018-responses-without-a-store.md): what refers to a stored
one is refused here, before anything is reserved.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from kairos_router.domain import fields
from kairos_router.domain.ask import (
    MAX_CHOICES,
    Ask,
    InvalidAsk,
    kinds_of_answer,
    kinds_of_parts,
    opaque_kinds,
    paid_tools,
    service_of,
)
from kairos_router.domain.catalogue import Capability
from kairos_router.domain.pricing import ANYTHING, AUDIO_IN, AUDIO_OUT

# Refer to something kept between requests, in the account of a provider that many tenants share.
_STORED = ("previous_response_id", "conversation", "prompt")
_TRANSLATED_TOOLS = frozenset({"function"})
_TRANSLATED_ITEMS = frozenset({"message", "function_call", "function_call_output", "reasoning"})
_TRANSLATED_PARTS = frozenset(
    {"input_text", "output_text", "refusal", "input_image", "input_file", "input_audio", "text"}
)
# Only a provider with the API knows what they mean.
_NATIVE = ("context_management", "max_tool_calls", "moderation")
# Tools that the caller runs. Every other kind runs at the provider, which reads its input once per call.
_CALLERS_TOOLS = frozenset({"function", "custom"})
HOSTED_TOOL_CALLS = 4
# More than any context window: the bound of input tokens is then the window itself.
_UNBOUNDED = 1 << 40


def _refuse_stored(body: Mapping[str, Any]) -> None:
    for name in _STORED:
        if body.get(name) is not None:
            raise InvalidAsk(
                f"'{name}' needs stored responses, which are not kept here; send all input", name
            )
    if fields.flag(body, "background"):
        raise InvalidAsk("'background' needs stored responses, which are not kept here", "background")
    if fields.flag(body, "store"):
        raise InvalidAsk("'store' must be false: responses are not kept here", "store")


def _items(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    given = body.get("input")
    if isinstance(given, str) and given:
        return []
    if not isinstance(given, list) or not given or not all(isinstance(item, dict) for item in given):
        raise InvalidAsk("'input' must be a string or a non-empty array of items", "input")
    for item in given:
        if item_type(item) == "item_reference":
            raise InvalidAsk("'item_reference' needs stored responses, which are not kept here", "input")
    return given


def item_type(item: Mapping[str, Any]) -> str:
    """A message may leave its type out."""
    return str(item.get("type") or "message")


def parts_of(items: list[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The parts of messages and of what functions gave back."""
    for item in items:
        for name in ("content", "output"):
            content = item.get(name)
            if isinstance(content, list):
                yield from (part for part in content if isinstance(part, dict))


def _tools(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    tools = fields.optional(body, "tools", list, "an array") or []
    if not all(isinstance(tool, dict) for tool in tools):
        raise InvalidAsk("'tools' must be an array of objects", "tools")
    return list(tools)


def _native(
    body: Mapping[str, Any], items: list[Mapping[str, Any]], tools: list[Mapping[str, Any]]
) -> str | None:
    """The first parameter that has no counterpart in a chat completion."""
    if any(item_type(item) not in _TRANSLATED_ITEMS for item in items):
        return "input"
    if any(part.get("type") not in _TRANSLATED_PARTS for part in parts_of(items)):
        return "input"
    if any(tool.get("type") not in _TRANSLATED_TOOLS for tool in tools):
        return "tools"
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") not in {"function", "allowed_tools"}:
        return "tool_choice"
    if body.get("truncation") == "auto":
        return "truncation"
    return next((name for name in _NATIVE if body.get(name) is not None), None)


def _hosted_calls(body: Mapping[str, Any], tools: list[Mapping[str, Any]]) -> int:
    """How often tools at the provider may run; a request that does not say gets a limit, so money has one."""
    if all(tool.get("type") in _CALLERS_TOOLS for tool in tools):
        return 0
    wanted = fields.positive(body, "max_tool_calls")
    if wanted is not None and wanted > MAX_CHOICES:
        raise InvalidAsk(f"'max_tool_calls' must be at most {MAX_CHOICES}", "max_tool_calls")
    return wanted or HOSTED_TOOL_CALLS


def _format(body: Mapping[str, Any]) -> str:
    text = fields.optional(body, "text", dict, "an object") or {}
    wanted = text.get("format") or {}
    if not isinstance(wanted, dict):
        raise InvalidAsk("'text.format' must be an object", "text.format")
    kind = wanted.get("type", "text")
    if kind not in {"text", "json_object", "json_schema"}:
        raise InvalidAsk("'text.format.type' must be text, json_object or json_schema", "text.format.type")
    return str(kind)


def parse_response_ask(payload: object, size: int) -> Ask:
    """Read a request to /v1/responses; `size` is its length in bytes. Raises InvalidAsk."""
    body = fields.document(payload)
    model = fields.model(body)
    _refuse_stored(body)
    items, tools = _items(body), _tools(body)
    for name, kind, noun in (
        ("instructions", str, "a string"),
        ("reasoning", dict, "an object"),
        ("include", list, "an array"),
    ):
        fields.optional(body, name, kind, noun)
    stream = fields.flag(body, "stream")
    parts = [{"content": list(parts_of(items))}]
    (kinds, images), elsewhere = kinds_of_parts(parts), opaque_kinds(parts)
    native = _native(body, items, tools)
    form = _format(body)
    kinds |= kinds_of_answer(body)
    wanted = {
        Capability.TOOLS: bool(tools),
        Capability.VISION: images > 0,
        Capability.AUDIO: bool(kinds & (AUDIO_IN | AUDIO_OUT)),
        Capability.JSON: form != "text",
        Capability.JSON_SCHEMA: form == "json_schema",
        Capability.STREAMING: stream,
        Capability.RESPONSES: native is not None,
    }
    hosted = _hosted_calls(body, tools)
    if hosted:
        body = {**body, "max_tool_calls": hosted}
    return Ask(
        model=model,
        payload=body,
        size=_UNBOUNDED if hosted else size,
        inputs=hosted + 1,
        longest=size if hosted else None,
        max_tokens=fields.positive(body, "max_output_tokens"),
        stream=stream,
        include_usage=True,
        images=images,
        needs=frozenset(capability for capability, needed in wanted.items() if needed),
        operation="responses",
        native=native,
        kinds=ANYTHING if hosted else kinds | (elsewhere or 0),
        opaque=bool(hosted) or elsewhere is not None,
        tool_calls=paid_tools(body),
        service=service_of(body),
    )
