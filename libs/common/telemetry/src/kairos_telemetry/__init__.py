"""Logs, traces and metrics of every service."""

from kairos_telemetry import metrics
from kairos_telemetry.configuration import Telemetry, configure
from kairos_telemetry.logs import get_logger, log_context
from kairos_telemetry.redaction import redact
from kairos_telemetry.tracing import (
    carried,
    current_trace_id,
    current_traceparent,
    go_quiet,
    is_quiet,
    link_to,
    span,
    tracer,
    worth_a_span,
)

__all__ = [
    "Telemetry",
    "carried",
    "configure",
    "current_trace_id",
    "current_traceparent",
    "get_logger",
    "go_quiet",
    "is_quiet",
    "link_to",
    "log_context",
    "metrics",
    "redact",
    "span",
    "tracer",
    "worth_a_span",
]
