"""A chat completion as the Responses API would give it; response_events.py does so for streams."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kairos_router.domain.pricing import Usage

# What the caller asked for is told back in the response.
_ECHOED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "temperature": None,
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": None,
    "user": None,
}
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


def _usage(usage: Usage | None) -> dict[str, Any] | None:
    if usage is None:
        return None
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_input_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


@dataclass(slots=True)
class ResponseDraft:
    """The response document while it is made. `key` makes its ids; it is unique to the attempt."""

    payload: Mapping[str, Any]
    key: str
    model: str
    created_at: int
    output: list[dict[str, Any]] = field(default_factory=list)

    def document(
        self, status: str, usage: Usage | None = None, finish_reason: str | None = None
    ) -> dict[str, Any]:
        asked, text = self.payload.get("reasoning") or {}, self.payload.get("text") or {}
        reason = _INCOMPLETE.get(finish_reason or "")
        echoed = {
            name: default if self.payload.get(name) is None else self.payload[name]
            for name, default in _ECHOED.items()
        }
        return {
            "id": f"resp_{self.key}",
            "object": "response",
            "created_at": self.created_at,
            "status": "incomplete" if reason else status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": reason} if reason else None,
            "model": self.model,
            "output": list(self.output),
            "previous_response_id": None,
            "reasoning": {"effort": asked.get("effort"), "summary": None},
            "service_tier": "default",
            "store": False,
            "text": {"format": text.get("format") or {"type": "text"}},
            "truncation": "disabled",
            "usage": _usage(usage),
            **echoed,
        }

    def message(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id("msg"),
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": content,
        }

    def reasoning(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._id("rs"), "type": "reasoning", "summary": [], "content": content}

    def function_call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """`call` is the chat completion's; ids are made for providers that give none."""
        function = call.get("function") or {}
        return {
            "id": self._id("fc"),
            "type": "function_call",
            "status": "completed",
            "call_id": call.get("id") or self._id("call"),
            "name": function.get("name") or "",
            "arguments": function.get("arguments") or "",
        }

    def _id(self, kind: str) -> str:
        return f"{kind}_{self.key}{len(self.output)}"


def text_part(kind: str, text: str, logprobs: list[Any]) -> dict[str, Any]:
    """`kind` is output_text, refusal or reasoning_text."""
    if kind == "output_text":
        return {"type": kind, "text": text, "annotations": [], "logprobs": logprobs}
    return {"type": kind, "refusal" if kind == "refusal" else "text": text}


def reasoning_of(message: Mapping[str, Any]) -> str | None:
    """Providers without the API call it so."""
    text = message.get("reasoning_content") or message.get("reasoning")
    return text if isinstance(text, str) and text else None


def logprobs_of(choice: Mapping[str, Any]) -> list[Any]:
    return list((choice.get("logprobs") or {}).get("content") or ())


def to_response(
    payload: Mapping[str, Any], completion: Mapping[str, Any], usage: Usage | None, key: str
) -> dict[str, Any]:
    """The response document of a whole chat completion."""
    choice = completion["choices"][0]
    message = choice.get("message") or {}
    created = completion.get("created") or int(time.time())
    response = ResponseDraft(payload, key, str(completion.get("model") or ""), created)
    calls = message.get("tool_calls") or ()
    reasoning = reasoning_of(message)
    if reasoning is not None:
        response.output.append(response.reasoning([text_part("reasoning_text", reasoning, [])]))
    if message.get("refusal"):
        response.output.append(response.message([text_part("refusal", message["refusal"], [])]))
    elif message.get("content") or not calls:
        part = text_part("output_text", message.get("content") or "", logprobs_of(choice))
        response.output.append(response.message([part]))
    for call in calls:
        response.output.append(response.function_call(call))
    return response.document("completed", usage, choice.get("finish_reason"))
