"""A Responses API request as a chat completion; `domain.response_ask` refuses what has no counterpart."""

from collections.abc import Iterable, Mapping
from typing import Any

from kairos_router.domain.response_ask import item_type

# Of the Responses API alone. All else passes through, so that new and provider-specific fields work.
_OWN = frozenset(
    {
        "input",
        "instructions",
        "tools",
        "tool_choice",
        "text",
        "reasoning",
        "max_output_tokens",
        "include",
        "store",
        "metadata",
        "truncation",
        "background",
        "previous_response_id",
        "conversation",
        "prompt",
        "top_logprobs",
        "stream_options",
        "parallel_tool_calls",
    }
)
_TEXTS = frozenset({"input_text", "output_text", "text"})


def to_chat(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The chat completion request that asks for the same."""
    body = {name: value for name, value in payload.items() if name not in _OWN}
    body["messages"] = _messages(payload)
    body |= _tools(payload)
    body |= _shape(payload)
    return body


def _messages(payload: Mapping[str, Any]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if payload.get("instructions"):
        messages.append({"role": "system", "content": payload["instructions"]})
    given = payload["input"]
    if isinstance(given, str):
        messages.append({"role": "user", "content": given})
        return messages
    for item in given:
        _add(messages, item)
    return messages


def _add(messages: list[dict[str, Any]], item: Mapping[str, Any]) -> None:
    match item_type(item):
        case "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments") or "{}"}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            # Calls of one turn are one message of the assistant.
            if messages and messages[-1]["role"] == "assistant":
                messages[-1].setdefault("tool_calls", []).append(call)
            else:
                messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        case "function_call_output":
            content = _content(item.get("output"))
            messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
        case "message":
            role = item.get("role") or "user"
            role = "system" if role == "developer" else role
            content = _content(item.get("content"))
            if role == "assistant" and isinstance(content, list):
                content = "".join(part.get("text", "") for part in content)
            messages.append({"role": role, "content": content})
        # Reasoning of earlier turns has no place in a chat completion; models without the API ignore it.


def _content(given: Any) -> Any:
    """Text as it is; parts as chat's parts, or as text when they are nothing else."""
    if not isinstance(given, list):
        return given
    parts = [_part(part) for part in given if isinstance(part, dict)]
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts) if len(parts) == 1 else parts
    return parts


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    kind = part.get("type")
    if kind in _TEXTS:
        return {"type": "text", "text": part.get("text", "")}
    if kind == "refusal":
        return {"type": "text", "text": part.get("refusal", "")}
    if kind == "input_image":
        image = {"url": part.get("image_url")}
        if part.get("detail"):
            image["detail"] = part["detail"]
        return {"type": "image_url", "image_url": image}
    if kind == "input_file":
        names = ("file_data", "filename")
        return {"type": "file", "file": {name: part[name] for name in names if part.get(name)}}
    return dict(part)


def _tools(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Tools, which of them may be called, and whether several at once."""
    given: Iterable[Mapping[str, Any]] = payload.get("tools") or ()
    names = ("name", "description", "parameters", "strict")
    tools: list[dict[str, Any]] = [
        {"type": "function", "function": {name: tool[name] for name in names if tool.get(name) is not None}}
        for tool in given
    ]
    if not tools:
        return {}
    choice = payload.get("tool_choice")
    body: dict[str, Any] = {}
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        allowed = {tool.get("name") for tool in choice.get("tools") or ()}
        tools = [tool for tool in tools if tool["function"]["name"] in allowed]
        choice = choice.get("mode")
    elif isinstance(choice, dict):
        choice = {"type": "function", "function": {"name": choice.get("name")}}
    if choice is not None:
        body["tool_choice"] = choice
    if payload.get("parallel_tool_calls") is not None:
        body["parallel_tool_calls"] = payload["parallel_tool_calls"]
    return body | {"tools": tools}


def _shape(payload: Mapping[str, Any]) -> dict[str, Any]:
    """What the answer is to look like."""
    text = payload.get("text") or {}
    wanted = text.get("format") or {}
    body: dict[str, Any] = {}
    if wanted.get("type") == "json_schema":
        names = ("name", "description", "schema", "strict")
        schema = {name: wanted[name] for name in names if wanted.get(name) is not None}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif wanted.get("type") == "json_object":
        body["response_format"] = {"type": "json_object"}
    if text.get("verbosity"):
        body["verbosity"] = text["verbosity"]
    effort = (payload.get("reasoning") or {}).get("effort")
    if effort:
        body["reasoning_effort"] = effort
    if payload.get("top_logprobs"):
        body |= {"logprobs": True, "top_logprobs": payload["top_logprobs"]}
    elif "message.output_text.logprobs" in (payload.get("include") or ()):
        body["logprobs"] = True
    return body
