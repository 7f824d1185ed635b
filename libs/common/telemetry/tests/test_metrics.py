import io
import re
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from kairos_telemetry import configure, metrics, span
from kairos_telemetry.document import PAGE, main, page
from kairos_telemetry.metrics import UndeclaredMetric
from kairos_telemetry.register import PROCESS_METRICS, REGISTER

ROOT = Path(__file__).parents[4]
OWED = {
    "bot_messages_processed_total": ("service", "outcome"),
    "session_errors_total": (),
    "api_response_time_seconds": ("service", "route", "method", "status"),
    "mcp_websocket_active_connections": (),
    "mcp_websocket_events_published_total": (),
}
FORBIDDEN_LABELS = {
    "user",
    "user_id",
    "chat_id",
    "message_id",
    "bot_id",
    "organisation_id",
    "conversation_id",
}


def samples() -> set[str]:
    body, content_type = metrics.exposition()
    assert content_type.startswith("text/plain")
    return {
        sample.name for family in text_string_to_metric_families(body.decode()) for sample in family.samples
    }


def test_the_names_users_know_are_declared_with_their_labels() -> None:
    declared = {metric.name: metric.labels for metric in REGISTER}
    assert OWED.items() <= declared.items()


def test_every_metric_can_be_made_once_and_appears() -> None:
    for metric in REGISTER:
        make = {"counter": metrics.counter, "gauge": metrics.gauge, "histogram": metrics.histogram}[
            metric.kind
        ]
        made = make(metric.name)  # type: ignore[operator]
        assert made is make(metric.name)  # type: ignore[operator]
        if metric.labels:
            made.labels(*("x" for _ in metric.labels))
    shown = samples()
    for metric in REGISTER:
        assert metric.name + ("_count" if metric.kind == "histogram" else "") in shown


def test_the_process_is_measured() -> None:
    assert {name for name, _ in PROCESS_METRICS} <= samples()
    assert (metrics.REGISTRY.get_sample_value("process_resident_memory_bytes") or 0) > 10_000_000


@pytest.mark.parametrize("name", ["kairos_unheard_of_total", "kairos_leases_open"])
def test_an_undeclared_name_or_kind_is_refused(name: str) -> None:
    with pytest.raises(UndeclaredMetric, match=name):
        metrics.counter(name)


def test_names_and_labels_follow_the_conventions() -> None:
    assert len({metric.name for metric in REGISTER}) == len(REGISTER)
    for metric in REGISTER:
        assert re.fullmatch(r"[a-z][a-z0-9_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert not metric.name.endswith("_seconds") or metric.kind in {"histogram", "gauge"}
        assert bool(metric.buckets) == (metric.kind == "histogram")
        assert FORBIDDEN_LABELS.isdisjoint(metric.labels)
        assert metric.help.endswith(".")


def test_an_exemplar_leads_to_the_trace() -> None:
    telemetry = configure(
        "llm-router", otlp_endpoint=None, exporter=InMemorySpanExporter(), log_stream=io.BytesIO()
    )
    with span("route"):
        found = metrics.exemplar()
        metrics.histogram("kairos_router_overhead_seconds").observe(0.003, exemplar=found)
    telemetry.shutdown()

    body, content_type = metrics.exposition("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    exemplars = [
        sample.exemplar.labels
        for family in parse_openmetrics(body.decode())
        for sample in family.samples
        if family.name == "kairos_router_overhead_seconds" and sample.exemplar
    ]
    assert found in exemplars


def test_the_page_says_what_the_register_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(ROOT), "--check"]) == 0
    assert all(f"`{metric.name}`" in page() for metric in REGISTER)

    assert main([str(tmp_path), "--check"]) == 1
    assert "make docs" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 0
    assert main([str(tmp_path), "--check"]) == 0
    (tmp_path / PAGE).write_text("old", encoding="utf-8")
    assert main([str(tmp_path), "--check"]) == 1


def test_rules_and_dashboards_ask_for_declared_metrics_only() -> None:
    known = {metric.name for metric in REGISTER}
    families = "|".join(sorted({metric.name.partition("_")[0] for metric in REGISTER}))
    asked: dict[str, str] = {}
    for path in (*ROOT.glob("deploy/prometheus/*.yaml"), *ROOT.glob("deploy/grafana/**/*.json")):
        for expression in re.findall(r"\"?expr\"?:\s*(.+)", path.read_text(encoding="utf-8")):
            for name in re.findall(rf"(?<![\w:\"])((?:{families})_[a-z0-9_]+)(?![\w:\"])", expression):
                asked[re.sub(r"_(bucket|sum|count)$", "", name)] = path.name
    assert asked, "no expression was found"
    assert {name: path for name, path in asked.items() if name not in known} == {}


def test_every_declared_metric_is_written_by_the_code_and_no_other() -> None:
    used: set[tuple[str, str]] = set()
    for path in (*ROOT.glob("libs/common/*/src/**/*.py"), *ROOT.glob("services/*/src/**/*.py")):
        if path.name != "document.py":
            text = path.read_text(encoding="utf-8")
            found = re.findall(r"\b(counter|gauge|histogram|tally)\(\s*\"(\w+)\"", text)
            used |= {(name, "histogram" if kind == "tally" else kind) for kind, name in found}
    assert used == {(metric.name, metric.kind) for metric in REGISTER}


def test_a_tally_shows_what_it_counted_whenever_somebody_looks() -> None:
    labels = {"service": "tally", "route": "/", "method": "GET", "status": "200"}
    told = metrics.tally("api_response_time_seconds", **labels)
    observed = metrics.histogram("api_response_time_seconds").labels(**{**labels, "service": "observed"})

    def series(service: str) -> dict[tuple[str, str | None], float]:
        return {
            (sample.name, sample.labels.get("le")): sample.value
            for family in text_string_to_metric_families(metrics.exposition()[0].decode())
            for sample in family.samples
            if sample.labels.get("service") == service
        }

    for amounts in ([0.0, 0.004, 0.005, 1.0, 1e9], [], [0.3, 0.005]):
        for amount in amounts:
            told.observe(amount)
            observed.observe(amount)
        assert series("tally") == series("observed")
    assert series("tally")["api_response_time_seconds_count", None] == 7
