"""/v1 for OpenAI clients, as bare ASGI: on a hot request nothing is awaited but the provider.

FastAPI's routing, validation and dependency injection cost more CPU than all else a completion needs,
so they serve the management API only (docs/decisions/0006-bare-asgi-hot-path.md).
"""

import asyncio
import re
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any
from uuid import UUID, uuid4

import orjson
from opentelemetry.trace import Span, SpanKind, StatusCode
from starlette.types import Receive, Scope, Send

from kairos_contracts.permissions import Actor, Permission
from kairos_router.application.complete_chat import Answer
from kairos_router.application.ports import ProviderFailed
from kairos_router.application.stream_chat import Streaming
from kairos_router.domain.ask import parse_ask
from kairos_router.domain.attempt import Attempt
from kairos_router.entrypoints import openai_errors as errors
from kairos_router.entrypoints.completions import Completions
from kairos_router.entrypoints.credentials import Gate, Rejected
from kairos_router.entrypoints.openai_errors import ErrorAnswer, Header, error_answer
from kairos_telemetry import get_logger, metrics, span

_log = get_logger(__name__)

PREFIX = "/v1"
COMPLETIONS = f"{PREFIX}/chat/completions"
MODELS = f"{PREFIX}/models"
_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")
_JSON = (b"content-type", b"application/json")
_EVENTS: list[Header] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
# A request that was broken off by its caller; nobody sees this status but logs and metrics.
CLIENT_GONE = 499
OK = 200
SERVER_ERROR = 500


@dataclass(slots=True)
class Exchange:
    """One request and what has become of it so far."""

    scope: Scope
    receive: Receive
    send: Send
    started: float
    completion_id: UUID = field(default_factory=uuid4)
    request_id: bytes = b""
    credential: str | None = None
    traceparent: str | None = None
    length: int = 0
    route: str = "(none)"
    outcome: str = "ok"
    status: int = 0
    provider_seconds: float | None = None

    def read_headers(self) -> None:
        for name, value in self.scope["headers"]:
            if name == b"authorization":
                scheme, _, credential = value.partition(b" ")
                if scheme.lower() == b"bearer":
                    self.credential = credential.strip().decode("latin-1") or None
            elif name == b"content-length":
                self.length = int(value) if value.isdigit() else 0
            elif name == b"traceparent":
                self.traceparent = value.decode("latin-1")
            elif name == b"x-request-id" and _SANE_ID.fullmatch(value):
                self.request_id = value
        self.request_id = self.request_id or self.completion_id.hex.encode()

    def headers(self, more: list[Header]) -> list[Header]:
        return [
            *more,
            (b"x-request-id", self.request_id),
            (b"x-kairos-completion-id", str(self.completion_id).encode()),
        ]

    async def answer(self, status: int, body: bytes, more: list[Header]) -> None:
        self.status = status
        headers = self.headers([_JSON, (b"content-length", str(len(body)).encode()), *more])
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


class _Disconnect:
    """Cancels the request's task when its caller goes away, until it is disarmed."""

    __slots__ = ("_armed", "_receive", "_task", "_watcher", "gone")

    def __init__(self, receive: Receive) -> None:
        self.gone = False
        self._armed = True
        self._receive = receive
        self._task = asyncio.current_task()
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue
        if self._armed and self._task is not None:
            self.gone = True
            self._task.cancel()

    def disarm(self) -> None:
        # Before the last byte goes out: after it, "disconnect" only means that the exchange is over.
        self._armed = False
        self._watcher.cancel()


class TooLarge(Exception):  # noqa: N818 - reads as the fact it states
    """The body is larger than allowed; the request is refused and nothing of it kept."""


class ClientGone(Exception):  # noqa: N818 - reads as the fact it states
    """The caller went away before the request was complete; there is nobody to answer."""


