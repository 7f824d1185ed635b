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

ROUTER = "/api/llm-router"


class Door:
    """A front door on loopback that answers from a table and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], Any] = {}
        self.asked: list[tuple[str, str, Any, str | None]] = []
        self.forbidden: set[str] = set()
        door = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                length = int(self.headers.get("content-length", 0))
                body = json.loads(self.rfile.read(length)) if length else None
                door.asked.append((self.command, self.path, body, self.headers.get("if-match")))
                reply = door.answers.get((self.command, self.path.partition("?")[0]))
                content = json.dumps(reply or {"title": "Not found", "code": "not_found"}).encode()
                refused = 403 if self.path in door.forbidden else 404
                self.send_response(200 if reply is not None else refused)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - names the base class asks for

            def log_message(self, *arguments: object) -> None:
                """Stay silent."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


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
    profile = save(door.url, "kairos_live_x", tmp_path / "connection.json")

    def invoke(*arguments: str, **environment: str) -> Any:
        values = {"KAIROS_PROFILE": str(profile), **environment}
        return CliRunner().invoke(app, list(arguments), env=values)

    return invoke


def test_a_route_is_set_with_weights_canaries_and_the_version_it_replaces(door: Door, run: Any) -> None:
    door.answers["PUT", f"{ROUTER}/routes/fast"] = {"name": "fast", "version": 3}
    options = ("--policy", "weighted", "--canary", "new=5", "--fallback", "default", "--version", "2")
    result = run("routes", "set", "fast", "a=3", "b", *options)
    assert result.exit_code == 0, result.output
    ((_, _, body, if_match),) = door.asked
    assert if_match == '"2"'
    assert body == {
        "deployments": [
            {"name": "a", "weight": 3},
            {"name": "b", "weight": 1},
            {"name": "new", "canary": 5},
        ],
        "policy": "weighted",
        "sticky": False,
        "fallbacks": ["default"],
    }


def test_a_providers_key_comes_from_the_environment_and_is_not_printed(
    door: Door, run: Any, tmp_path: Path
) -> None:
    file = tmp_path / "mine.json"
    file.write_text('{"kind": "openai"}')
    door.answers["PUT", f"{ROUTER}/deployments/mine"] = {"name": "mine", "key": {"source": "stored"}}
    result = run("deployments", "set", "mine", str(file), KAIROS_PROVIDER_KEY="sk-secret")
    assert result.exit_code == 0, result.output
    assert door.asked[0][2] == {"kind": "openai", "api_key": "sk-secret"}
    assert "sk-secret" not in result.output
    door.answers["PUT", f"{ROUTER}/deployments/mine"] = {"name": "mine", "state": {"priced": False}}
    assert "Nobody has a price for it" in run("deployments", "set", "mine", str(file)).output


def test_an_import_only_shows_until_it_is_told_to_apply(door: Door, run: Any, tmp_path: Path) -> None:
    file = tmp_path / "map.json"
    entry = {"mode": "chat", "input_cost_per_token": 1e-06, "source": "dropped"}
    file.write_text(json.dumps({"m": entry, "picture": {"mode": "image_generation"}}))
    change = {"name": "m", "before": None, "after": {"input": 1000}}
    door.answers["POST", f"{ROUTER}/prices/import"] = {"version": "import-1", "changes": [change]}
    result = run("prices", "import", str(file))
    assert "Nothing was changed" in result.output
    run("prices", "import", str(file), "--apply")
    assert [path.partition("?")[2] for _, path, _, _ in door.asked] == ["dry_run=true", "dry_run=false"]
    assert door.asked[0][2] == {"m": {"mode": "chat", "input_cost_per_token": 1e-06}}


def test_prices_are_shown_exactly(door: Door, run: Any) -> None:
    price = {
        "deployment": "small",
        "model": "m",
        "version": "v",
        "input_nano_usd_per_million": 37_500_000,
        "output_nano_usd_per_million": 150_000_000_000,
        "cached_input_nano_usd_per_million": None,
    }
    door.answers["GET", f"{ROUTER}/prices"] = {"items": [price], "next_cursor": None}
    shown = run("prices", "list").output
    assert "0.0375" in shown
    assert "150.00" in shown
    nobodys = price | {"known": False, "version": "unpriced"}
    door.answers["GET", f"{ROUTER}/prices"] = {"items": [nobodys], "next_cursor": None}
    assert "0.00" not in run("prices", "list").output, "what nobody has a price for is not free"


def test_why_says_it_in_words_with_what_helps(door: Door, run: Any) -> None:
    door.answers["GET", f"{ROUTER}/decisions/d-1"] = {
        "decided_at": "2026-11-22T09:00:00Z",
        "says": "No way to answer fits the budgets.",
        "steps": [{"says": "small: costs up to 1.00 USD; 0.50 USD left."}],
        "what_to_do": ["Raise the budget b-1."],
    }
    shown = run("why", "d-1").output
    assert "  - small: costs up to 1.00 USD" in shown
    assert "  > Raise the budget b-1." in shown


def test_lists_of_routes_deployments_and_holds_are_tables(door: Door, run: Any) -> None:
    route = {"name": "default", "shared": True, "policy": "fixed", "deployments": ["a", "b"]}
    deployment = {"name": "a", "shared": False, "provider": "openai", "model": "m", "circuit": "open"}
    hold = {"attempt_id": "at-1", "amount_nano_usd": 7, "age_ms": 3}
    door.answers["GET", f"{ROUTER}/routes"] = {"items": [route], "next_cursor": None}
    door.answers["GET", f"{ROUTER}/deployments"] = {"items": [deployment], "next_cursor": None}
    door.answers["GET", f"{ROUTER}/holds"] = {
        "holder": "router-1",
        "leases": [{"lease_id": "l-1", "holds": [hold]}],
    }
    old = {
        "attempt_id": "at-2",
        "amount": {"nano_usd": 91, "usd": "0.000000091"},
        "age_s": 44.5,
        "model": "m",
        "holder": "router-2",
        "lease_state": "open",
    }
    door.answers["GET", "/api/budget-analytics/leases/holds"] = {"items": [old], "next_cursor": None}
    assert "a, b" in run("routes", "list").output
    assert "open" in run("deployments", "list").output
    held = run("holds").output
    assert "router-1" in held
    assert "at-1" in held
    [other] = [line for line in held.splitlines() if "at-2" in line]
    assert ("router-2" in other, "91" in other, "44.5" in other) == (True, True, True)
    assert json.loads(run("holds", "--json").output)["open_for_long"] == [old]


def test_who_may_not_read_the_ledger_still_sees_what_the_answering_router_holds(door: Door, run: Any) -> None:
    hold = {"attempt_id": "at-1", "amount_nano_usd": 7, "age_ms": 3}
    door.answers["GET", f"{ROUTER}/holds"] = {
        "holder": "router-1",
        "leases": [{"lease_id": "l-1", "holds": [hold]}],
    }
    door.forbidden.add("/api/budget-analytics/leases/holds")
    result = run("holds")
    assert result.exit_code == 0, result.output
    assert "at-1" in result.output
    assert "ledger" in result.output
    assert json.loads(run("holds", "--json").output)["open_for_long"] is None
