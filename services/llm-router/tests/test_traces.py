"""One trace from the caller through the attempt to the provider and to the usage event."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from kairos_contracts.llm.v1 import ChatMessage, CompletionRequestV1
from kairos_telemetry import configure

pytestmark = pytest.mark.servers

OF_A_REQUEST = {"llm.usage.recorded.v1", "llm.completion.completed.v1"}
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    telemetry = configure("llm-router", otlp_endpoint=None, log_level="ERROR", exporter=exporter)
    yield exporter
    telemetry.shutdown()


def found(spans: InMemorySpanExporter, name: str) -> Any:
    return next((span for span in spans.get_finished_spans() if span.name == name), None)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_requests_trace_reaches_the_provider_and_the_usage_event(
    service_of: Any, kit: SimpleNamespace, spans: InMemorySpanExporter, stream: bool
) -> None:
    async with service_of(limit=10**9) as service:
        service.keys.add("key")
        body = {"model": "default", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
        headers = {"Authorization": "Bearer key", "traceparent": PARENT}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(f"{service.v1}/chat/completions", json=body) as response,
        ):
            await response.read()
        await service.events.expect("llm.usage.recorded.v1")
        attempt = await kit.until(lambda: found(spans, "chat model-of-first"))
        server = await kit.until(lambda: found(spans, "POST /v1/chat/completions"))
        assert f"{server.context.trace_id:032x}" == TRACE
        assert f"{server.parent.span_id:016x}" == "b7ad6b7169203331"
        assert attempt.parent.span_id == server.context.span_id
        assert service.first.records[0].traceparent.split("-")[2] == f"{attempt.context.span_id:016x}"
        assert attempt.attributes["gen_ai.operation.name"] == "chat"
        assert attempt.attributes["gen_ai.usage.input_tokens"] == service.first.records[0].input_tokens
        assert attempt.attributes["kairos.cost_nano_usd"] > 0
        (published,) = [headers for name, _, headers in service.events.seen if name in OF_A_REQUEST]
        assert published["traceparent"].split("-")[1] == TRACE


async def test_a_commands_trace_goes_on_in_the_answer(
    service_of: Any, kit: SimpleNamespace, spans: InMemorySpanExporter
) -> None:
    async with service_of(limit=10**9) as service:
        request = CompletionRequestV1(
            completion_id=uuid4(),
            turn_id=uuid4(),
            conversation_id=uuid4(),
            bot_id=uuid4(),
            epoch=1,
            model="default",
            messages=(ChatMessage(role="user", content="hi"),),
            max_tokens=10,
            deadline=datetime.now(UTC) + timedelta(seconds=30),
        )
        await service.router.bus.publish(request, organisation_id=kit.organisation, traceparent=PARENT)
        await service.events.expect("llm.completion.completed.v1")
        told = [headers for name, _, headers in service.events.seen if name in OF_A_REQUEST]
        assert {headers["traceparent"].split("-")[1] for headers in told} == {TRACE}
        completion = await kit.until(lambda: found(spans, "completion"))
        attempt = found(spans, "chat model-of-first")
        assert attempt.parent.span_id == completion.context.span_id
        assert completion.attributes["kairos.outcome"] == "completed"
