from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from kairos_testkit.otlp_receiver import OtlpReceiver


def test_a_trace_is_received_as_a_tree(otlp_receiver: OtlpReceiver) -> None:
    provider = TracerProvider(resource=Resource.create({"service.name": "one"}))
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{otlp_receiver.endpoint}/v1/traces")))
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("outer", kind=trace.SpanKind.SERVER) as outer:
        tracer.start_span("inner", attributes={"count": 3, "names": ["a", "b"]}).end()
    provider.shutdown()

    trace_id = format(outer.get_span_context().trace_id, "032x")
    spans = otlp_receiver.wait_for(lambda found: len(found) == 2, trace_id=trace_id)
    (root,) = otlp_receiver.tree(trace_id)
    assert root.lines() == ["one: outer [server]", "  one: inner [internal]"]
    assert [node.span.name for node in root.walk()] == ["outer", "inner"]
    assert spans[1].attributes == {"count": 3, "names": ["a", "b"]}
    assert spans[1].parent_id == spans[0].span_id
    otlp_receiver.clear()
    assert otlp_receiver.spans() == []
