"""`kairos quotas` and `kairos cache` against a front door on loopback."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kairos_sdk import save
from kairos_sdk.commands.app import app
from kairos_sdk.commands.output import Exit

QUOTAS, POLICIES = "/api/llm-router/quotas", "/api/llm-router/cache/policies"
QUOTA = {
    "quota_id": "00000000-0000-4000-8000-000000000001",
    "scope": "api_key",
    "scope_id": None,
    "metric": "requests",
    "limit": 60,
    "window": "minute",
}


class Door:
    """Answers from a table and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], Any] = {}
        self.asked: list[tuple[str, str, Any]] = []
        door = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                length = int(self.headers.get("content-length", 0))
                body = json.loads(self.rfile.read(length)) if length else None
                path = self.path.partition("?")[0]
                door.asked.append((self.command, path, body))
                content = json.dumps(door.answers.get((self.command, path), {})).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815 - names of the base class

            def log_message(self, *arguments: object) -> None:
                """Stay silent."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.answers["GET", QUOTAS] = {"items": [QUOTA], "next_cursor": None}
        self.answers["GET", POLICIES] = {"items": [], "next_cursor": None}


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door()
    thread = threading.Thread(target=door.server.serve_forever, args=(0.01,))
    thread.start()
    yield door
    door.server.shutdown()
    thread.join()
    door.server.server_close()


@pytest.fixture
def run(door: Door, tmp_path: Path) -> Any:
    url = f"http://127.0.0.1:{door.server.server_port}"
    profile = save(url, "kairos_live_x", tmp_path / "connection.json")

    def invoke(*arguments: str) -> Any:
        return CliRunner().invoke(app, list(arguments), env={"KAIROS_PROFILE": str(profile)})

    return invoke


def test_quotas_are_listed_as_a_table_and_as_json(run: Any) -> None:
    assert "api_key" in run("quotas", "list").stdout
    assert json.loads(run("quotas", "list", "--json").stdout) == [QUOTA]


def test_setting_a_quota_that_exists_changes_its_limit_and_another_is_created(door: Door, run: Any) -> None:
    assert run("quotas", "set", "api_key", "requests", "90").exit_code == Exit.OK
    assert door.asked[-1] == ("PATCH", f"{QUOTAS}/{QUOTA['quota_id']}", {"limit": 90})

    assert run("quotas", "set", "organisation", "concurrent", "8").exit_code == Exit.OK
    assert door.asked[-1] == (
        "POST",
        QUOTAS,
        {"scope": "organisation", "metric": "concurrent", "window": None, "scope_id": None, "limit": 8},
    )


def test_a_quota_is_deleted_by_its_id_only(door: Door, run: Any) -> None:
    assert run("quotas", "delete", "the first one").exit_code == Exit.USAGE
    assert run("quotas", "delete", QUOTA["quota_id"]).exit_code == Exit.OK
    assert door.asked[-1][:2] == ("DELETE", f"{QUOTAS}/{QUOTA['quota_id']}")


def test_a_ttl_keeps_what_the_policy_said_besides(door: Door, run: Any) -> None:
    assert run("cache", "ttl", "default", "60").exit_code == Exit.OK
    assert door.asked[-1] == ("PUT", f"{POLICIES}/default", {"mode": "deterministic", "ttl_seconds": 60})

    known = {
        "route": "*",
        "mode": "all",
        "ttl_seconds": 5,
        "shared_by": "api_key",
        "semantic": True,
        "similarity": 0.9,
    }
    door.answers["GET", POLICIES] = {"items": [known], "next_cursor": None}
    assert run("cache", "ttl", "*", "0").exit_code == Exit.OK
    body = {name: value for name, value in known.items() if name != "route"} | {"ttl_seconds": 0}
    assert door.asked[-1] == ("PUT", f"{POLICIES}/*", body)
    assert "api_key" in run("cache", "policies").stdout


def test_a_purge_is_of_one_route_or_of_everything(door: Door, run: Any) -> None:
    door.answers["GET", "/v1/models"] = {"data": [{"id": "default"}]}
    done = run("cache", "purge", "default")
    assert done.exit_code == Exit.OK
    assert "kept for default is not served any more" in done.stdout
    assert door.asked[-1] == ("POST", "/api/llm-router/cache/purge", {"route": "default"})
    assert run("cache", "purge").exit_code == Exit.OK
    assert door.asked[-1][2] == {"route": None}
    asked = len(door.asked)
    assert run("cache", "purge", "defualt").exit_code == Exit.FAILED
    assert all(method == "GET" for method, _, _ in door.asked[asked:])
