"""The compose files and workflows fit their schemas and say the same as the chart."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_python.chart import Chart

from kairos_testkit.suite import BY_NAME

ROOT = Path(__file__).parents[2]
SERVICES = ("bot-worker", "llm-router", "budget-analytics", "auth-audit", "observability")
TASKS = {"provision", "first-admin"}


class ComposeLoader(yaml.SafeLoader):
    """YAML with compose's own `!reset` tag."""


ComposeLoader.add_constructor("!reset", lambda _loader, _node: [])


def compose(name: str = "docker-compose.yml") -> dict[str, Any]:
    document: dict[str, Any] = yaml.load((ROOT / name).read_text(encoding="utf-8"), ComposeLoader)  # noqa: S506 - a safe loader with one more tag
    return document


def tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / name), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_compose_file_fits_its_schema() -> None:
    result = tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    "workflow", sorted((ROOT / ".github/workflows").glob("*.yaml")), ids=lambda path: path.stem
)
def test_workflows_fit_their_schema_and_pass_the_auditor(workflow: Path) -> None:
    schema = tool("check-jsonschema", "--builtin-schema", "vendor.github-workflows", str(workflow))
    assert schema.returncode == 0, schema.stdout
    audit = tool("zizmor", "--offline", "--no-progress", str(workflow))
    assert audit.returncode == 0, audit.stdout + audit.stderr


def test_workflows_pin_actions_by_commit_and_call_targets_that_exist() -> None:
    targets = set(
        re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    for workflow in (ROOT / ".github/workflows").glob("*.yaml"):
        text = workflow.read_text(encoding="utf-8")
        for action in re.findall(r"uses: (\S+)", text):
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), action
        for command in re.findall(r"run: make (.+)", text):
            assert set(command.split()) <= targets, command


def test_every_long_running_service_has_a_restart_policy_and_every_image_a_tag() -> None:
    for name, service in compose()["services"].items():
        assert service["restart"] in {"unless-stopped", "on-failure:5"}, name
        assert re.search(r":[^/]+$", service["image"]), name
        assert not service["image"].endswith(":latest"), name
        once = name in TASKS or name.startswith("migrate-")
        built = name in SERVICES or name == "console"
        assert once or built or "healthcheck" in service, name


def test_the_images_file_is_clean() -> None:
    result = tool("hadolint", "Dockerfile")
    assert result.returncode == 0, result.stdout


def test_no_secret_has_a_value_in_the_repository() -> None:
    for line in (ROOT / ".env.example").read_text(encoding="utf-8").splitlines():
        assert line.startswith("#") or line.endswith("="), line
    variables = set(
        re.findall(
            r"\$\{(KAIROS_\w*(?:PASSWORD|SECRET|KEY|PEPPER))",
            (ROOT / "docker-compose.yml").read_text("utf-8"),
        )
    )
    listed = {
        line.rstrip("=")
        for line in (ROOT / ".env.example").read_text("utf-8").splitlines()
        if line.endswith("=")
    }
    assert variables == listed


def chart_environment(service: str) -> set[str]:
    manifests = Chart.load(ROOT / "helm/kairos").render(
        {"otlpEndpoint": "http://x", "publicUrl": "https://x"}, name="kairos", namespace="kairos"
    )
    for path, text in manifests.items():
        for item in [] if path.endswith("NOTES.txt") else yaml.safe_load_all(text):
            if item and item["kind"] == "Deployment" and item["metadata"]["name"] == f"kairos-{service}":
                return {row["name"] for row in item["spec"]["template"]["spec"]["containers"][0]["env"]}
    raise AssertionError(service)


@pytest.mark.parametrize("service", SERVICES)
def test_compose_and_chart_give_a_service_the_same_settings(service: str) -> None:
    def settings(names: set[str]) -> set[str]:
        return {name for name in names if name.startswith("KAIROS_")}

    assert settings(set(compose()["services"][service]["environment"])) == settings(
        chart_environment(service)
    )


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_given_no_setting_it_does_not_read(service: str) -> None:
    settings = importlib.import_module(f"{BY_NAME[service].package}.settings").Settings
    prefix = settings.model_config["env_prefix"]
    given = {name for name in compose()["services"][service]["environment"] if name.startswith(prefix)}
    assert given <= {f"{prefix}{field}".upper() for field in settings.model_fields}


def test_compose_gives_the_router_every_variable_that_the_file_of_deployments_names() -> None:
    text = (ROOT / "kairos.toml").read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    named = {found or key for found, key in re.findall(r'\$\{(\w+)|_env = "(\w+)"', lines)}
    assert "ANTHROPIC_API_KEY" in named
    given = compose()["services"]["llm-router"]["environment"]
    assert named == {name for name in given if not name.startswith("KAIROS_")}


def test_the_production_file_only_overrides_services_that_exist() -> None:
    assert set(compose("docker-compose.prod.yml")["services"]) <= set(compose()["services"])


def test_the_container_front_door_is_the_charts_with_other_host_names() -> None:
    manifests = Chart.load(ROOT / "helm/kairos").render({}, name="kairos", namespace="kairos")
    (text,) = [text for path, text in manifests.items() if path.endswith("/console.yaml")]
    (config,) = [item for item in yaml.safe_load_all(text) if item and item["kind"] == "ConfigMap"]
    expected = config["data"]["nginx.conf"].replace("http://kairos-", "http://")
    written = (ROOT / "deploy/nginx/container.conf").read_text(encoding="utf-8")
    assert "\n".join(line for line in written.splitlines() if not line.startswith("#")) == expected.rstrip(
        "\n"
    )


def test_grafana_is_provisioned_with_every_dashboard() -> None:
    for path in (ROOT / "deploy/grafana/dashboards").glob("*.json"):
        assert json.loads(path.read_text(encoding="utf-8"))["uid"] == path.stem
