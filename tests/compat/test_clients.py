"""Clients as their users have them, against the whole suite: one test per client and check.

Each client runs in an environment of its own; its interpreter runs all checks of its suite at once.
"""

import ast
import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.compat.environments import interpreter
from tests.e2e.people import signed_in

from kairos_testkit.stack import Stack

HERE = Path(__file__).parent
OPENAI = ("openai_chat.py", "openai_more.py", "openai_errors.py")
SUITES = {"openai2": OPENAI, "openai3": OPENAI, "langchain": ("langchain_suite.py",)}
pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]


def checks_of(suite: str) -> list[str]:
    """The names of the checks, read without importing what only the client's environment has."""
    nodes = ast.parse((HERE / suite).read_text("utf-8")).body
    functions = (node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return [node.name for node in functions if node.name.startswith("check_")]


ALL = [(client, check) for client, suites in SUITES.items() for suite in suites for check in checks_of(suite)]


@dataclass
class Results:
    """What each client found, run when its first test asks."""

    stack: Stack
    poor_key: str
    found: dict[str, dict[str, str | None]] = field(default_factory=dict)

    def of(self, client: str) -> dict[str, str | None]:
        if client not in self.found:
            self.found[client] = self._run(client)
        return self.found[client]

    def _run(self, client: str) -> dict[str, str | None]:
        context = {
            "base_url": f"{self.stack.front_door}/v1",
            "api_key": self.stack.seeded.api_key,
            "poor_key": self.poor_key,
            "provider": self.stack.provider.base_url,
        }
        command = [interpreter(client), HERE / "checks.py", json.dumps(context)]
        command += [HERE / suite for suite in SUITES[client]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"name"')]
        return {line["name"]: line["error"] for line in lines}


@pytest.fixture(scope="module")
def results(stack: Stack) -> Results:
    auth, budgets = stack.client("auth-audit"), stack.client("budget-analytics")
    project = auth.post("/projects", {"name": "compat without money"})["id"]
    member = signed_in(stack, "compat@kairos.example")
    key = member.post("/api-keys", {"name": "compat without money", "project_id": project})["key"]
    budgets.post(
        "/budgets",
        {
            "name": "compat without money",
            "scope": "project",
            "scope_id": project,
            "period": "month",
            "limit_nano_usd": 1,
        },
    )
    return Results(stack, key)


@pytest.mark.parametrize(("client", "check"), ALL)
def test_an_unmodified_client_works(results: Results, client: str, check: str) -> None:
    found = results.of(client)
    assert check in found, "the check did not run"
    assert found[check] is None, found[check]


def test_the_clients_are_the_versions_they_are_called() -> None:
    said = {}
    for client in SUITES:
        program = "import openai; print(openai.__version__.split('.')[0])"
        done = subprocess.run(
            [interpreter(client), "-c", program], capture_output=True, text=True, check=True
        )
        said[client] = done.stdout.strip()
    assert (said["openai2"], said["openai3"]) == ("2", "3")
