"""One answer in two forms: a document, and the stream of events it would have come as."""

import json
from collections.abc import Mapping
from typing import Any

DONE = b"data: [DONE]\n\n"
_JOINED = ("content", "refusal", "reasoning_content", "reasoning")
_KNOWN_DELTA = frozenset({*_JOINED, "role", "tool_calls", "function_call"})
_KNOWN_CHOICE = frozenset({"index", "delta", "finish_reason", "logprobs"})
PIECE_CHARACTERS = 512


class Assembly:
    """Puts a chat completion together from its chunks. `lossy` once there was something it can't keep."""

    def __init__(self) -> None:
        self.lossy = False
        self.usage: Mapping[str, Any] | None = None
        self._head: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}

    def feed(self, chunk: Any) -> None:
        if not isinstance(chunk, dict) or chunk.get("error"):
            self.lossy = True
            return
        for name in ("id", "created", "model", "system_fingerprint", "service_tier"):
            if chunk.get(name) is not None:
                self._head.setdefault(name, chunk[name])
        if isinstance(chunk.get("usage"), dict):
            self.usage = chunk["usage"]
        for choice in chunk.get("choices") or ():
            self._choice(choice)

    def document(self) -> dict[str, Any] | None:
        """The whole answer, or None when it is not whole."""
        choices = [self._choices[index] for index in sorted(self._choices)]
        if self.lossy or not choices or any(not choice["finish_reason"] for choice in choices):
            return None
        usage = {} if self.usage is None else {"usage": dict(self.usage)}
        return {**self._head, "object": "chat.completion", "choices": choices, **usage}

    def _choice(self, chunk: Any) -> None:
        if not isinstance(chunk, dict) or any(chunk[name] for name in chunk.keys() - _KNOWN_CHOICE):
            self.lossy = True
            return
        index = chunk.get("index") or 0
        choice = self._choices.setdefault(
            index, {"index": index, "message": {"role": "assistant", "content": None}, "finish_reason": None}
        )
        if chunk.get("finish_reason"):
            choice["finish_reason"] = chunk["finish_reason"]
        if chunk.get("logprobs"):
            kept = choice.setdefault("logprobs", {})
            for name, values in chunk["logprobs"].items():
                kept[name] = (kept.get(name) or []) + values if values else kept.get(name)
        delta = chunk.get("delta") or {}
        if any(delta[name] for name in delta.keys() - _KNOWN_DELTA) or delta.get("function_call"):
            self.lossy = True
        self._delta(choice["message"], delta)

    def _delta(self, message: dict[str, Any], delta: Mapping[str, Any]) -> None:
        for name in _JOINED:
            if delta.get(name):
                message[name] = (message.get(name) or "") + delta[name]
        for call in delta.get("tool_calls") or ():
            self._tool_call(message.setdefault("tool_calls", []), call)

    def _tool_call(self, calls: list[dict[str, Any]], piece: Any) -> None:
        index = piece.get("index", len(calls)) if isinstance(piece, dict) else -1
        if index < 0 or index > len(calls):
            self.lossy = True
            return
        if index == len(calls):
            calls.append({"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
        call = calls[index]
        call["id"] = call["id"] or piece.get("id")
        call["type"] = piece.get("type") or call["type"]
        told = piece.get("function") or {}
        call["function"]["name"] += told.get("name") or ""
        call["function"]["arguments"] += told.get("arguments") or ""


def events_of(document: Mapping[str, Any], *, include_usage: bool) -> list[bytes]:
    """The document as server-sent events, the terminator last. Joined again they are the document."""
    head = {
        name: document[name] for name in ("id", "created", "model", "system_fingerprint") if name in document
    }
    head["object"] = "chat.completion.chunk"
    more = {"usage": None} if include_usage else {}

    def event(choices: list[dict[str, Any]], **fields: Any) -> bytes:
        chunk = {**head, "choices": choices, **more, **fields}
        return b"data: " + json.dumps(chunk, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"

    events = []
    for choice in document.get("choices", ()):
        index = choice.get("index", 0)
        events += [
            event([{"index": index, "delta": delta, "finish_reason": None}])
            for delta in _deltas(choice.get("message") or {})
        ]
        end = {"index": index, "delta": {}, "finish_reason": choice.get("finish_reason")}
        if choice.get("logprobs"):
            end["logprobs"] = choice["logprobs"]
        events.append(event([end]))
    if include_usage and document.get("usage") is not None:
        events.append(event([], usage=document["usage"]))
    return [*events, DONE]


def _deltas(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    deltas: list[dict[str, Any]] = [{"role": message.get("role", "assistant"), "content": ""}]
    for name in (*_JOINED[1:], _JOINED[0]):
        text = message.get(name)
        if isinstance(text, str):
            deltas += [
                {name: text[at : at + PIECE_CHARACTERS]} for at in range(0, len(text), PIECE_CHARACTERS)
            ]
    calls = message.get("tool_calls")
    if calls:
        deltas.append({"tool_calls": [{"index": index, **call} for index, call in enumerate(calls)]})
    return deltas
