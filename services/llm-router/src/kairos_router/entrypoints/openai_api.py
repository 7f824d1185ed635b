"""/v1 for OpenAI clients: on a hot request nothing is awaited but the provider.

FastAPI's routing, validation and dependency injection cost more CPU than all else a completion needs,
so they serve the management API only (docs/decisions/0006 and 0012).
"""

import asyncio
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any, Protocol
from uuid import UUID

import orjson
from opentelemetry.trace import Span, SpanKind, StatusCode

from kairos_router.domain.ask import Caller
from kairos_router.entrypoints import openai_errors as errors
from kairos_router.entrypoints.admission import Admission
from kairos_router.entrypoints.credentials import Gate, Rejected
from kairos_router.entrypoints.exchange import Exchange
from kairos_router.entrypoints.hot_http import ClientGone, TooLarge, Wire
from kairos_router.entrypoints.openai_errors import ErrorAnswer, error_answer
from kairos_router.entrypoints.operations import Operation, Operations
from kairos_telemetry import carried, get_logger, go_quiet, metrics, span, worth_a_span

_log = get_logger(__name__)

PREFIX = "/v1"
# A request that was broken off by its caller; nobody sees this status but logs and metrics.
CLIENT_GONE = 499
SERVER_ERROR = 500


class Refusals(Protocol):
    """Makes the answer of an expected error; None for one nobody foresaw."""

    def __call__(
        self, error: Exception, caller: Caller, completion_id: UUID, payload: Any
    ) -> ErrorAnswer | None: ...


class OpenAIApi:
    """Handles every path below /v1. Errors are always OpenAI's envelope, ours and foreseen or not."""

    def __init__(
        self,
        gate: Gate,
        operations: Iterable[Operation],
        refusal: Refusals,
        *,
        service: str,
        max_body: int,
        admission: Admission | None = None,
        trace_ratio: float = 1.0,
    ) -> None:
        self._gate = gate
        self._operations = Operations(operations)
        self._refusal = refusal
        self._service = service
        self._max_body = max_body
        self._admission = admission
        self._trace_ratio = trace_ratio
        # Looking a child of a metric up costs more than counting, so each is looked up once.
        self._times: dict[tuple[str, str, int], Callable[[float], None]] = {}
        self._counts: dict[tuple[str, str], Callable[[], None]] = {}
        self._overhead = metrics.tally("kairos_router_overhead_seconds").observe

    async def __call__(self, wire: Wire) -> None:
        exchange = Exchange(wire, perf_counter())
        exchange.read_headers()
        if not worth_a_span(exchange.traceparent, self._trace_ratio):
            if exchange.traceparent is None:
                go_quiet()
                await self._handle(exchange)
                return
            with carried(exchange.traceparent):
                await self._handle(exchange)
            return
        with span(wire.method, parent=exchange.traceparent, kind=SpanKind.SERVER) as current:
            try:
                await self._handle(exchange)
            finally:
                _describe(current, exchange)

    async def _handle(self, exchange: Exchange) -> None:
        at = self._operations.at(exchange.path)
        operation = at.get(exchange.method)
        if at:
            exchange.template = next(iter(at.values())).template
        try:
            if operation is not None:
                await self._served(exchange, operation)
            else:
                await exchange.refuse(error_answer(errors.WRONG_METHOD if at else errors.NOT_FOUND))
        finally:
            self._observe(exchange, counted=operation is not None and bool(operation.kind))

    async def _served(self, exchange: Exchange, operation: Operation) -> None:
        """Run the operation to its end: an answer, a refusal, or a caller who has gone."""
        try:
            await self._run(exchange, operation)
        except ClientGone:
            exchange.outcome, exchange.status = "client_gone", CLIENT_GONE
        except asyncio.CancelledError:
            if not exchange.gone:
                raise
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
            exchange.outcome, exchange.status = "client_gone", CLIENT_GONE
        except Exception as error:
            refusal = self._explained(error, exchange)
            if refusal is None:
                _log.exception("v1_request_failed", path=exchange.path)
                exchange.outcome = "internal_error"
                refusal = error_answer(errors.INTERNAL)
            if exchange.status:
                raise  # The answer has begun: breaking the connection is the only honest end left.
            await exchange.refuse(refusal)
        finally:
            exchange.wire.disarm()
            if exchange.entry is not None:
                exchange.entry.leave(exchange.tokens)

    async def _run(self, exchange: Exchange, operation: Operation) -> None:
        await self._identify(exchange, operation)
        if self._admission is not None and operation.kind and exchange.caller is not None:
            entry = self._admission.known(exchange.caller, operation.kind)
            exchange.entry = entry or await self._admission.admit(exchange.caller, operation.kind)
        if operation.method == "POST":
            await exchange.read_json(self._max_body)
        await operation.handle(exchange)

    async def _identify(self, exchange: Exchange, operation: Operation) -> None:
        """Find out who calls. Raises Rejected."""
        credential = exchange.credential
        # The first look needs no await: a key seen lately is in memory.
        actor = self._gate.known(credential, operation.permission)
        if actor is None:
            actor = await self._gate.admit(
                credential,
                operation.permission,
                path=exchange.path,
                request_id=exchange.request_id.decode(),
                ip=exchange.wire.peer,
            )
        exchange.actor = actor
        exchange.caller = self._gate.caller(actor, exchange.priority, exchange.contact_id)

    def _explained(self, error: Exception, exchange: Exchange) -> ErrorAnswer | None:
        match error:
            case Rejected():
                return error_answer(error.explanation, headers=error.headers)
            case TooLarge():
                # The connection stays open: closed under the body, a proxy in between would answer 502.
                return error_answer(errors.TOO_LARGE)
            case orjson.JSONDecodeError():
                return error_answer(errors.INVALID_JSON)
        if exchange.caller is None:
            return None
        return self._refusal(error, exchange.caller, exchange.completion_id, exchange.payload)

    def _observe(self, exchange: Exchange, *, counted: bool) -> None:
        elapsed = perf_counter() - exchange.started
        labels = (exchange.template, exchange.method, exchange.status or SERVER_ERROR)
        observe = self._times.get(labels)
        if observe is None:
            observe = self._times[labels] = self._time_of(*labels)
        observe(elapsed)
        if not counted:
            return
        ended = (exchange.route, exchange.outcome)
        count = self._counts.get(ended)
        if count is None:
            count = self._counts[ended] = metrics.counter("kairos_router_requests_total").labels(*ended).inc
        count()
        if exchange.outcome == "budget_exceeded":
            metrics.counter("kairos_hold_refused_total").inc()
        if exchange.provider_seconds is not None and exchange.outcome == "ok":
            self._overhead(max(0.0, elapsed - exchange.provider_seconds))

    def _time_of(self, template: str, method: str, status: int) -> Callable[[float], None]:
        # A caller can invent methods; a label may not grow with them.
        known = method if method in {"GET", "POST"} else "OTHER"
        return metrics.tally(
            "api_response_time_seconds",
            service=self._service,
            route=template,
            method=known,
            status=str(status),
        ).observe


def _describe(current: Span, exchange: Exchange) -> None:
    status = exchange.status or SERVER_ERROR
    current.update_name(f"{exchange.method} {exchange.template}")
    current.set_attributes(
        {
            "http.request.method": exchange.method,
            "http.route": exchange.template,
            "http.response.status_code": status,
            "kairos.request_id": exchange.request_id.decode(),
            "kairos.completion_id": str(exchange.completion_id),
        }
    )
    if status >= SERVER_ERROR:
        current.set_status(StatusCode.ERROR, exchange.outcome)
