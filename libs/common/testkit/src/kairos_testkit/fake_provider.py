"""An OpenAI-compatible model provider that echoes, keeps its own books and fails on demand.

Its record is written before the answer leaves, so it counts what the provider would bill even when the
caller never sees the answer. `python -m kairos_testkit.fake_provider --port 8100 --log record.jsonl`.
"""

import argparse
import asyncio
import base64
import hashlib
import json
import math
import struct
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TextIO

from aiohttp import web

from kairos_testkit.fake_server import FakeServer
from kairos_testkit.faults_script import Fault, FaultScript

ATTEMPT_HEADER: Final = "x-kairos-attempt-id"
MODELS: Final = ("fake-echo", "fake-embedding")
_OK: Final = 200
_CHARACTERS_PER_TOKEN: Final = 4


@dataclass(frozen=True, slots=True)
class ProviderRecord:
    """One request as the provider books it. Not billed: it was refused before any work."""

    number: int
    at: float
    path: str
    attempt_id: str | None
    traceparent: str | None
    model: str
    stream: bool
    text: str
    input_tokens: int
    output_tokens: int
    billed: bool
    status: int
    fault: str | None


def count_tokens(text: str) -> int:
    """Four characters are a token: deterministic, so a test can compute the bill itself."""
    return math.ceil(len(text) / _CHARACTERS_PER_TOKEN)


def text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    return ""


class FakeProvider(FakeServer):
    """`url` is what a deployment's base address should be; `records` are the provider's own books."""

    def __init__(
        self, *, port: int = 0, host: str = "127.0.0.1", log: Path | None = None, delay_ms: int = 0
    ) -> None:
        super().__init__(port=port, host=host)
        self.records: list[ProviderRecord] = []
        self.script = FaultScript()
        self._delay_ms = delay_ms
        self._log_path = log
        self._log: TextIO | None = None

    @property
    def url(self) -> str:
        return f"{self.base_url}/v1"

    def fail(self, fault: Fault) -> None:
        self.script.add(fault)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/chat/completions", self._chat),
            web.post("/v1/embeddings", self._embeddings),
            web.get("/v1/models", self._models),
            web.get("/_record", self._record),
            web.delete("/_record", self._forget),
            web.post("/_script", self._add_fault),
            web.delete("/_script", self._clear_faults),
        ]

    async def opened(self) -> None:
        if self._log_path is not None:
            self._log_path.parent.mkdir(parents=True, exist_ok=True)
            self._log = self._log_path.open("a", buffering=1)

    async def closing(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await _json(request)
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            return _error(400, "messages is required")
        last = text_of(messages[-1].get("content"))
        attempt = request.headers.get(ATTEMPT_HEADER)
        fault = self.script.take("chat", f"{attempt} {body.get('model')} {last}")
        reply, finish = _reply(last, fault, body.get("max_completion_tokens") or body.get("max_tokens"))
        status = fault.status if fault and fault.status else _OK
        usage = {
            "prompt_tokens": sum(count_tokens(text_of(message.get("content"))) for message in messages),
            "completion_tokens": count_tokens(reply),
        }
        usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
        self._book(request, body, last, usage, status, fault)
        await self._wait(fault)
        if status != _OK:
            return _error(status, "scripted failure", fault.retry_after if fault else None)
        answer = _Answer(f"chatcmpl-{len(self.records)}", str(body.get("model")), reply, finish, usage)
        if body.get("stream"):
            include_usage = bool((body.get("stream_options") or {}).get("include_usage"))
            pieces = answer.stream(include_usage=include_usage and not (fault and fault.omit_usage))
            return await _send(request, pieces, "text/event-stream", fault)
        return await _send(
            request, answer.whole(with_usage=not (fault and fault.omit_usage)), "application/json", fault
        )

    async def _embeddings(self, request: web.Request) -> web.StreamResponse:
        body = await _json(request)
        given = body.get("input")
        texts = [str(each) for each in given] if isinstance(given, list) else [str(given or "")]
        fault = self.script.take("embeddings", f"{request.headers.get(ATTEMPT_HEADER)} {' '.join(texts)}")
        status = fault.status if fault and fault.status else _OK
        tokens = sum(count_tokens(text) for text in texts)
        usage = {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}
        self._book(request, body, " ".join(texts), usage, status, fault)
        await self._wait(fault)
        if status != _OK:
            return _error(status, "scripted failure", fault.retry_after if fault else None)
        encode = body.get("encoding_format") == "base64"
        vectors = [_vector(text, int(body.get("dimensions") or 64)) for text in texts]
        data = [
            {"object": "embedding", "index": index, "embedding": _packed(vector) if encode else vector}
            for index, vector in enumerate(vectors)
        ]
        del usage["completion_tokens"]
        return web.json_response({"object": "list", "model": body.get("model"), "data": data, "usage": usage})

    async def _models(self, _: web.Request) -> web.Response:
        data = [
            {"id": name, "object": "model", "created": 0, "owned_by": "kairos-testkit"} for name in MODELS
        ]
        return web.json_response({"object": "list", "data": data})

    async def _record(self, _: web.Request) -> web.Response:
        billed = [record for record in self.records if record.billed]
        totals = {
            "requests": len(self.records),
            "billed": len(billed),
            "input_tokens": sum(record.input_tokens for record in billed),
            "output_tokens": sum(record.output_tokens for record in billed),
        }
        return web.json_response({"records": [asdict(record) for record in self.records], "totals": totals})

    async def _forget(self, _: web.Request) -> web.Response:
        self.records.clear()
        return web.Response(status=204)

    async def _add_fault(self, request: web.Request) -> web.Response:
        try:
            self.script.add(Fault.parse(await _json(request)))
        except (ValueError, TypeError) as error:
            return _error(400, str(error))
        return web.Response(status=204)

    async def _clear_faults(self, _: web.Request) -> web.Response:
        self.script.clear()
        return web.Response(status=204)

    def _book(
        self,
        request: web.Request,
        body: dict[str, Any],
        text: str,
        usage: dict[str, int],
        status: int,
        fault: Fault | None,
    ) -> None:
        record = ProviderRecord(
            number=len(self.records) + 1,
            at=time.time(),
            path=request.path,
            attempt_id=request.headers.get(ATTEMPT_HEADER),
            traceparent=request.headers.get("traceparent"),
            model=str(body.get("model")),
            stream=bool(body.get("stream")),
            text=text,
            input_tokens=usage["prompt_tokens"],
            output_tokens=usage["completion_tokens"],
            billed=status == _OK,
            status=status,
            fault=_name(fault),
        )
        self.records.append(record)
        if self._log is not None:
            self._log.write(json.dumps(asdict(record)) + "\n")

    async def _wait(self, fault: Fault | None) -> None:
        pause = fault.delay_ms if fault and fault.delay_ms else self._delay_ms
        if pause:
            await asyncio.sleep(pause / 1000)


@dataclass(frozen=True, slots=True)
class _Answer:
    id: str
    model: str
    reply: str
    finish: str
    usage: dict[str, int]

    async def whole(self, *, with_usage: bool) -> AsyncIterator[bytes]:
        message = {"role": "assistant", "content": self.reply}
        body: dict[str, Any] = {
            "id": self.id,
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self.model,
            "choices": [{"index": 0, "message": message, "finish_reason": self.finish, "logprobs": None}],
        }
        if with_usage:
            body["usage"] = self.usage
        yield json.dumps(body).encode()

    async def stream(self, *, include_usage: bool) -> AsyncIterator[bytes]:
        yield self._chunk({"role": "assistant", "content": ""}, None)
        for index, word in enumerate(self.reply.split(" ")):
            yield self._chunk({"content": word if index == 0 else f" {word}"}, None)
        yield self._chunk({}, self.finish)
        if include_usage:
            yield self._event({"choices": [], "usage": self.usage})
        yield b"data: [DONE]\n\n"

    def _chunk(self, delta: dict[str, str], finish: str | None) -> bytes:
        return self._event(
            {"choices": [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}]}
        )

    def _event(self, values: dict[str, Any]) -> bytes:
        head = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": self.model,
        }
        return f"data: {json.dumps(head | values)}\n\n".encode()


