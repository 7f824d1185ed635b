"""One call that sets up logs, traces and the build metric of a process."""

from dataclasses import dataclass, field
from typing import BinaryIO

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter

from kairos_telemetry import metrics, tracing
from kairos_telemetry.logs import configure_logs

TRACES_PATH = "/v1/traces"
EXPORT_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Telemetry:
    """The running configuration; shut it down last, so that the last spans leave."""

    service: str
    provider: TracerProvider = field(repr=False)

    def flush(self, timeout_ms: int = 5_000) -> bool:
        """Send what has ended so far; True when all of it left in time."""
        return self.provider.force_flush(timeout_ms)

    def shutdown(self) -> None:
        """Flush and stop exporting. A later configuration of the process stays in force."""
        self.provider.shutdown()
        if tracing.installed(self.provider):
            tracing.install(None)


def configure(
    service: str,
    *,
    version: str = "0.1.0",
    otlp_endpoint: str | None,
    log_level: str = "INFO",
    environment: str = "dev",
    schedule_delay_ms: int = 1_000,
    exporter: SpanExporter | None = None,
    log_stream: BinaryIO | None = None,
) -> Telemetry:
    """Set up the process; calling it again replaces what is in force.

    `otlp_endpoint` is the base URL of an OTLP/HTTP receiver; without it spans are made (their ids
    travel and appear in logs) but not sent, and hot requests have none.

    `exporter` is for tests: it gets each span as it ends.
    """
    configure_logs(
        service=service, environment=environment, version=version, log_level=log_level, stream=log_stream
    )
    resource = Resource.create(
        {"service.name": service, "service.version": version, "deployment.environment.name": environment}
    )
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    if exporter is not None:
        provider.add_span_processor(SimpleSpanProcessor(tracing.RedactingExporter(exporter)))
    if otlp_endpoint:
        base = otlp_endpoint.rstrip("/").removesuffix(TRACES_PATH)
        remote = OTLPSpanExporter(endpoint=f"{base}{TRACES_PATH}", timeout=EXPORT_TIMEOUT_S)
        provider.add_span_processor(
            BatchSpanProcessor(tracing.RedactingExporter(remote), schedule_delay_millis=schedule_delay_ms)
        )
    tracing.install(provider, exports=exporter is not None or bool(otlp_endpoint))
    metrics.gauge("kairos_build_info").labels(service=service, version=version).set(1)
    return Telemetry(service, provider)
