"""Counters of the use cases, in Prometheus."""

from kairos_telemetry import metrics


class PrometheusMeters:
    """See application.ports.Meters."""

    def __init__(self) -> None:
        # Made at start, so that an alert sees 0 and not an absent series.
        self._refused = metrics.counter("kairos_hold_refused_total")
        self._overspends = metrics.counter("kairos_budget_overspend_total")
        self._above_hold = metrics.counter("kairos_attempt_above_hold_total")
        self._imbalance = metrics.gauge("kairos_ledger_imbalance")

    def refused(self) -> None:
        self._refused.inc()

    def overspent(self, times: int) -> None:
        self._overspends.inc(times)

    def above_hold(self) -> None:
        self._above_hold.inc()

    def imbalance(self, nano_usd: int) -> None:
        self._imbalance.set(nano_usd)
