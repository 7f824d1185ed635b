"""The Responses API of the fake provider: read a request, write the answer whole or as events."""

import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kairos_testkit.fake_answers import Asked, Said, count_tokens, text_of


def read_response(body: Mapping[str, Any]) -> Asked:
    given = body.get("input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given or []
    last = items[-1] if items else {}
    result = last.get("type") == "function_call_output"
    choice = body.get("tool_choice") or "auto"
    shape = (body.get("text") or {}).get("format") or {}
    texts = [text_of(item.get("content") or item.get("output")) for item in items]
    return Asked(
        last=texts[-1] if texts else "",
        prompt_tokens=sum(map(count_tokens, [*texts, body.get("instructions") or ""])),
        last_is_result=result,
        tools=[
            (tool["name"], tool.get("parameters") or {}) for tool in body.get("tools") or () if "name" in tool
        ],
        force=str(choice.get("name") if isinstance(choice, dict) else choice),
        schema=shape.get("schema") if shape.get("type") == "json_schema" else None,
        max_tokens=body.get("max_output_tokens"),
    )


@dataclass(frozen=True, slots=True)
class ResponseAnswer:
    """`usage` None leaves it out."""

    id: str
    body: Mapping[str, Any]
    said: Said
    usage: Mapping[str, Any] | None

    async def whole(self) -> AsyncIterator[bytes]:
        yield json.dumps(self._document(self._status(), list(self._items()))).encode()

    async def stream(self) -> AsyncIterator[bytes]:
        for number, (kind, values) in enumerate(self._events()):
            event = {"type": kind, "sequence_number": number} | values
            yield f"event: {kind}\ndata: {json.dumps(event)}\n\n".encode()

    def _status(self) -> str:
        return "incomplete" if self.said.finish == "length" else "completed"

    def _items(self) -> Iterator[dict[str, Any]]:
        if self.said.text is not None:
            part = {"type": "output_text", "text": self.said.text, "annotations": [], "logprobs": []}
            yield {
                "id": f"msg_{self.id}",
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": [part],
            }
        for call in self.said.calls:
            yield {
                "id": f"fc_{call.id}",
                "type": "function_call",
                "status": "completed",
                "call_id": call.id,
                "name": call.name,
                "arguments": call.arguments,
            }

    def _events(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for kind in ("response.created", "response.in_progress"):
            yield kind, {"response": self._document("in_progress", [], over=False)}
        items = list(self._items())
        for index, item in enumerate(items):
            at = {"item_id": item["id"], "output_index": index}
            empty: dict[str, Any] = {"content": []} if "content" in item else {"arguments": ""}
            begun = item | empty
            yield "response.output_item.added", {"output_index": index, "item": begun}
            if "content" in item:
                yield from self._text(at | {"content_index": 0}, item["content"][0])
            else:
                arguments = {"delta": item["arguments"]}
                yield "response.function_call_arguments.delta", at | arguments
                done = {"arguments": item["arguments"], "name": item["name"]}
                yield "response.function_call_arguments.done", at | done
            yield "response.output_item.done", {"output_index": index, "item": item}
        yield f"response.{self._status()}", {"response": self._document(self._status(), items)}

    def _text(self, at: dict[str, Any], part: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        yield "response.content_part.added", at | {"part": dict(part) | {"text": ""}}
        for number, word in enumerate(part["text"].split(" ")):
            yield (
                "response.output_text.delta",
                at
                | {
                    "delta": word if number == 0 else f" {word}",
                    "logprobs": [],
                },
            )
        yield "response.output_text.done", at | {"text": part["text"], "logprobs": []}
        yield "response.content_part.done", at | {"part": part}

    def _document(self, status: str, output: list[Any], *, over: bool = True) -> dict[str, Any]:
        reason = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": f"resp_{self.id}",
            "object": "response",
            "created_at": int(time.time()),
            "status": status,
            "error": None,
            "incomplete_details": reason,
            "instructions": self.body.get("instructions"),
            "metadata": {},
            "model": self.body.get("model"),
            "output": output,
            "parallel_tool_calls": True,
            "store": self.body.get("store", True),
            "temperature": 1.0,
            "text": self.body.get("text") or {"format": {"type": "text"}},
            "tool_choice": self.body.get("tool_choice") or "auto",
            "tools": self.body.get("tools") or [],
            "top_p": 1.0,
            "usage": self.usage if over else None,
        }
