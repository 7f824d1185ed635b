from kairos_telemetry import metrics


class FeedMetrics:
    """Implements FeedObserver."""

    def connections(self, count: int) -> None:
        metrics.gauge("mcp_websocket_active_connections").set(count)

    def published(self, count: int) -> None:
        metrics.counter("mcp_websocket_events_published_total").inc(count)
