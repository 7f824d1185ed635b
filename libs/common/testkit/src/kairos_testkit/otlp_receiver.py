"""Receives OTLP over HTTP (protobuf) in the test's own process, and answers questions about traces."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan

from kairos_testkit.fake_server import FakeServer
from kairos_testkit.ports import wait_until

KINDS: Final = {1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}
_ERROR: Final = 2


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """One finished span. Identifiers are lower-case hex, times are nanoseconds since the epoch."""

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    kind: str
    service: str
    attributes: dict[str, Any]
    start_ns: int
    end_ns: int
    error: bool
    links: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class SpanNode:
    span: ReceivedSpan
    children: tuple["SpanNode", ...]

    def walk(self) -> Iterator["SpanNode"]:
        yield self
        for child in self.children:
            yield from child.walk()

    def lines(self, depth: int = 0) -> list[str]:
        own = f"{'  ' * depth}{self.span.service}: {self.span.name} [{self.span.kind}]"
        return [own, *(line for child in self.children for line in child.lines(depth + 1))]


class OtlpReceiver(FakeServer):
    """`endpoint` is what a service's OTLP_ENDPOINT should be."""

    def __init__(self, *, port: int = 0, host: str = "127.0.0.1") -> None:
        super().__init__(port=port, host=host)
        self._spans: dict[tuple[str, str], ReceivedSpan] = {}

    @property
    def endpoint(self) -> str:
        return self.base_url

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/traces", self._traces),
            web.post("/v1/metrics", self._accepted),
            web.post("/v1/logs", self._accepted),
        ]

    def spans(self, trace_id: str | None = None) -> list[ReceivedSpan]:
        """Everything received so far, or of one trace, by start time."""
        found = [span for span in list(self._spans.values()) if trace_id in (None, span.trace_id)]
        return sorted(found, key=lambda span: (span.start_ns, span.end_ns))

    def wait_for(
        self,
        condition: Callable[[list[ReceivedSpan]], bool],
        *,
        trace_id: str | None = None,
        timeout: float = 15.0,
    ) -> list[ReceivedSpan]:
        """Block until the spans (of a trace) satisfy the condition. Exporters send in batches, so poll."""
        wait_until(lambda: condition(self.spans(trace_id)), timeout=timeout, what=f"trace {trace_id}")
        return self.spans(trace_id)

    def tree(self, trace_id: str) -> list[SpanNode]:
        """The trace as trees. One root means every parent arrived; more roots are broken edges."""
        spans = self.spans(trace_id)
        known = {span.span_id for span in spans}
        children: dict[str | None, list[ReceivedSpan]] = {}
        for span in spans:
            children.setdefault(span.parent_id if span.parent_id in known else None, []).append(span)

        def grow(span: ReceivedSpan) -> SpanNode:
            return SpanNode(span, tuple(grow(child) for child in children.get(span.span_id, ())))

        return [grow(root) for root in children.get(None, ())]

    def clear(self) -> None:
        self._spans.clear()

    async def _traces(self, request: web.Request) -> web.Response:
        message = ExportTraceServiceRequest.FromString(await request.read())
        for resource in message.resource_spans:
            attributes = {each.key: _value(each.value) for each in resource.resource.attributes}
            for scope in resource.scope_spans:
                for proto in scope.spans:
                    span = _span(proto, str(attributes.get("service.name", "unknown")))
                    self._spans[span.trace_id, span.span_id] = span
        content = ExportTraceServiceResponse().SerializeToString()
        return web.Response(body=content, content_type="application/x-protobuf")

    async def _accepted(self, request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=b"", content_type="application/x-protobuf")


def _span(proto: ProtoSpan, service: str) -> ReceivedSpan:
    return ReceivedSpan(
        trace_id=proto.trace_id.hex(),
        span_id=proto.span_id.hex(),
        parent_id=proto.parent_span_id.hex() or None,
        name=proto.name,
        kind=KINDS.get(proto.kind, "unspecified"),
        service=service,
        attributes={each.key: _value(each.value) for each in proto.attributes},
        start_ns=proto.start_time_unix_nano,
        end_ns=proto.end_time_unix_nano or time.time_ns(),
        error=proto.status.code == _ERROR,
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in proto.links),
    )


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    if kind == "kvlist_value":
        return {each.key: _value(each.value) for each in value.kvlist_value.values}
    return getattr(value, kind)
