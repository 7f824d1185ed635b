"""Spans of attempts, in the GenAI semantic conventions (v1.41). No other module knows their names."""

from collections.abc import Coroutine, Mapping
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode

from kairos_router.application.ports import (
    Provider,
    ProviderCall,
    ProviderFailed,
    ProviderReply,
    ProviderStream,
)
from kairos_router.domain.pricing import Usage, cost
from kairos_telemetry import is_quiet, tracer


def _start(call: ProviderCall) -> Span:
    deployment = call.deployment
    # The conventions have no word for a response; it is a chat.
    operation = "embeddings" if call.operation == "embeddings" else "chat"
    return tracer().start_span(
        f"{operation} {deployment.model}",
        kind=SpanKind.CLIENT,
        attributes={
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": deployment.provider,
            "gen_ai.request.model": deployment.model,
            "gen_ai.request.max_tokens": call.max_tokens,
            "kairos.deployment": deployment.name,
            "kairos.attempt_id": str(call.attempt_id),
        },
    )


def _end(span: Span, call: ProviderCall, usage: Usage | None) -> None:
    if usage is not None:
        span.set_attribute("gen_ai.usage.input_tokens", usage.input_tokens)
        span.set_attribute("gen_ai.usage.output_tokens", usage.output_tokens)
        span.set_attribute("kairos.cost_nano_usd", cost(call.deployment.price, usage))
    span.end()


def _fail(span: Span, error: BaseException) -> None:
    kind = error.fault.value if isinstance(error, ProviderFailed) else type(error).__name__
    span.set_attribute("error.type", kind)
    if isinstance(error, ProviderFailed) and error.status:
        span.set_attribute("http.response.status_code", error.status)
    span.set_status(StatusCode.ERROR, kind)


def _describe(span: Span, document: Mapping[str, object]) -> None:
    for attribute, member in (("gen_ai.response.model", "model"), ("gen_ai.response.id", "id")):
        value = document.get(member)
        if isinstance(value, str):
            span.set_attribute(attribute, value)


class Traced:
    """A provider whose every call of a traced request is a span, and the parent of what it sends."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    def complete(self, call: ProviderCall) -> Coroutine[Any, Any, ProviderReply]:
        if is_quiet() or not trace.get_current_span().is_recording():
            return self._provider.complete(call)
        return self._complete(call)

    def open_stream(self, call: ProviderCall) -> Coroutine[Any, Any, ProviderStream]:
        if is_quiet() or not trace.get_current_span().is_recording():
            return self._provider.open_stream(call)
        return self._open_stream(call)

    async def _complete(self, call: ProviderCall) -> ProviderReply:
        span = _start(call)
        usage: Usage | None = None
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                reply = await self._provider.complete(call)
            usage = reply.usage
            _describe(span, reply.document)
        except BaseException as error:
            _fail(span, error)
            raise
        finally:
            _end(span, call, usage)
        return reply

    async def _open_stream(self, call: ProviderCall) -> ProviderStream:
        span = _start(call)
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                stream = await self._provider.open_stream(call)
        except BaseException as error:
            _fail(span, error)
            span.end()
            raise
        return _TracedStream(stream, span, call)

    async def close(self) -> None:
        await self._provider.close()


class _TracedStream:
    """Ends the attempt's span when the stream is over or broken off."""

    def __init__(self, stream: ProviderStream, span: Span, call: ProviderCall) -> None:
        self._stream = stream
        self._span = span
        self._call = call

    @property
    def usage(self) -> Usage | None:
        return self._stream.usage

    @property
    def finished(self) -> bool:
        return self._stream.finished

    async def next(self) -> bytes:
        try:
            return await self._stream.next()
        except BaseException as error:
            _fail(self._span, error)
            raise

    def content_bytes(self) -> int:
        return self._stream.content_bytes()

    def close(self) -> None:
        self._stream.close()
        if self._span.is_recording():
            _end(self._span, self._call, self._stream.usage)
