"""What Argo CD reads is consistent with the chart it deploys."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_python.chart import Chart

ROOT = Path(__file__).parents[2]
GITOPS = ROOT / "gitops"
ENVIRONMENTS = ("staging", "prod")


def load(path: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((GITOPS / path).read_text(encoding="utf-8"))
    return document


def rendered(environment: str) -> list[dict[str, Any]]:
    values = load(f"environments/{environment}/values.yaml")
    manifests = Chart.load(ROOT / "helm/kairos").render(
        values, name="kairos", namespace=f"kairos-{environment}"
    )
    return [
        document
        for path, text in manifests.items()
        if not path.endswith("NOTES.txt")
        for document in yaml.safe_load_all(text)
        if document
    ]


def test_the_set_makes_one_application_per_environment_folder() -> None:
    elements = load("apps/kairos.yaml")["spec"]["generators"][0]["list"]["elements"]
    assert {element["name"] for element in elements} == {
        path.name for path in (GITOPS / "environments").iterdir()
    }
    assert {element["name"]: element["automated"] for element in elements} == {
        "staging": "true",
        "prod": "false",
    }


def test_applications_point_at_the_chart_and_at_values_that_exist() -> None:
    source = load("apps/kairos.yaml")["spec"]["template"]["spec"]["source"]
    assert (ROOT / source["path"] / "Chart.yaml").is_file()
    for environment in ENVIRONMENTS:
        (values,) = source["helm"]["valueFiles"]
        assert (ROOT / source["path"] / values.replace("{{ .name }}", environment)).resolve().is_file()


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_project_allows_every_kind_the_environment_renders(environment: str) -> None:
    allowed = {
        (row["group"], row["kind"]) for row in load("apps/project.yaml")["spec"]["namespaceResourceWhitelist"]
    }
    for item in rendered(environment):
        if "helm.sh/hook" not in item["metadata"].get("annotations", {}):
            group = item["apiVersion"].rpartition("/")[0]
            assert (group, item["kind"]) in allowed, item["metadata"]["name"]


def test_the_repository_is_named_the_same_everywhere() -> None:
    names = {
        load("root.yaml")["spec"]["source"]["repoURL"],
        load("apps/kairos.yaml")["spec"]["template"]["spec"]["source"]["repoURL"],
        *load("apps/project.yaml")["spec"]["sourceRepos"],
    }
    assert len(names) == 1


def test_production_uses_its_own_servers_and_its_own_secret() -> None:
    kinds = {item["kind"] for item in rendered("prod")}
    assert "StatefulSet" not in kinds
    assert not any(
        "secrets" in item["metadata"]["name"] for item in rendered("prod") if item["kind"] == "Job"
    )
