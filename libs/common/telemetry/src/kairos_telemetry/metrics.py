"""Prometheus objects for the metrics that the register declares, and their exposition.

`counter("session_errors_total").inc()` is the whole use: the name must be in the register and of that kind.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
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
from prometheus_client.metrics_core import Metric as PrometheusMetric

from kairos_telemetry.register import REGISTER, Kind, Metric

# A `_created` series per counter doubles the exposition and nothing of ours reads it.
disable_created_metrics()  # type: ignore[no-untyped-call] # the library has no annotation here


class Tally:
    """Observations of one histogram, counted in plain numbers until somebody looks at the metrics.

    `Histogram.observe` takes locks and walks the buckets, which a hot path pays for with every request.
    For the event loop's thread alone, where the metrics are looked at too.
    """

    __slots__ = ("_bounds", "_counts", "_of", "_sum")

    def __init__(self, of: Histogram) -> None:
        self._of = of
        self._bounds = of._upper_bounds  # noqa: SLF001 - the library has no other way to add many at once
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0

    def observe(self, amount: float) -> None:
        self._sum += amount
        self._counts[bisect_left(self._bounds, amount)] += 1

    def settle(self) -> None:
        """Hand over what has been counted."""
        histogram = self._of
        histogram._sum.inc(self._sum)  # noqa: SLF001 - see above
        self._sum = 0.0
        for at, count in enumerate(self._counts):
            if count:
                histogram._buckets[at].inc(count)  # noqa: SLF001 - see above
                self._counts[at] = 0


class _Tallies:
    """Registered before everything else: a look at the metrics settles the tallies first."""

    def __init__(self) -> None:
        self.all: list[Tally] = []

    def collect(self) -> Iterable[PrometheusMetric]:
        for tally in self.all:
            tally.settle()
        return ()


REGISTRY = CollectorRegistry()
_tallies = _Tallies()
REGISTRY.register(_tallies)
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


def tally(name: str, **labels: str) -> Tally:
    """A tally of one series of a histogram, for who keeps it: it lives as long as the process."""
    of = histogram(name)
    made = Tally(of.labels(**labels) if labels else of)
    _tallies.all.append(made)
    return made


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
