import asyncio
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from kairos_telemetry import (
    Telemetry,
    carried,
    configure,
    current_trace_id,
    current_traceparent,
    go_quiet,
    is_quiet,
    link_to,
    metrics,
    span,
    tracer,
    worth_a_span,
)
from kairos_testkit.otlp_receiver import OtlpReceiver
from kairos_testkit.ports import free_port

REMOTE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Sink:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.telemetry: Telemetry = configure("bot-worker", otlp_endpoint=None, exporter=self.exporter)


@pytest.fixture
def sink() -> Iterator[Sink]:
    made = Sink()
    yield made
    made.telemetry.shutdown()


def test_a_span_continues_the_trace_of_a_remote_parent(sink: Sink) -> None:
    with span("consume", parent=REMOTE, kind=SpanKind.CONSUMER, attributes={"messaging.system": "rabbitmq"}):
        inside, trace_id = current_traceparent(), current_trace_id()
        with span("work"):
            pass

    work, consume = sink.exporter.get_finished_spans()
    assert consume.parent is not None
    assert work.parent is not None
    assert f"{consume.parent.span_id:016x}" == "b7ad6b7169203331"
    assert trace_id == f"{work.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert work.parent.span_id == consume.context.span_id
    assert inside == f"00-{trace_id}-{consume.context.span_id:016x}-01"
    assert (consume.kind, consume.attributes) == (SpanKind.CONSUMER, {"messaging.system": "rabbitmq"})


@pytest.mark.parametrize("parent", ["nonsense", "00-0-0-00", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_a_malformed_parent_starts_a_new_trace(sink: Sink, parent: str) -> None:
    with span("outer"), span("consume", parent=parent):
        pass
    consume, _ = sink.exporter.get_finished_spans()
    assert consume.parent is None


def test_outside_of_a_span_there_is_no_traceparent(sink: Sink) -> None:
    assert current_traceparent() is None
    assert current_trace_id() is None
    assert metrics.exemplar() is None


def test_a_link_points_to_the_span_a_traceparent_names(sink: Sink) -> None:
    link = link_to(REMOTE)
    assert link is not None
    with span("push", links=[link]):
        pass
    (push,) = sink.exporter.get_finished_spans()
    assert [f"{one.context.span_id:016x}" for one in push.links] == ["b7ad6b7169203331"]
    assert link_to(None) is None
    assert link_to("nonsense") is None


def test_secrets_are_masked_in_attributes_events_exceptions_and_status(sink: Sink) -> None:
    canary = "c4n4rYc4n4rYc4n4rY"

    def work() -> None:
        with span(
            "call", attributes={"db.url": f"postgresql://u:{canary}@h/d", "password": canary}
        ) as current:
            current.add_event("sent", {"header": f"Bearer {canary}", "tokens": ["kairos_live_" + canary]})
            raise ValueError(f"password={canary}")

    with pytest.raises(ValueError, match="password="):
        work()

    (call,) = sink.exporter.get_finished_spans()
    assert canary not in call.to_json()
    assert call.status.status_code is StatusCode.ERROR
    assert [event.name for event in call.events] == ["sent", "exception"]
    assert dict(call.resource.attributes)["service.name"] == "bot-worker"


def test_configuring_again_replaces_the_exporter() -> None:
    first, second = Sink(), Sink()
    with span("now"):
        pass
    first.telemetry.shutdown()  # the older one ends without touching the newer
    with span("later"):
        pass
    second.telemetry.shutdown()
    with span("after the end"):
        assert current_traceparent() is None

    assert [one.name for one in first.exporter.get_finished_spans()] == []
    assert [one.name for one in second.exporter.get_finished_spans()] == ["now", "later"]


def test_before_any_configuration_a_parent_still_passes_through() -> None:
    with span("unconfigured", parent=REMOTE):
        assert current_traceparent() == REMOTE
    assert tracer() is tracer()


def test_spans_reach_an_otlp_receiver_masked() -> None:
    with OtlpReceiver() as receiver:
        telemetry = configure("llm-router", otlp_endpoint=receiver.endpoint, schedule_delay_ms=20)
        with span("route", attributes={"token": "c4n4rY", "route": "default"}):
            trace_id = current_trace_id()
        (received,) = receiver.wait_for(bool, trace_id=trace_id)
        telemetry.shutdown()
    assert (received.service, received.name) == ("llm-router", "route")
    assert received.attributes == {"token": "[redacted]", "route": "default"}


def test_the_last_spans_leave_at_the_end() -> None:
    with OtlpReceiver() as receiver:
        telemetry = configure(
            "llm-router", otlp_endpoint=f"{receiver.endpoint}/v1/traces", schedule_delay_ms=60_000
        )
        with span("last"):
            pass
        telemetry.shutdown()
        assert [one.name for one in receiver.spans()] == ["last"]


@pytest.mark.timeout(30)
def test_a_collector_that_is_away_delays_the_end_a_little_and_breaks_nothing() -> None:
    telemetry = configure("llm-router", otlp_endpoint=f"http://127.0.0.1:{free_port()}", schedule_delay_ms=20)
    with span("lost"):
        pass
    telemetry.shutdown()


SAMPLED = REMOTE
UNSAMPLED = SAMPLED[:-2] + "00"


def test_a_hot_request_has_no_spans_when_nobody_receives_them() -> None:
    telemetry = configure("llm-router", otlp_endpoint=None, log_level="ERROR")
    assert not worth_a_span(None)
    assert not worth_a_span(SAMPLED)
    telemetry.shutdown()


def test_a_hot_request_keeps_its_callers_decision_and_else_follows_the_ratio() -> None:
    exporter = InMemorySpanExporter()
    telemetry = configure("llm-router", otlp_endpoint=None, log_level="ERROR", exporter=exporter)
    assert worth_a_span(SAMPLED, ratio=0.0)
    assert not worth_a_span(UNSAMPLED, ratio=1.0)
    assert worth_a_span(None, ratio=1.0)
    assert not worth_a_span(None, ratio=0.0)
    drawn = sum(worth_a_span(None, ratio=0.25) for _ in range(4_000))
    assert 700 < drawn < 1_300
    telemetry.shutdown()
    assert not worth_a_span(SAMPLED)


def test_without_a_span_of_our_own_the_callers_trace_goes_on() -> None:
    with carried(SAMPLED):
        assert current_traceparent() == SAMPLED
    with carried(None), carried("garbage"):
        assert current_traceparent() is None
    assert current_traceparent() is None


async def test_a_quiet_task_asks_for_no_trace_until_it_has_a_span() -> None:
    async def quiet() -> tuple[str | None, str | None]:
        go_quiet()
        before = current_traceparent()
        with span("work"):
            return before, current_traceparent()

    telemetry = configure("llm-router", otlp_endpoint=None, log_level="ERROR")
    with span("outside"):
        before, inside = await asyncio.create_task(quiet())
        assert before is None
        assert inside is not None
        assert current_traceparent() is not None
    assert not is_quiet()
    telemetry.shutdown()
