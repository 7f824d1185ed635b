"""Anthropic's Messages API as its documentation records it: whole, as events, with tools, errors and caches.

What it says is the fake provider's echo; `records` are its own books, in Anthropic's way of counting:
tokens read from and written to the cache stand beside the input and not within it.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from kairos_testkit.fake_answers import Asked, Said, count_tokens, say, text_of
from kairos_testkit.fake_server import FakeServer
from kairos_testkit.faults_script import Fault, FaultScript

_OK: Final = 200
_ERRORS: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}
_STOP: Final = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """One request as Anthropic would bill it."""

    headers: Mapping[str, str]
    body: Mapping[str, Any]
    usage: Mapping[str, int]
    billed: bool


def _read(body: Mapping[str, Any]) -> Asked:
    last = body["messages"][-1]["content"]
    parts = last if isinstance(last, list) else []
    results = [part for part in parts if part.get("type") == "tool_result"]
    choice = body.get("tool_choice") or {}
    forces = {"any": "required", "tool": choice.get("name"), "none": "none"}
    return Asked(
        last=text_of(results[-1].get("content")) if results else text_of(last),
        prompt_tokens=sum(count_tokens(text_of(message["content"])) for message in body["messages"]),
        last_is_result=bool(results),
        tools=[(tool["name"], tool.get("input_schema") or {}) for tool in body.get("tools") or ()],
        force=str(forces.get(str(choice.get("type")), "auto")),
        max_tokens=body["max_tokens"],
    )


class FakeAnthropic(FakeServer):
    """`base_url` is the deployment's address. Script it with `fail`."""

    def __init__(self, *, port: int = 0) -> None:
        super().__init__(port=port)
        self.records: list[MessageRecord] = []
        self.script = FaultScript()
        # Tokens of every further request that come from the cache, and that are written to it.
        self.cached = 0
        self.written = 0
        # A stream ends after this many events as if it were over, as a proxy in between would end it.
        self.events_at_most: int | None = None

    def fail(self, fault: Fault) -> None:
        self.script.add(fault)

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/v1/messages", self._messages)]

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if not request.headers.get("x-api-key") or not request.headers.get("anthropic-version"):
            return _error(401, None)
        if not isinstance(body.get("max_tokens"), int):
            return _error(400, None, "max_tokens: Field required")
        asked = _read(body)
        fault = self.script.take("messages", asked.last)
        said = say(asked, fault.reply if fault else None)
        usage = {
            "input_tokens": asked.prompt_tokens,
            "cache_creation_input_tokens": self.written,
            "cache_read_input_tokens": self.cached,
            "output_tokens": said.tokens,
        }
        status = fault.status if fault and fault.status else _OK
        self.records.append(MessageRecord(dict(request.headers), body, usage, status == _OK))
        if fault and fault.delay_ms:
            await asyncio.sleep(fault.delay_ms / 1000)
        if status != _OK:
            return _error(status, fault.retry_after if fault else None)
        if not body.get("stream"):
            return web.json_response(_message(body, _content(said), usage, _STOP[said.finish]))
        return await self._stream(
            request, _events(body, said, usage), fault.cut_after_bytes if fault else None
        )

    async def _stream(
        self, request: web.Request, events: AsyncIterator[bytes], left: int | None
    ) -> web.StreamResponse:
        """`left` is how many bytes go out before the connection is cut."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        number = 0
        async for event in events:
            if number == self.events_at_most:
                break
            number += 1
            if left is not None:
                left -= len(event)
                if left < 0:
                    if request.transport is not None:
                        request.transport.close()
                    break
            await response.write(event)
        return response


def _content(said: Said) -> list[dict[str, Any]]:
    text = [] if said.text is None else [{"type": "text", "text": said.text}]
    calls = [
        {"type": "tool_use", "id": f"toolu_{call.id}", "name": call.name, "input": json.loads(call.arguments)}
        for call in said.calls
    ]
    return [*text, *calls]


def _message(
    body: Mapping[str, Any], content: list[dict[str, Any]], usage: Mapping[str, int], stop: str | None
) -> dict[str, Any]:
    return {
        "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": dict(usage),
    }


async def _events(body: Mapping[str, Any], said: Said, usage: Mapping[str, int]) -> AsyncIterator[bytes]:
    for kind, values in _event_values(body, said, usage):
        # Each event a packet of its own, as from a model that thinks between them.
        await asyncio.sleep(0)
        yield f"event: {kind}\ndata: {json.dumps({'type': kind} | values)}\n\n".encode()


def _event_values(
    body: Mapping[str, Any], said: Said, usage: Mapping[str, int]
) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "message_start", {"message": _message(body, [], dict(usage) | {"output_tokens": 1}, None)}
    yield "ping", {}
    for index, block in enumerate(_content(said)):
        if block["type"] == "text":
            begun, deltas = {"type": "text", "text": ""}, _text_deltas(block["text"])
        else:
            begun, deltas = block | {"input": {}}, _json_deltas(json.dumps(block["input"]))
        yield "content_block_start", {"index": index, "content_block": begun}
        for delta in deltas:
            yield "content_block_delta", {"index": index, "delta": delta}
        yield "content_block_stop", {"index": index}
    ended = {"stop_reason": _STOP[said.finish], "stop_sequence": None}
    yield "message_delta", {"delta": ended, "usage": {"output_tokens": usage["output_tokens"]}}
    yield "message_stop", {}


def _text_deltas(text: str) -> Iterator[dict[str, Any]]:
    for number, word in enumerate(text.split(" ")):
        yield {"type": "text_delta", "text": word if number == 0 else f" {word}"}


def _json_deltas(text: str) -> Iterator[dict[str, Any]]:
    half = len(text) // 2
    for piece in ("", text[:half], text[half:]):
        yield {"type": "input_json_delta", "partial_json": piece}


def _error(status: int, retry_after: int | None, message: str = "scripted failure") -> web.Response:
    headers = {} if retry_after is None else {"retry-after": str(retry_after)}
    error = {"type": _ERRORS.get(status, "api_error"), "message": message}
    return web.json_response({"type": "error", "error": error}, status=status, headers=headers)