def _reply(last: str, fault: Fault | None, max_tokens: Any) -> tuple[str, str]:
    reply = fault.reply if fault and fault.reply is not None else f"echo: {last}"
    if isinstance(max_tokens, int) and count_tokens(reply) > max_tokens:
        return reply[: max_tokens * _CHARACTERS_PER_TOKEN], "length"
    return reply, "stop"


def _name(fault: Fault | None) -> str | None:
    if fault is None:
        return None
    if fault.status:
        return f"status {fault.status}"
    for name in ("drop", "garbage", "omit_usage", "cut_after_bytes", "delay_ms", "reply"):
        if getattr(fault, name):
            return name
    return "none"


def _error(status: int, message: str, retry_after: int | None = None) -> web.Response:
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    body = {"error": {"message": message, "type": "fake_error", "code": str(status)}}
    return web.json_response(body, status=status, headers=headers)


async def _json(request: web.Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except ValueError as error:
        raise web.HTTPBadRequest(text="the body is not JSON") from error
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text="the body is not an object")
    return body


async def _send(
    request: web.Request, pieces: AsyncIterator[bytes], content_type: str, fault: Fault | None
) -> web.StreamResponse:
    if fault and fault.drop:
        _abort(request)
        return web.Response()
    response = web.StreamResponse(headers={"Content-Type": content_type, "Cache-Control": "no-store"})
    await response.prepare(request)
    if fault and fault.garbage:
        await response.write(b"\xff\xfe{not json]")
        return response
    sent, limit = 0, fault.cut_after_bytes if fault else None
    async for piece in pieces:
        if limit is not None and sent + len(piece) > limit:
            await response.write(piece[: limit - sent])
            _abort(request)
            return response
        sent += len(piece)
        await response.write(piece)
    return response


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()


def _vector(text: str, dimensions: int) -> list[float]:
    """A unit vector made from the text's digest: equal texts are equal, others are not."""
    raw = hashlib.shake_256(text.encode()).digest(dimensions)
    values = [byte / 127.5 - 1 for byte in raw]
    length = math.sqrt(sum(value * value for value in values)) or 1.0
    return [value / length for value in values]


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def main() -> None:
    parser = argparse.ArgumentParser(description="An OpenAI-compatible provider that echoes.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--delay-ms", type=int, default=0)
    options = parser.parse_args()
    FakeProvider(
        host=options.host, port=options.port, log=options.log, delay_ms=options.delay_ms
    ).serve_forever()


if __name__ == "__main__":
    main()
