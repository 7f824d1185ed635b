"""The chart renders the same twice, lints, and fits the Kubernetes API, without a cluster."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from helm_python.chart import Chart, lint
from helm_python.errors import HelmError

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm/kairos"
ERROR_SEVERITY = 3
EVERYTHING: dict[str, Any] = {
    "otlpEndpoint": "http://collector:4318",
    "publicUrl": "https://kairos.example.com",
    "routerConfig": "[[deployments]]\nname = 'x'\n",
    "providerSecrets": ["openai"],
    "ingress": {"enabled": True, "className": "nginx", "host": "kairos.example.com", "tlsSecret": "tls"},
    "serviceMonitor": {"enabled": True},
    "prometheusRule": {"enabled": True},
    "auditAnchor": {"claim": "anchors"},
}
PRODUCTION: dict[str, Any] = {
    "existingSecret": "mine",
    "rabbitmq": {"bundled": False, "externalSecret": "broker"},
    "postgres": {"bundled": False, "externalHost": "postgres.example.com"},
    "redis": {"bundled": False, "externalSecret": "cache"},
}
CASES = {"defaults": {}, "everything": EVERYTHING, "production": PRODUCTION}


def render(values: dict[str, Any], name: str = "kairos") -> dict[str, str]:
    return Chart.load(CHART).render(values, name=name, namespace="kairos")


def objects(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path, text in render(values).items():
        if not path.endswith("NOTES.txt"):
            yield from (document for document in yaml.safe_load_all(text) if document)


def pod_specs(values: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for item in objects(values):
        name = f"{item['kind']}/{item['metadata']['name']}"
        if item["kind"] in {"Deployment", "StatefulSet", "Job"}:
            yield name, item["spec"]["template"]["spec"]
        elif item["kind"] == "Pod":
            yield name, item["spec"]


@pytest.mark.parametrize("case", CASES)
def test_the_chart_lints(case: str) -> None:
    report = lint(CHART, CASES[case], strict=True)
    assert [m for m in report["messages"] if m["severity"] >= ERROR_SEVERITY] == []


@pytest.mark.parametrize("case", CASES)
def test_rendering_twice_gives_the_same_bytes(case: str) -> None:
    assert render(CASES[case]) == render(CASES[case])


@pytest.mark.parametrize("version", ["1.27", "1.33", "1.37"])
@pytest.mark.parametrize("case", CASES)
def test_every_object_fits_the_api_schemas(case: str, version: str) -> None:
    for item in objects(CASES[case]):
        if not item["apiVersion"].startswith("monitoring.coreos.com"):
            kubernetes_validate.validate(item, version, strict=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"serivces": {}},
        {"services": {"bot-worker": {"replica": 3}}},
        {"image": {"tag": "latest"}},
        {"redis": {"image": "redis:latest"}},
        {"redis": {"image": "redis"}},
        {"firstAdmin": {"email": "not an address"}},
        {"publicUrl": "http://plain.example.com"},
        {"services": {"llm-router": {"replicas": 0}}},
    ],
)
def test_a_wrong_value_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(HelmError):
        render(wrong)


@pytest.mark.parametrize(
    "values",
    [{"postgres": {"bundled": False}}, {"redis": {"bundled": False}}, {"rabbitmq": {"bundled": False}}],
)
def test_an_own_server_without_its_address_is_refused_by_name(values: dict[str, Any]) -> None:
    with pytest.raises(HelmError, match="is needed when"):
        render(values)


@pytest.mark.parametrize("case", CASES)
def test_every_pod_meets_the_restricted_standard(case: str) -> None:
    for name, pod in pod_specs(CASES[case]):
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, name
            assert security["capabilities"]["drop"] == ["ALL"], name
            assert container["resources"]["limits"]["memory"], name
            assert not container["image"].endswith(":latest"), name
            assert ":" in container["image"].rsplit("/", 1)[-1], name


def test_only_the_secrets_job_talks_to_the_api_server() -> None:
    talkers = [name for name, pod in pod_specs({}) if pod.get("automountServiceAccountToken") is not False]
    assert len(talkers) == 1
    assert talkers[0].startswith("Job/kairos-secrets-")


def test_no_password_stands_in_a_manifest_or_an_argument() -> None:
    for name, pod in pod_specs({}):
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            for variable in container.get("env", []):
                if any(word in variable["name"] for word in ("PASSWORD", "SECRET", "KEY", "PEPPER")):
                    assert (
                        "valueFrom" in variable
                        or "$(" in variable["value"]
                        or variable["name"] == "SECRET_NAME"
                    ), name
            assert "$(" not in " ".join(container.get("args", []) + container.get("command", []))


def test_nothing_random_or_looked_up_is_in_a_template() -> None:
    for path in (CHART / "templates").rglob("*"):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            assert not any(
                word in text for word in ("rand", "lookup ", " now ", "genPrivateKey", "uuidv4")
            ), path


def test_every_service_waits_for_its_schema_and_has_probes() -> None:
    found = set()
    for name, pod in pod_specs({}):
        main = pod["containers"][0]
        if name.startswith("Deployment/kairos-") and main["name"] != "console":
            found.add(main["name"])
            assert pod["initContainers"][0]["name"] == "wait-for-migrations"
            assert pod["terminationGracePeriodSeconds"] > 30
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(main)
    assert found == {"bot-worker", "llm-router", "budget-analytics", "auth-audit", "observability"}


def test_a_new_version_is_a_new_migration_job() -> None:
    def job(values: dict[str, Any]) -> str:
        return next(
            str(o["metadata"]["name"])
            for o in objects(values)
            if o["kind"] == "Job" and "migrate" in o["metadata"]["name"]
        )

    assert job({}) == job({})
    assert job({"image": {"tag": "0.1.0"}}) != job({"image": {"tag": "0.2.0"}})
