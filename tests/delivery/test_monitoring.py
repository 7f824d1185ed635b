"""Alert rules and dashboards speak of metrics that exist, and every alert has its runbook section."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from kairos_telemetry.register import PROCESS_METRICS, REGISTER

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus/alerts.yaml"
DASHBOARDS = sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))
SUFFIXES = ("_bucket", "_count", "_sum")
NAME = re.compile(r"\b(?:kairos|bot|session|api|mcp|process)_[a-z_]+\b")
LABELS_AND_WORDS = {"bot_worker"}


def alerts() -> list[dict[str, Any]]:
    return [
        rule
        for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
    ]


def known_metrics() -> set[str]:
    names = {metric.name for metric in REGISTER} | {name for name, _ in PROCESS_METRICS}
    return names | {name + suffix for name in names for suffix in SUFFIXES}


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    tool = shutil.which("promtool")
    assert tool, "promtool is missing: apt-get install --yes prometheus"
    return subprocess.run([tool, *arguments], cwd=RULES.parent, capture_output=True, text=True, check=False)


def test_the_rules_are_valid_and_do_what_their_tests_say() -> None:
    for arguments in (("check", "rules", "alerts.yaml"), ("test", "rules", "alerts.test.yaml")):
        result = promtool(*arguments)
        assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_is_exercised_by_a_rule_test() -> None:
    tested = (RULES.parent / "alerts.test.yaml").read_text(encoding="utf-8")
    assert [rule["alert"] for rule in alerts() if f"alertname: {rule['alert']}" not in tested] == []


def test_every_alert_names_severity_summary_dashboard_and_a_runbook_section_that_exists() -> None:
    guide = (ROOT / "docs/OPERATIONS_GUIDE.md").read_text(encoding="utf-8")
    uids = {json.loads(path.read_text(encoding="utf-8"))["uid"] for path in DASHBOARDS}
    for rule in alerts():
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["dashboard"] in uids
        assert rule["annotations"]["runbook_url"] == f"docs/OPERATIONS_GUIDE.md#{rule['alert'].lower()}"
        assert f"### {rule['alert']}\n" in guide


def test_the_chart_ships_exactly_these_rules() -> None:
    assert (ROOT / "helm/kairos/files/alerts.yaml").read_text(encoding="utf-8") == RULES.read_text(
        encoding="utf-8"
    )


def test_rules_speak_only_of_registered_metrics() -> None:
    for rule in alerts():
        assert set(NAME.findall(rule["expr"])) - LABELS_AND_WORDS <= known_metrics(), rule["alert"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboards_speak_only_of_registered_metrics_and_every_query_parses(path: Path) -> None:
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert expressions
    for expression in expressions:
        assert set(NAME.findall(expression)) - LABELS_AND_WORDS <= known_metrics(), expression


def test_every_dashboard_query_is_valid_promql(tmp_path: Path) -> None:
    rules = [
        {"record": f"kairos:panel:{index}", "expr": target["expr"]}
        for index, target in enumerate(
            target
            for path in DASHBOARDS
            for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]
            for target in panel["targets"]
        )
    ]
    generated = tmp_path / "panels.yaml"
    generated.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}), encoding="utf-8")
    result = promtool("check", "rules", str(generated))
    assert result.returncode == 0, result.stdout + result.stderr
