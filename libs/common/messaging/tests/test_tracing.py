"""One trace from whoever published to whoever handled, through the broker and through the outbox."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias
from uuid import UUID

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from kairos_messaging import Bus, Delivery, OutboxRelay
from kairos_persistence import Database
from kairos_telemetry import current_traceparent, span

pytestmark = pytest.mark.servers

MakeBus: TypeAlias = Callable[..., Bus]
Send: TypeAlias = Callable[..., Awaitable[UUID]]
Emit: TypeAlias = Callable[..., Awaitable[UUID]]
Eventually: TypeAlias = Callable[..., Awaitable[Any]]
OpenDatabase: TypeAlias = Callable[[], Database]


def one(spans: InMemorySpanExporter, name: str) -> ReadableSpan:
    (found,) = [each for each in spans.get_finished_spans() if each.name.startswith(name)]
    return found


def assert_child(child: ReadableSpan, parent: ReadableSpan) -> None:
    assert child.parent is not None
    assert child.context is not None
    assert parent.context is not None
    assert child.parent.span_id == parent.context.span_id
    assert child.context.trace_id == parent.context.trace_id


async def inner(delivery: Delivery[Any]) -> None:
    with span("inside the handler"):
        assert current_traceparent()


async def test_publish_and_consume_are_one_trace(
    make_bus: MakeBus, send: Send, eventually: Eventually, queue: str, spans: InMemorySpanExporter
) -> None:
    bus = make_bus()
    bus.consume(queue, inner)
    await bus.start()
    with span("request"):
        message_id = await send(bus, "x")
    await eventually(lambda: [s for s in spans.get_finished_spans() if s.name.startswith("process")])
    request, publish = one(spans, "request"), one(spans, "publish")
    process, inside = one(spans, "process"), one(spans, "inside")
    assert_child(publish, request)
    assert_child(process, publish)
    assert_child(inside, process)
    assert (publish.kind, process.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert process.attributes is not None
    assert process.attributes["messaging.message.id"] == str(message_id)


async def test_the_outbox_keeps_the_trace_of_the_transaction(
    make_bus: MakeBus,
    open_database: OpenDatabase,
    emit: Emit,
    eventually: Eventually,
    queue: str,
    spans: InMemorySpanExporter,
) -> None:
    bus, database = make_bus(), open_database()
    bus.consume(queue, inner)
    await bus.start()
    with span("request"):
        await emit(database, "x")
    # Later and elsewhere: the relay has a span of its own, which must not become the parent.
    with span("unrelated"):
        await OutboxRelay(database, bus).relay_once()
    await eventually(lambda: [s for s in spans.get_finished_spans() if s.name.startswith("process")])
    request, publish, process = one(spans, "request"), one(spans, "publish"), one(spans, "process")
    assert_child(publish, request)
    assert_child(process, publish)
    assert_child(one(spans, "inside"), process)


async def test_a_failed_attempt_is_an_error_in_the_same_trace(
    make_bus: MakeBus, send: Send, eventually: Eventually, queue: str, spans: InMemorySpanExporter
) -> None:
    bus = make_bus()
    done: list[int] = []

    async def flaky(delivery: Delivery[Any]) -> None:
        if delivery.attempt == 1:
            raise RuntimeError("not yet")
        done.append(delivery.attempt)

    bus.consume(queue, flaky)
    await bus.start()
    await send(bus, "x")
    await eventually(lambda: done and len(spans.get_finished_spans()) >= 3)
    publish = one(spans, "publish")
    first, second = [s for s in spans.get_finished_spans() if s.name.startswith("process")]
    for attempt in (first, second):
        assert_child(attempt, publish)
    assert first.status.status_code is StatusCode.ERROR
    assert second.status.status_code is not StatusCode.ERROR