class OpenAIApi:
    """Handles every path below /v1. Errors are always OpenAI's envelope, ours and foreseen or not."""

    def __init__(self, gate: Gate, completions: Completions, *, service: str, max_body: int) -> None:
        self._gate = gate
        self._completions = completions
        self._service = service
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, perf_counter())
        exchange.read_headers()
        path = scope["path"]
        template = (
            path if path in {COMPLETIONS, MODELS} else f"{MODELS}/{{model}}" if _is_model(path) else "(none)"
        )
        attributes = {
            "http.request.method": scope["method"],
            "http.route": template,
            "kairos.request_id": exchange.request_id.decode(),
            "kairos.completion_id": str(exchange.completion_id),
        }
        with span(
            f"{scope['method']} {template}",
            parent=exchange.traceparent,
            kind=SpanKind.SERVER,
            attributes=attributes,
        ) as current:
            try:
                await self._routed(exchange, path)
            finally:
                self._observe(exchange, template, current)

    async def _routed(self, exchange: Exchange, path: str) -> None:
        method = exchange.scope["method"]
        try:
            if path == COMPLETIONS:
                await self._completion(exchange) if method == "POST" else await _refuse(
                    exchange, error_answer(errors.WRONG_METHOD)
                )
            elif path == MODELS or _is_model(path):
                await self._models(exchange, path) if method == "GET" else await _refuse(
                    exchange, error_answer(errors.WRONG_METHOD)
                )
            else:
                await _refuse(exchange, error_answer(errors.NOT_FOUND))
        except ClientGone:
            exchange.outcome, exchange.status = "client_gone", CLIENT_GONE
        except Exception:
            _log.exception("v1_request_failed", path=path)
            exchange.outcome = "internal_error"
            if exchange.status:
                raise  # The answer has begun: breaking the connection is the only honest end left.
            await _refuse(exchange, error_answer(errors.INTERNAL))

    async def _completion(self, exchange: Exchange) -> None:
        admitted = await self._admit(exchange, Permission.COMPLETIONS_CREATE)
        if admitted is None:
            return
        try:
            body = await _read_body(exchange, self._max_body)
            payload = orjson.loads(body)
        except TooLarge:
            # The connection stays open: closed under the body, a proxy in between would answer 502 instead.
            await _refuse(exchange, error_answer(errors.TOO_LARGE))
            return
        except orjson.JSONDecodeError:
            await _refuse(exchange, error_answer(errors.INVALID_JSON))
            return
        disconnect = _Disconnect(exchange.receive)
        try:
            await self._answer(exchange, admitted, payload, len(body), disconnect)
        except asyncio.CancelledError:
            if not disconnect.gone:
                raise
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            exchange.outcome, exchange.status = "client_gone", CLIENT_GONE
        finally:
            disconnect.disarm()

    async def _answer(
        self, exchange: Exchange, actor: Actor, payload: Any, size: int, disconnect: _Disconnect
    ) -> None:
        caller = self._gate.caller(actor)
        try:
            ask = parse_ask(payload, size)
            exchange.route = self._completions.label(ask.model)
            if ask.stream:
                streaming = await self._completions.open(ask, caller, exchange.completion_id)
                await self._stream(exchange, streaming, disconnect)
                return
            answer = await self._completions.complete(ask, caller, exchange.completion_id)
        except Exception as error:
            refusal = self._completions.refusal(error, caller, exchange.completion_id, payload)
            if refusal is None or exchange.status:
                raise
            disconnect.disarm()
            await _refuse(exchange, refusal)
            return
        disconnect.disarm()
        await _reply(exchange, answer)

    async def _stream(self, exchange: Exchange, streaming: Streaming, disconnect: _Disconnect) -> None:
        exchange.provider_seconds = streaming.time_to_first_token
        try:
            exchange.status = OK
            headers = exchange.headers([*_EVENTS, *_deployment_headers(streaming.attempt)])
            await exchange.send({"type": "http.response.start", "status": OK, "headers": headers})
            await self._pieces(exchange, streaming)
        finally:
            streaming.abandon()
        disconnect.disarm()
        await exchange.send({"type": "http.response.body", "body": b""})

    async def _pieces(self, exchange: Exchange, streaming: Streaming) -> None:
        told = False
        try:
            while piece := await streaming.next():
                cost = None if told else streaming.cost_so_far
                if cost is not None:
                    # A comment of the event stream: clients skip it, people and our own tools read it.
                    piece, told = piece + f": x-kairos-cost-nano-usd {cost}\n\n".encode(), True
                await exchange.send({"type": "http.response.body", "body": piece, "more_body": True})
        except ProviderFailed as failure:
            exchange.outcome = failure.fault.value
            body = errors.envelope("The provider broke off the answer", "server_error", "provider_error")
            event = b"data: " + body + b"\n\n"
            await exchange.send({"type": "http.response.body", "body": event, "more_body": True})

    async def _models(self, exchange: Exchange, path: str) -> None:
        if await self._admit(exchange, Permission.MODELS_READ) is None:
            return
        documents = self._completions.models()
        if path == MODELS:
            await exchange.answer(OK, orjson.dumps({"object": "list", "data": list(documents.values())}), [])
            return
        name = path.removeprefix(MODELS + "/")
        if name in documents:
            await exchange.answer(OK, orjson.dumps(documents[name]), [])
            return
        await _refuse(exchange, error_answer(self._completions.unknown_model(name)))

    async def _admit(self, exchange: Exchange, permission: Permission) -> Actor | None:
        """The caller, when allowed; else the refusal has been sent."""
        credential = exchange.credential
        # The first look needs no await: a key seen lately is in memory.
        actor = self._gate.known(credential, permission)
        if actor is not None:
            return actor
        client = exchange.scope.get("client")
        try:
            return await self._gate.admit(
                credential,
                permission,
                path=exchange.scope["path"],
                request_id=exchange.request_id.decode(),
                ip=client[0] if client else None,
            )
        except Rejected as rejected:
            await _refuse(exchange, error_answer(rejected.explanation))
            return None

    def _observe(self, exchange: Exchange, template: str, current: Span) -> None:
        elapsed = perf_counter() - exchange.started
        status = exchange.status or SERVER_ERROR
        current.set_attribute("http.response.status_code", status)
        if status >= SERVER_ERROR:
            current.set_status(StatusCode.ERROR, exchange.outcome)
        metrics.histogram("api_response_time_seconds").labels(
            service=self._service, route=template, method=_method(exchange.scope), status=str(status)
        ).observe(elapsed)
        if template != COMPLETIONS:
            return
        metrics.counter("kairos_router_requests_total").labels(
            route=exchange.route, outcome=exchange.outcome
        ).inc()
        if exchange.outcome == "budget_exceeded":
            metrics.counter("kairos_hold_refused_total").inc()
        if exchange.provider_seconds is not None and exchange.outcome == "ok":
            metrics.histogram("kairos_router_overhead_seconds").observe(
                max(0.0, elapsed - exchange.provider_seconds)
            )


