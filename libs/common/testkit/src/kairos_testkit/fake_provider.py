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
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TextIO

from aiohttp import web

from kairos_testkit.fake_answers import count_tokens, say
from kairos_testkit.fake_chat import ChatAnswer, read_chat
from kairos_testkit.fake_responses import ResponseAnswer, read_response
from kairos_testkit.fake_server import FakeServer
from kairos_testkit.faults_script import Fault, FaultScript

ATTEMPT_HEADER: Final = "x-kairos-attempt-id"
MODELS: Final = ("fake-echo", "fake-embedding")
_OK: Final = 200
KEPT_REQUESTS: Final = 100


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


@dataclass(frozen=True, slots=True)
class ProviderRequest:
    """A request as it came in, for tests of what is passed on."""

    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]


class FakeProvider(FakeServer):
    """`url` is what a deployment's base address should be; `records` are the provider's own books."""

    def __init__(
        self, *, port: int = 0, host: str = "127.0.0.1", log: Path | None = None, delay_ms: int = 0
    ) -> None:
        super().__init__(port=port, host=host)
        self.records: list[ProviderRecord] = []
        self.requests: deque[ProviderRequest] = deque(maxlen=KEPT_REQUESTS)
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
            web.post("/v1/responses", self._responses),
            web.post("/v1/embeddings", self._embeddings),
            web.post(r"/openai/deployments/{model}/{operation:chat/completions|embeddings}", self._azure),
            web.get("/v1/models", self._models),
            web.get("/_record", self._record),
            web.delete("/_record", self._forget),
            web.get("/_requests", self._received),
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
        body = await self._body(request)
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            return _error(400, "messages is required")
        asked = read_chat(body)
        fault = self.script.take(
            "chat", f"{request.headers.get(ATTEMPT_HEADER)} {body.get('model')} {asked.last}"
        )
        said = say(asked, fault.reply if fault else None)
        choices = body.get("n") or 1
        usage = _usage("prompt_tokens", asked.prompt_tokens, "completion_tokens", said.tokens * choices)
        refusal = await self._charged(request, body, asked.last, usage, fault)
        if refusal is not None:
            return refusal
        answer = ChatAnswer(
            f"chatcmpl-{len(self.records)}",
            str(body.get("model")),
            said,
            _told(usage, fault),
            choices=choices,
            logprobs=bool(body.get("logprobs")),
            legacy="functions" in body,
        )
        if body.get("stream"):
            include_usage = bool((body.get("stream_options") or {}).get("include_usage"))
            pieces = answer.stream(include_usage=include_usage)
            return await _send(request, pieces, "text/event-stream", fault)
        return await _send(request, answer.whole(), "application/json", fault)

    async def _responses(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        asked = read_response(body)
        fault = self.script.take("responses", f"{request.headers.get(ATTEMPT_HEADER)} {asked.last}")
        said = say(asked, fault.reply if fault else None)
        usage = _usage("input_tokens", asked.prompt_tokens, "output_tokens", said.tokens)
        refusal = await self._charged(request, body, asked.last, usage, fault)
        if refusal is not None:
            return refusal
        details = {
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        }
        told = _told(usage, fault)
        number = f"{len(self.records)}"
        answer = ResponseAnswer(number, body, said, None if told is None else details | told)
        if body.get("stream"):
            return await _send(request, answer.stream(), "text/event-stream", fault)
        return await _send(request, answer.whole(), "application/json", fault)

    async def _azure(self, request: web.Request) -> web.StreamResponse:
        """Azure's way: deployment in the path, version in the query, key in a header of its own."""
        if not request.query.get("api-version"):
            return _error(404, "Resource not found")
        if not request.headers.get("api-key"):
            return _error(401, "Access denied due to missing subscription key")
        operation = request.match_info["operation"]
        return await {"chat/completions": self._chat, "embeddings": self._embeddings}[operation](request)

    async def _embeddings(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        texts = _inputs(body.get("input"))
        fault = self.script.take("embeddings", f"{request.headers.get(ATTEMPT_HEADER)} {' '.join(texts)}")
        usage = _usage("prompt_tokens", sum(map(count_tokens, texts)), "completion_tokens", 0)
        refusal = await self._charged(request, body, " ".join(texts), usage, fault)
        if refusal is not None:
            return refusal
        encode = body.get("encoding_format") == "base64"
        vectors = [_vector(text, int(body.get("dimensions") or 64)) for text in texts]
        data = [
            {"object": "embedding", "index": index, "embedding": _packed(vector) if encode else vector}
            for index, vector in enumerate(vectors)
        ]
        document = {"object": "list", "model": body.get("model"), "data": data}
        told = _told(usage, fault)
        if told is not None:
            document["usage"] = {name: value for name, value in told.items() if name != "completion_tokens"}
        return await _send(request, _whole(document), "application/json", fault)

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

    async def _received(self, _: web.Request) -> web.Response:
        return web.json_response({"requests": [asdict(request) for request in self.requests]})

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

    async def _body(self, request: web.Request) -> dict[str, Any]:
        body = await _json(request)
        if "model" in request.match_info:
            body.setdefault("model", request.match_info["model"])
        self.requests.append(ProviderRequest(request.path_qs, dict(request.headers), body))
        return body

    async def _charged(
        self,
        request: web.Request,
        body: dict[str, Any],
        text: str,
        usage: dict[str, int],
        fault: Fault | None,
    ) -> web.Response | None:
        """Book the request and wait as scripted. The refusal, when one is scripted."""
        status = fault.status if fault and fault.status else _OK
        self._book(request, body, text, usage, status, fault)
        await self._wait(fault)
        if status == _OK:
            return None
        return _error(status, "scripted failure", fault.retry_after if fault else None)

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
            input_tokens=usage.get("prompt_tokens", usage.get("input_tokens", 0)),
            output_tokens=usage.get("completion_tokens", usage.get("output_tokens", 0)),
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


def _inputs(given: Any) -> list[str]:
    """The texts; of token ids each is four characters, so that it is counted as one token."""
    if isinstance(given, list) and given and isinstance(given[0], int):
        given = [given]
    items = given if isinstance(given, list) else [given or ""]
    return [
        "".join(f"{number % 10_000:04d}" for number in item) if isinstance(item, list) else str(item)
        for item in items
    ]


def _usage(given_name: str, given: int, made_name: str, made: int) -> dict[str, int]:
    return {given_name: given, made_name: made, "total_tokens": given + made}


def _told(usage: Mapping[str, Any], fault: Fault | None) -> dict[str, Any] | None:
    """The usage as it is told: a script may keep it back, or lie."""
    if fault is not None and fault.omit_usage:
        return None
    return {**usage, **(fault.wrong_usage if fault and fault.wrong_usage else {})}


async def _whole(document: Mapping[str, Any]) -> AsyncIterator[bytes]:
    yield json.dumps(document).encode()


def _name(fault: Fault | None) -> str | None:
    if fault is None:
        return None
    if fault.status:
        return f"status {fault.status}"
    for name in ("drop", "garbage", "omit_usage", "wrong_usage", "cut_after_bytes", "delay_ms", "reply"):
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
