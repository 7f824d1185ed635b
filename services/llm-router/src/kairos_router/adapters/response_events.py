"""A streamed chat completion as the event sequence of the Responses API."""

import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from kairos_router.adapters.chat_to_responses import ResponseDraft, logprobs_of, reasoning_of, text_part
from kairos_router.domain.pricing import Usage

_CALL = "function_call_arguments"


@dataclass(slots=True)
class _Item:
    """The item that is being written. `kind` names its events; `index` is the call's in the chat stream."""

    kind: str
    item: dict[str, Any]
    index: int = 0
    text: list[str] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)


class ResponseEvents:
    """Turns chunks into events, one item after the other. `key` makes the ids."""

    def __init__(self, payload: Mapping[str, Any], key: str) -> None:
        self._response = ResponseDraft(payload, key, "", int(time.time()))
        self._number = 0
        self._current: _Item | None = None
        self._finish_reason: str | None = None
        self._began = False

    def chunk(self, document: Any) -> bytes:
        """The events that a chunk of the chat completion becomes."""
        return b"".join(self._chunk(document)) if isinstance(document, dict) else b""

    def end(self, usage: Usage | None) -> bytes:
        """The events that end the response."""
        return b"".join(self._end(usage))

    def _chunk(self, document: Mapping[str, Any]) -> Iterator[bytes]:
        if not self._began:
            self._began = True
            self._response.model = str(document.get("model") or "")
            for kind in ("response.created", "response.in_progress"):
                yield self._event(kind, response=self._response.document("in_progress"))
        for choice in document.get("choices") or ():
            delta = choice.get("delta") or {}
            logprobs = logprobs_of(choice)
            yield from self._text("reasoning_text", reasoning_of(delta), [])
            yield from self._text("output_text", delta.get("content"), logprobs)
            yield from self._text("refusal", delta.get("refusal"), [])
            for call in delta.get("tool_calls") or ():
                yield from self._call(call)
            self._finish_reason = choice.get("finish_reason") or self._finish_reason

    def _text(self, kind: str, delta: Any, logprobs: list[Any]) -> Iterator[bytes]:
        if not isinstance(delta, str) or not delta:
            return
        current = self._current
        if current is None or current.kind != kind:
            yield from self._close()
            current = yield from self._open_text(kind)
        current.text.append(delta)
        current.logprobs += logprobs
        more = {"logprobs": logprobs} if kind == "output_text" else {}
        yield self._event(f"response.{kind}.delta", **self._at(current), content_index=0, delta=delta, **more)

    def _open_text(self, kind: str) -> Generator[bytes, None, _Item]:
        draft = self._response
        item = draft.reasoning([]) if kind == "reasoning_text" else draft.message([])
        current = yield from self._open(_Item(kind, item))
        part = text_part(kind, "", [])
        yield self._event("response.content_part.added", **self._at(current), content_index=0, part=part)
        return current

    def _call(self, call: Mapping[str, Any]) -> Iterator[bytes]:
        index, arguments = call.get("index") or 0, (call.get("function") or {}).get("arguments")
        current = self._current
        if current is None or current.kind != _CALL or current.index != index:
            yield from self._close()
            function = {"name": (call.get("function") or {}).get("name")}
            item = self._response.function_call({"id": call.get("id"), "function": function})
            current = yield from self._open(_Item(_CALL, item, index))
        if arguments:
            current.text.append(arguments)
            yield self._event(f"response.{_CALL}.delta", **self._at(current), delta=arguments)

    def _open(self, current: _Item) -> Generator[bytes, None, _Item]:
        self._current = current
        item = {**current.item, "status": "in_progress"}
        yield self._event("response.output_item.added", output_index=len(self._response.output), item=item)
        return current

    def _close(self) -> Iterator[bytes]:
        """End the item that is being written, if there is one."""
        current, self._current = self._current, None
        if current is None:
            return
        text, at = "".join(current.text), self._at(current)
        if current.kind == _CALL:
            current.item["arguments"] = text
            name = current.item["name"]
            yield self._event(f"response.{_CALL}.done", **at, name=name, arguments=text)
        else:
            part = text_part(current.kind, text, current.logprobs)
            current.item["content"] = [part]
            yield self._event(f"response.{current.kind}.done", **at, content_index=0, **_done(part))
            yield self._event("response.content_part.done", **at, content_index=0, part=part)
        index = len(self._response.output)
        self._response.output.append(current.item)
        yield self._event("response.output_item.done", output_index=index, item=current.item)

    def _end(self, usage: Usage | None) -> Iterator[bytes]:
        if self._current is None and not self._response.output:
            yield from self._open_text("output_text")
        yield from self._close()
        document = self._response.document("completed", usage, self._finish_reason)
        yield self._event(f"response.{document['status']}", response=document)

    def _at(self, current: _Item) -> dict[str, Any]:
        return {"item_id": current.item["id"], "output_index": len(self._response.output)}

    def _event(self, kind: str, **values: Any) -> bytes:
        event = {"type": kind, "sequence_number": self._number, **values}
        self._number += 1
        return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps(event) + b"\n\n"


def _done(part: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name in {"text", "refusal", "logprobs"}}