def _is_model(path: str) -> bool:
    return path.startswith(MODELS + "/") and len(path) > len(MODELS) + 1


def _method(scope: Scope) -> str:
    # A caller can invent methods; a label may not grow with them.
    method: str = scope["method"]
    return method if method in {"GET", "POST"} else "OTHER"


async def _refuse(exchange: Exchange, answer: ErrorAnswer) -> None:
    exchange.outcome = answer.code
    await exchange.answer(answer.status, answer.body, answer.headers)


async def _read_body(exchange: Exchange, limit: int) -> bytes:
    """The whole body. Raises TooLarge, ClientGone."""
    if exchange.length > limit:
        raise TooLarge
    parts: list[bytes] = []
    size = 0
    while True:
        message = await exchange.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise TooLarge
        parts.append(part)
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _deployment_headers(attempt: Attempt) -> list[Header]:
    headers = [(b"x-kairos-deployment", attempt.deployment.name.encode())]
    if attempt.degraded:
        headers.append((b"x-kairos-degraded", attempt.degraded.encode()))
    return headers


async def _reply(exchange: Exchange, answer: Answer) -> None:
    exchange.provider_seconds = answer.provider_seconds
    cost = (b"x-kairos-cost-nano-usd", str(answer.settlement.cost).encode())
    await exchange.answer(OK, answer.reply.body, [*_deployment_headers(answer.attempt), cost])
