"""Prometheus objects for the metrics that the register declares, and their exposition.

`counter("session_errors_total").inc()` is the whole use: the name must be in the register and of that kind.
"""

from collections.abc import Mapping
from functools import cache

from opentelemetry import trace
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

from kairos_telemetry.register import REGISTER, Kind, Metric

# A `_created` series per counter doubles the exposition and nothing of ours reads it.
disable_created_metrics()  # type: ignore[no-untyped-call] # the library has no annotation here

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

_DECLARED: Mapping[str, Metric] = {metric.name: metric for metric in REGISTER}


class UndeclaredMetric(LookupError):  # noqa: N818 - reads as the fact it states
    """The metric is not in the register with this kind; declare it in kairos_telemetry.register first."""


def declared(name: str, kind: Kind) -> Metric:
    metric = _DECLARED.get(name)
    if metric is None or metric.kind != kind:
        raise UndeclaredMetric(f"{name} ({kind})")
    return metric


@cache
def counter(name: str) -> Counter:
    metric = declared(name, "counter")
    return Counter(metric.name, metric.help, metric.labels, registry=REGISTRY)


@cache
def gauge(name: str) -> Gauge:
    metric = declared(name, "gauge")
    return Gauge(metric.name, metric.help, metric.labels, registry=REGISTRY)


@cache
def histogram(name: str) -> Histogram:
    metric = declared(name, "histogram")
    return Histogram(metric.name, metric.help, metric.labels, registry=REGISTRY, buckets=metric.buckets)


def exemplar() -> dict[str, str] | None:
    """The current trace id in the form `inc` and `observe` take, so that a graph leads to a trace."""
    context = trace.get_current_span().get_span_context()
    if not (context.is_valid and context.trace_flags.sampled):
        return None
    return {"trace_id": f"{context.trace_id:032x}"}


def exposition(accept: str | None = None) -> tuple[bytes, str]:
    """The body and content type of `/metrics`; exemplars appear when `accept` asks for OpenMetrics."""
    encoder, content_type = choose_encoder(accept or "")
    return encoder(REGISTRY), content_type
