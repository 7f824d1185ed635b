"""What surrounds every request: id, span, timing, body limit, the last catch."""

import re
from time import perf_counter
from typing import Any
from uuid import uuid4

from opentelemetry.trace import Span, SpanKind, StatusCode
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kairos_telemetry import get_logger, metrics, span
from kairos_web.problems import Problem, internal_error, problem_response

_log = get_logger(__name__)
_SANE_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
_UNTRACED = ("/health", "/metrics")
_UNMATCHED = "(none)"
_SERVER_ERROR = 500
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def request_id_of(headers: Headers) -> str:
    """The caller's request id when it is sane, else a new one."""
    offered = headers.get("x-request-id", "")
    return offered if _SANE_ID.fullmatch(offered) else uuid4().hex


def route_template(scope: Scope) -> str:
    """`/bots/{bot_id}`, never the address itself: a label with ids in it grows without bound."""
    effective = scope.get("fastapi", {}).get("effective_route_context")
    route = effective if effective is not None else scope.get("route")
    return getattr(route, "path_format", None) or _UNMATCHED


def _method(scope: Scope) -> str:
    # A caller can invent methods; a label may not grow with them.
    method: str = scope["method"]
    return method if method in _METHODS else "OTHER"


class _BodyLimit:
    """Counts received bytes and refuses at the limit, with or without a Content-Length."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._seen = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._seen += len(message.get("body", b""))
            if self._seen > self._limit:
                raise HTTPException(413)
        return message


class _Answer:
    """Adds the headers every answer carries and remembers the status."""

    def __init__(self, send: Send, scope: Scope) -> None:
        self._send = send
        self._scope = scope
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            state: dict[str, Any] = self._scope["state"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = state["request_id"]
            headers.setdefault("x-content-type-options", "nosniff")
            headers.setdefault("cache-control", "no-store")
            for name, value in state.get("rate_limit_headers", {}).items():
                headers[name] = value
        await self._send(message)


class RequestScope:
    """The outermost layer of our own; it answers 500 itself, so nothing above it sees an exception."""

    def __init__(self, app: ASGIApp, service: str, max_body: int) -> None:
        self._app = app
        self._service = service
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        scope.setdefault("state", {})["request_id"] = request_id_of(headers)
        if scope["type"] == "websocket":
            # A span over a connection of hours helps nobody; messages get their own.
            await self._app(scope, receive, send)
        elif scope["path"].startswith(_UNTRACED):
            await self._measured(scope, receive, send, headers)
        else:
            method = _method(scope)
            attributes = {"http.request.method": method, "kairos.request_id": scope["state"]["request_id"]}
            with span(
                method, parent=headers.get("traceparent"), kind=SpanKind.SERVER, attributes=attributes
            ) as current:
                status = await self._measured(scope, receive, send, headers)
                _describe(current, scope, status)

    async def _measured(self, scope: Scope, receive: Receive, send: Send, headers: Headers) -> int:
        started = perf_counter()
        answer = _Answer(send, scope)
        try:
            await self._answered(scope, receive, answer, headers)
        finally:
            metrics.histogram("api_response_time_seconds").labels(
                service=self._service,
                route=route_template(scope),
                method=_method(scope),
                status=str(answer.status or _SERVER_ERROR),
            ).observe(perf_counter() - started)
        return answer.status

    async def _answered(self, scope: Scope, receive: Receive, answer: _Answer, headers: Headers) -> None:
        announced = headers.get("content-length", "0")
        if announced.isdigit() and int(announced) > self._max_body:
            # The connection stays open, so that the server discards the body: closing it under the body
            # would reset it, and a proxy in between would answer 502 instead of this.
            problem = Problem(413, "body_too_large", "The body is larger than this address accepts")
            refusal = problem_response(problem, request_id=scope["state"]["request_id"])
            await refusal(scope, receive, answer)
            return
        try:
            await self._app(scope, _BodyLimit(receive, self._max_body), answer)
        except Exception:
            _log.exception("request_failed", route=route_template(scope), method=scope["method"])
            if answer.status:
                # The answer has begun: breaking the connection is the only honest end left.
                raise
            await internal_error(Request(scope))(scope, receive, answer)


def _describe(current: Span, scope: Scope, status: int) -> None:
    template = route_template(scope)
    current.update_name(f"{_method(scope)} {template}")
    current.set_attribute("http.route", template)
    current.set_attribute("http.response.status_code", status)
    if status >= _SERVER_ERROR:
        current.set_status(StatusCode.ERROR)
