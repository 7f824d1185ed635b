import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kairos_sdk import profile, save
from kairos_sdk.commands.app import app
from kairos_sdk.commands.output import Exit

AMOUNTS = {"settled": "0.0000125", "leased": "0.00", "suspense": "0.00", "available": "9.9999875"}
BUDGET = {
    "id": "b-1",
    "scope": "bot",
    "scope_id": "7",
    "model": None,
    "period": "month",
    "window_hours": None,
    "time_zone": "UTC",
    "limit": {"nano_usd": 10_000_000_000, "usd": "10.00"},
    "current": {name: {"usd": amount} for name, amount in AMOUNTS.items()},
}
EVENT = {"time": "2026-11-22T09:00:00Z", "type": "llm.usage.recorded.v1", "subject": "s", "trace_id": None}


class Door:
    """A front door on loopback that answers from a table and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], tuple[int, Any]] = {}
        self.asked: list[tuple[str, str, Any]] = []
        door = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                length = int(self.headers.get("content-length", 0))
                body = json.loads(self.rfile.read(length)) if length else None
                path = self.path.partition("?")[0]
                door.asked.append((self.command, path, body))
                missing = {"title": "Not found", "code": "not_found"}
                status, reply = door.answers.get((self.command, path), (404, missing))
                content = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815 - names the base class asks for

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
    remembered = save(door.url, "kairos_live_x", tmp_path / "connection.json")

    def invoke(*arguments: str, text: str | None = None) -> Any:
        return CliRunner().invoke(app, list(arguments), env={"KAIROS_PROFILE": str(remembered)}, input=text)

    return invoke


def test_bots_are_listed_as_a_table_and_as_json(door: Door, run: Any) -> None:
    bot = {"id": "7", "name": "Parcel desk", "mode": "gpt", "model": "default", "observed_state": "running"}
    door.answers["GET", "/api/bot-worker/bots"] = (200, {"items": [bot], "next_cursor": None})
    assert "Parcel desk" in run("bots", "list").stdout
    assert json.loads(run("bots", "list", "--json").stdout) == [bot]


def test_a_refusal_ends_with_its_own_exit_code_and_says_the_code(door: Door, run: Any) -> None:
    door.answers["GET", "/api/bot-worker/bots"] = (403, {"title": "Denied", "code": "forbidden"})
    result = run("bots", "list")
    assert result.exit_code == Exit.DENIED
    assert "Denied [forbidden]" in result.stderr


def test_a_dead_installation_ends_with_its_own_exit_code(tmp_path: Path) -> None:
    profile = save("http://127.0.0.1:9", "k", tmp_path / "c.json")
    result = CliRunner().invoke(app, ["models", "--profile", str(profile)])
    assert result.exit_code == Exit.UNREACHABLE
    assert "does not answer" in result.stderr


def test_no_profile_is_a_usage_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["models", "--profile", str(tmp_path / "none.json")])
    assert result.exit_code == Exit.USAGE


def test_budgets_show_exact_money(door: Door, run: Any) -> None:
    door.answers["GET", "/api/budget-analytics/budgets"] = (200, {"items": [BUDGET], "next_cursor": None})
    shown = run("budgets", "status").stdout
    assert "0.0000125" in shown
    assert "9.9999875" in shown


def test_a_budget_is_set_in_nano_usd(door: Door, run: Any) -> None:
    door.answers["GET", "/api/budget-analytics/budgets"] = (200, {"items": [], "next_cursor": None})
    door.answers["POST", "/api/budget-analytics/budgets"] = (201, BUDGET)
    assert run("budgets", "set", "bot", "7", "0.25").exit_code == Exit.OK
    assert door.asked[-1][2] == {
        "name": "bot per month",
        "scope": "bot",
        "scope_id": "7",
        "limit_nano_usd": 250_000_000,
        "period": "month",
    }


def test_one_thing_is_printed_in_words_and_usd(door: Door, run: Any) -> None:
    made = BUDGET | {"model": None, "active": True, "thresholds": [50, 80], "reserves": {"normal": 5}}
    door.answers["GET", "/api/budget-analytics/budgets"] = (200, {"items": [], "next_cursor": None})
    door.answers["POST", "/api/budget-analytics/budgets"] = (201, made)
    shown = {
        line.partition(" ")[0]: line.partition(" ")[2].strip()
        for line in run("budgets", "set", "bot", "7", "10").stdout.splitlines()
    }
    assert shown["limit"] == f"{BUDGET['limit']['usd']} USD"
    assert shown["current.available"] == "9.9999875 USD"
    assert (shown["model"], shown["active"], shown["thresholds"]) == ("-", "yes", "50, 80")
    assert shown["reserves.normal"] == "5"
    assert json.loads(run("budgets", "set", "bot", "7", "10", "--json").stdout) == made


def test_what_can_not_be_asked_like_that_is_wrong_usage(door: Door, run: Any) -> None:
    problem = {"title": "The request is not valid", "code": "invalid_request"}
    door.answers["GET", "/api/bot-worker/bots/x"] = (422, problem)
    assert run("bots", "show", "x").exit_code == Exit.USAGE
    assert run("bots", "create", "b", "--telegram-token-file", "nowhere").exit_code == Exit.USAGE


def test_a_key_that_is_refused_is_not_remembered(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remembered = tmp_path / "connection.json"
    monkeypatch.setattr(profile, "USER", remembered)
    door.answers["GET", "/v1/models"] = (401, {"error": {"code": "invalid_api_key", "message": "no"}})
    refused = CliRunner().invoke(app, ["login", door.url, "--key", "kairos_live_x"])
    assert refused.exit_code == Exit.DENIED
    assert not remembered.exists()


def test_setting_a_budget_that_is_there_changes_its_limit(door: Door, run: Any) -> None:
    row = BUDGET | {"scope": "bot", "scope_id": "7", "period": "month", "id": "b-1"}
    door.answers["GET", "/api/budget-analytics/budgets"] = (200, {"items": [row], "next_cursor": None})
    door.answers["PATCH", "/api/budget-analytics/budgets/b-1"] = (200, row)
    assert run("budgets", "set", "bot", "7", "0.5").exit_code == Exit.OK
    assert door.asked[-1] == ("PATCH", "/api/budget-analytics/budgets/b-1", {"limit_nano_usd": 500_000_000})


def test_a_budget_of_another_calendar_or_window_is_a_budget_of_its_own(door: Door, run: Any) -> None:
    door.answers["GET", "/api/budget-analytics/budgets"] = (200, {"items": [BUDGET], "next_cursor": None})
    door.answers["POST", "/api/budget-analytics/budgets"] = (201, BUDGET)
    day = ("--period", "day", "--tz", "Europe/Istanbul", "--reserve", "interactive=20")
    assert run("budgets", "set", "bot", "7", "0.5", *day).exit_code == Exit.OK
    assert door.asked[-1][2] == {
        "name": "bot per day",
        "scope": "bot",
        "scope_id": "7",
        "limit_nano_usd": 500_000_000,
        "period": "day",
        "time_zone": "Europe/Istanbul",
        "reserves": {"interactive": 20},
    }
    assert run("budgets", "set", "bot", "7", "0.5", "--window-hours", "24").exit_code == Exit.OK
    posted = door.asked[-1][2]
    assert (posted["name"], posted["period"], posted["window_hours"]) == (
        "bot, last 24 hours",
        "rolling",
        24,
    )
    wrong = run("budgets", "set", "bot", "7", "0.5", "--reserve", "interactive")
    assert wrong.exit_code == Exit.USAGE


AMOUNT = {"nano_usd": 1, "usd": "0.000000001"}


def test_the_status_of_one_budget_tells_where_it_heads(door: Door, run: Any) -> None:
    door.answers["GET", "/api/budget-analytics/budgets/b-1/status"] = (
        200,
        {
            "budget": BUDGET | {"name": "All of us"},
            **dict.fromkeys(("settled", "held", "suspense", "available", "burn_rate"), AMOUNT),
            "used_percent": 12.5,
            "elapsed_percent": 40.0,
            "forecast": {"exceeds_at": "2026-11-25T10:00:00Z"},
            "top_consumers": {"model": [{"key": "gpt-x", "cost": AMOUNT, "attempts": 3, "share": 0.75}]},
        },
    )
    shown = run("budgets", "status", "b-1").stdout
    for words in ("All of us", "12.5 %", "2026-11-25T10:00:00Z", "gpt-x", "75.0 %"):
        assert words in shown


def test_a_simulation_tells_when_the_budget_would_have_run_out(door: Door, run: Any) -> None:
    stopped = {"key": "gpt-x", "attempts": 4, "cost": AMOUNT}
    door.answers["POST", "/api/budget-analytics/budgets/simulate"] = (
        200,
        {
            "method": "attempts",
            "attempts": 10,
            "cost": AMOUNT,
            "exhausted_at": "2026-11-20T10:00:00Z",
            "refused": stopped,
            "by_model": [stopped],
            "by_bot": [],
            "by_day": [],
        },
    )
    shown = run("budgets", "simulate", "model", "gpt-x", "1", "--from", "2026-11-01").stdout
    assert "2026-11-20T10:00:00Z" in shown
    assert "4 attempts" in shown
    assert door.asked[-1][2] == {
        "scope": "model",
        "model": "gpt-x",
        "limit_nano_usd": 1_000_000_000,
        "period": "month",
        "from": "2026-11-01",
    }
    assert '"method": "attempts"' in run("budgets", "simulate", "bot", "7", "1", "--json").stdout


@pytest.mark.parametrize("amount", ["much", "-1", "0", "0.0000000001"])
def test_an_amount_that_is_no_money_is_refused_before_it_is_sent(door: Door, run: Any, amount: str) -> None:
    assert run("budgets", "set", "--", "bot", "7", amount).exit_code == Exit.USAGE
    assert door.asked == []


def test_a_dead_letter_is_replayed_only_after_a_yes(door: Door, run: Any) -> None:
    door.answers["POST", "/api/observability/dead-letters/5/replay"] = (200, {"state": "replayed"})
    assert run("dlq", "replay", "5", text="n\n").exit_code == Exit.FAILED
    assert door.asked == []
    assert "replayed" in run("dlq", "replay", "5", "--yes").stdout


def test_chat_prints_the_bots_reply(door: Door, run: Any) -> None:
    door.answers["POST", "/api/bot-worker/web/7/sessions"] = (201, {"token": "t"})
    door.answers["POST", "/api/bot-worker/web/messages"] = (202, {})
    replies = [
        {"sequence": 1, "author": "contact", "text": "hi"},
        {"sequence": 2, "author": "bot", "text": "hello"},
    ]
    door.answers["GET", "/api/bot-worker/web/messages"] = (200, {"items": replies})
    assert run("chat", "hi", "--bot", "7").stdout.strip() == "hello"
    assert door.asked[1] == ("POST", "/api/bot-worker/web/messages", {"sequence": 1, "text": "hi"})


def test_a_key_is_never_sent_over_plain_http_to_another_machine() -> None:
    result = CliRunner().invoke(app, ["login", "http://kairos.example.com", "--key", "kairos_live_x"])
    assert result.exit_code == Exit.USAGE
    assert "https" in result.stderr


def test_events_are_printed_oldest_first(door: Door, run: Any) -> None:
    newest_first = [EVENT | {"subject": "second"}, EVENT | {"subject": "first"}]
    page = {"items": newest_first, "next_cursor": None, "head": "h"}
    door.answers["GET", "/api/observability/events"] = (200, page)
    lines = run("events", "tail", "--no-follow").stdout.splitlines()
    assert [line.split()[2] for line in lines] == ["first", "second"]


def test_status_fails_when_a_service_is_not_up(door: Door, run: Any) -> None:
    services = [{"service": "llm-router", "health": "down", "detail": "connection refused"}]
    door.answers["GET", "/api/observability/services"] = (200, {"status": "down", "services": services})
    result = run("status")
    assert result.exit_code == Exit.FAILED
    assert "connection refused" in result.stdout


def test_doctor_stops_at_the_first_fault_and_says_how_to_mend_it(door: Door, run: Any) -> None:
    services = [{"service": "llm-router", "health": "up"}]
    door.answers["GET", "/api/observability/services"] = (200, {"services": services})
    door.answers["GET", "/api/budget-analytics/ledger/check"] = (200, {"balanced": False})
    result = run("doctor")
    assert result.exit_code == Exit.FAILED
    assert "OPERATIONS_GUIDE" in result.stderr
    door.answers["GET", "/api/budget-analytics/ledger/check"] = (200, {"balanced": True})
    door.answers["GET", "/api/observability/dead-letters"] = (200, {"items": [], "next_cursor": None})
    assert run("doctor").exit_code == Exit.OK


def test_an_export_that_is_no_export_is_found_out(tmp_path: Path) -> None:
    file = tmp_path / "export.ndjson"
    file.write_text('{"kind": "nonsense"}\n')
    result = CliRunner().invoke(app, ["audit", "verify", "--export", str(file)])
    assert result.exit_code == Exit.FAILED
    assert "NOT INTACT" in result.stdout


def test_a_missing_export_is_a_usage_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["audit", "verify", "--export", str(tmp_path / "none")])
    assert result.exit_code == Exit.USAGE
