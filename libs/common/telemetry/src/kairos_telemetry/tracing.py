"""Spans: W3C trace context in and out, and the one provider that `configure` installs.

The provider is ours and not OpenTelemetry's global one, because the global one can be set once per
process and a test needs a fresh exporter each time.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Link, NoOpTracerProvider, Span, SpanKind, Status, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from kairos_telemetry.redaction import redact

INSTRUMENTATION = "kairos"
_PROPAGATOR = TraceContextTextMapPropagator()
# Set for the rest of a task that has neither a span nor a trace to carry; see `go_quiet`.
_quiet: ContextVar[bool] = ContextVar("kairos_quiet", default=False)


@dataclass
class _Active:
    provider: TracerProvider | NoOpTracerProvider
    tracer: Tracer
    exports: bool = False


def _nothing() -> _Active:
    provider = NoOpTracerProvider()
    return _Active(provider, provider.get_tracer(INSTRUMENTATION))


_active = _nothing()


def install(provider: TracerProvider | None, *, exports: bool = True) -> None:
    """Make this provider the one that `tracer()` and `span()` use; None goes back to no tracing.

    `exports` tells whether anybody ever sees the spans; see `worth_a_span`.
    """
    fresh = _nothing() if provider is None else _Active(provider, provider.get_tracer(INSTRUMENTATION))
    _active.provider, _active.tracer = fresh.provider, fresh.tracer
    _active.exports = exports and provider is not None


def installed(provider: TracerProvider) -> bool:
    return _active.provider is provider


def tracer() -> Tracer:
    """The tracer of the running configuration; before `configure` it records nothing."""
    return _active.tracer


def current_traceparent() -> str | None:
    """The W3C `traceparent` of the current span, or None outside of any span."""
    if _quiet.get():
        return None
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def current_trace_id() -> str | None:
    """The trace id in hex, for logs, audit entries and problem responses."""
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else None


def context_of(traceparent: str | None) -> Context:
    """The context a `traceparent` names. A malformed one gives an empty context: a new trace starts."""
    return _PROPAGATOR.extract({"traceparent": traceparent} if traceparent else {}, context=Context())


def worth_a_span(traceparent: str | None, ratio: float = 1.0) -> bool:
    """Whether a hot request should have spans: they cost more processor time than all else it needs.

    Not when nobody sees them. A caller's own decision (the sampled flag of its `traceparent`) is kept;
    of requests without one, `ratio` of them have spans.
    """
    if not _active.exports:
        return False
    if traceparent is not None:
        return not traceparent.endswith("-00")
    return ratio >= 1.0 or random.random() < ratio


def go_quiet() -> None:
    """Say that the current task has no trace, so that asking for one costs it nothing more."""
    _quiet.set(True)


def is_quiet() -> bool:
    return _quiet.get()


def carried(traceparent: str | None) -> AbstractContextManager[object]:
    """Without a span of our own, the caller's trace goes on to whoever is called in this block."""
    if traceparent is None:
        return nullcontext()
    return trace.use_span(trace.get_current_span(context_of(traceparent)), end_on_exit=False)


def link_to(traceparent: str | None) -> Link | None:
    """A link to the span that a `traceparent` names, or None when it names none."""
    context = trace.get_current_span(context_of(traceparent)).get_span_context()
    return Link(context) if context.is_valid else None


@contextmanager
def span(
    name: str,
    *,
    parent: str | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Mapping[str, Any] | None = None,
    links: Sequence[Link] = (),
) -> Iterator[Span]:
    """Run a block inside a span that becomes the current one.

    `parent` is a `traceparent` from outside (a message, a request); without it the current span is
    the parent. An exception is recorded, masked on export, and raised on.
    """
    if _quiet.get():
        _quiet.set(False)  # What follows in this task has a trace of its own now.
    with tracer().start_as_current_span(
        name,
        context=context_of(parent) if parent else None,
        kind=kind,
        attributes=dict(attributes) if attributes else None,
        links=links,
    ) as current:
        yield current


class RedactingExporter(SpanExporter):
    """Masks secrets in what leaves the process: attributes, events (exceptions too) and status texts.

    It works at export, in the exporter's thread, so that requests do not pay for it.
    """

    def __init__(self, target: SpanExporter) -> None:
        self._target = target

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._target.export([_masked(item) for item in spans])

    def shutdown(self) -> None:
        self._target.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._target.force_flush(timeout_millis)


def _masked(original: ReadableSpan) -> ReadableSpan:
    return ReadableSpan(
        name=redact(original.name),
        context=original.get_span_context(),
        parent=original.parent,
        resource=original.resource,
        attributes=redact(original.attributes or {}),
        events=[Event(redact(e.name), redact(e.attributes or {}), e.timestamp) for e in original.events],
        links=[Link(link.context, redact(link.attributes or {})) for link in original.links],
        kind=original.kind,
        status=Status(original.status.status_code, redact(original.status.description)),
        start_time=original.start_time,
        end_time=original.end_time,
        instrumentation_scope=original.instrumentation_scope,
    )
