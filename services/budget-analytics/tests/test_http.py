"""The HTTP interface with its permissions, on real servers."""

from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import FastAPI

from kairos_web import declarations

from .conftest import Bench, Caller  # noqa: TID252 - tests have no importable package name

pytestmark = pytest.mark.servers

USD = 1_000_000_000


def wish(bench: Bench, want: int, need: int) -> dict[str, Any]:
    return {
        "holder": "router-1",
        "organisation_id": str(bench.organisation),
        "want_nano": want,
        "need_nano": need,
    }


async def test_a_budget_is_made_read_changed_and_closed(admin: Caller, bench: Bench) -> None:
    made = await admin("POST", "/budgets", {"name": "All of us", "limit_usd": "12.5"}, 201)
    assert made["limit"] == {"nano_usd": 12_500_000_000, "usd": "12.50"}
    assert (made["scope"], made["scope_id"]) == ("organisation", str(bench.organisation))
    assert made["current"]["available"]["usd"] == "12.50"
    address = f"/budgets/{made['id']}"
    assert (await admin("GET", address)) == made
    changed = await admin("PATCH", address, {"limit_nano_usd": USD, "thresholds": [90]})
    assert (changed["limit"]["usd"], changed["thresholds"]) == ("1.00", [90])
    assert (await admin("DELETE", address))["active"] is False
    assert (await admin("PATCH", address, {"name": "late"}, 409))["code"] == "budget_closed"
    assert (await admin("DELETE", address, None, 409))["code"] == "budget_closed"
    assert (await admin("GET", "/budgets?active=true"))["items"] == []
    assert len((await admin("GET", "/budgets"))["items"]) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"name": "no limit"},
        {"name": "", "limit_usd": "1"},
        {"name": "both", "limit_usd": "1", "limit_nano_usd": 1},
        {"name": "negative", "limit_usd": "-1"},
        {"name": "fraction of a nano", "limit_usd": "0.0000000001"},
        {"name": "scope without id", "limit_usd": "1", "scope": "bot"},
        {"name": "thresholds fall", "limit_usd": "1", "thresholds": [80, 50]},
        {"name": "zone", "limit_usd": "1", "time_zone": "Europe/Nowhere"},
        {"name": "window", "limit_usd": "1", "period": "rolling"},
        {"name": "window", "limit_usd": "1", "window_hours": 24},
        {"name": "reserves", "limit_usd": "1", "reserves": {"normal": 60, "interactive": 41}},
        {"name": "model", "limit_usd": "1", "model": "dear-1"},
        {"name": "too much", "limit_nano_usd": 10**30},
        {"name": "foreign", "limit_usd": "1", "scope_id": str(uuid4())},
    ],
)
async def test_a_budget_that_makes_no_sense_is_refused(admin: Caller, body: dict[str, Any]) -> None:
    assert (await admin("POST", "/budgets", body, 422))["type"].startswith("urn:kairos:problem:")


async def test_a_router_leases_renews_and_closes(admin: Caller, router: Caller, bench: Bench) -> None:
    await admin("POST", "/budgets", {"name": "cap", "limit_nano_usd": 1_000}, 201)
    lease = await router("POST", "/internal/leases", wish(bench, 100, 100), 201)
    assert (lease["epoch"], lease["granted_nano"], lease["unlimited"]) == (1, 100, False)
    assert 0 < lease["expires_in_ms"] <= 15_000
    beat = {
        "lease_id": lease["lease_id"],
        "epoch": 1,
        "settled_nano": 10,
        "open_nano": 20,
        "want_more_nano": 50,
    }
    (renewal,) = await router("POST", "/internal/leases/renew", {"holder": "router-1", "leases": [beat]})
    assert (renewal["status"], renewal["granted_more_nano"], renewal["reason"]) == ("ok", 50, None)
    (listed,) = (await admin("GET", "/leases?state=open"))["items"]
    assert (listed["held"]["nano_usd"], listed["open"]["nano_usd"], listed["holder"]) == (150, 20, "router-1")
    address = f"/internal/leases/{lease['lease_id']}/close"
    assert (await router("POST", address, {"epoch": 2, "settled_nano": 0}, 409))["code"] == "stale_epoch"
    closed = await router("POST", address, {"epoch": 1, "settled_nano": 30})
    assert (closed["returned_nano"], closed["owed_nano"], closed["state"]) == (120, 30, "closing")
    nobody = f"/internal/leases/{uuid4()}/close"
    assert (await router("POST", nobody, {"epoch": 1, "settled_nano": 0}, 404))["code"] == "lease_not_found"


async def test_a_router_reads_which_scopes_have_budgets_and_reports_old_holds(
    admin: Caller, router: Caller, bench: Bench
) -> None:
    address = f"/internal/leases/scopes/{bench.organisation}"
    assert await router("GET", address) == {"version": 0, "scopes": []}
    made = await admin(
        "POST",
        "/budgets",
        {
            "name": "dear model, a day of Zurich",
            "limit_usd": "1",
            "scope": "model",
            "model": "dear-1",
            "period": "day",
            "time_zone": "Europe/Zurich",
            "reserves": {"interactive": 20},
        },
        201,
    )
    assert (made["model"], made["reserves"]) == ("dear-1", {"normal": 0, "interactive": 20})
    index = await router("GET", address)
    assert index["scopes"] == [["model", made["scope_id"], True]]
    assert await router("GET", f"{address}?known={index['version']}") == index | {"scopes": None}
    model = {"model_id": made["scope_id"], "contact_id": str(uuid4()), "priority": "batch"}
    lease = await router("POST", "/internal/leases", wish(bench, 100, 100) | model, 201)
    assert (lease["model_id"], lease["contact_id"]) == (made["scope_id"], None)
    assert (lease["priority"], lease["index_version"]) == ("batch", index["version"])
    hold = {"attempt_id": str(uuid4()), "amount_nano": 40, "age_ms": 90_000, "model": "dear-1"}
    beat = {"lease_id": lease["lease_id"], "epoch": 1, "settled_nano": 0, "open_nano": 40, "holds": [hold]}
    await router("POST", "/internal/leases/renew", {"holder": "router-1", "leases": [beat]})
    (listed,) = (await admin("GET", "/leases/holds"))["items"]
    assert (listed["attempt_id"], listed["holder"], listed["model"]) == (
        hold["attempt_id"],
        "router-1",
        "dear-1",
    )
    assert 89 < listed["age_s"] < 120
    changed = await admin("PATCH", f"/budgets/{made['id']}", {"reserves": {"normal": 10}})
    assert changed["reserves"] == {"normal": 10, "interactive": 0}
    rolling = {"name": "30 days", "limit_usd": "1", "period": "rolling", "window_hours": 720}
    assert (await admin("POST", "/budgets", rolling, 201))["current"]["ends_at"] is None


async def test_a_refusal_says_which_budget_and_how_much_is_left(
    admin: Caller, router: Caller, bench: Bench
) -> None:
    budget = await admin("POST", "/budgets", {"name": "cap", "limit_nano_usd": 1_000}, 201)
    refusal = await router("POST", "/internal/leases", wish(bench, 2_000, 1_001), 402)
    assert refusal["type"] == "urn:kairos:problem:budget_exceeded"
    assert UUID(refusal["decision_id"])
    assert {name: refusal[name] for name in ("budget_id", "scope", "remaining_nano", "limit_nano")} == {
        "budget_id": budget["id"],
        "scope": "organisation",
        "remaining_nano": 1_000,
        "limit_nano": 1_000,
    }
    assert (await router("POST", "/internal/leases", wish(bench, 1, 2), 422))["code"] == "invalid_request"


async def test_a_taken_lease_id_is_refused(router: Caller, bench: Bench) -> None:
    body = wish(bench, 1, 1) | {"lease_id": str(uuid4())}
    assert await router("POST", "/internal/leases", body, 201) | {"expires_in_ms": 0} == await router(
        "POST", "/internal/leases", body, 201
    ) | {"expires_in_ms": 0}
    await router("POST", "/internal/leases", body | {"holder": "router-2"}, 409)


async def test_suspense_is_listed_and_released_with_a_reason(admin: Caller, bench: Bench) -> None:
    await bench.budget(1_000)
    lease = (await bench.lease(500)).lease
    await bench.record(bench.usage(lease.id, hold=60, outcome="unknown"))
    await bench.silence(lease.id)
    (row,) = (await admin("GET", "/suspense"))["items"]
    assert (row["unreported"]["nano_usd"], row["unknown"]["nano_usd"], len(row["unknown_attempts"])) == (
        440,
        60,
        1,
    )
    address = f"/suspense/{lease.id}/release"
    await admin("POST", address, {"reason": ""}, 422)
    released = await admin("POST", address, {"reason": "power cut", "include_unknown": True})
    assert (released["unreported"]["nano_usd"], released["unknown"]["nano_usd"]) == (440, 60)
    assert (await admin("POST", address, {"reason": "power cut"}, 409))["code"] == "nothing_suspended"
    assert (await admin("POST", f"/suspense/{uuid4()}/release", {"reason": "none"}, 404))["status"] == 404
    assert (await admin("GET", "/ledger/check"))["balanced"] is True


async def test_a_reconciliation_takes_costs_or_tokens_with_their_prices(admin: Caller, bench: Bench) -> None:
    await bench.budget(1_000)
    lease = (await bench.lease(500)).lease
    first, second = uuid4(), uuid4()
    for attempt in (first, second):
        await bench.record(bench.usage(lease.id, hold=100, outcome="unknown", attempt=attempt))
    records: list[dict[str, Any]] = [
        {"attempt_id": str(first), "cost_nano_usd": 70},
        {
            "attempt_id": str(second),
            "input_tokens": 3,
            "output_tokens": 2,
            "input_nano_usd_per_million": 5_000_000,
            "output_nano_usd_per_million": 1_500_001,
        },
    ]
    answer = await admin("POST", "/reconciliations", {"records": records})
    assert [row["result"] for row in answer["results"]] == ["resolved", "resolved"]
    (spend,) = (await admin("GET", "/spend?group_by=model"))["items"]
    assert (spend["cost"]["nano_usd"], spend["unknown_attempts"]) == (70 + 15 + 4, 0)
    unpriced = {"records": [{"attempt_id": str(first), "input_tokens": 3}]}
    await admin("POST", "/reconciliations", unpriced, 422)


async def test_lists_are_paged_to_the_end(admin: Caller, bench: Bench) -> None:
    await bench.budget(1_000)
    leases = [(await bench.lease(10)).lease for _ in range(3)]
    for lease in leases:
        await bench.silence(lease.id)
    for path, count in (("/leases", 3), ("/suspense", 3), ("/ledger/transfers", 7), ("/budgets", 1)):
        seen, cursor = [], ""
        while True:
            page = await admin("GET", f"{path}?limit=2{cursor}")
            seen += page["items"]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert len({str(row) for row in seen}) == len(seen) == count, path


async def test_transfers_are_found_by_what_caused_them(admin: Caller, bench: Bench) -> None:
    await bench.budget(1_000)
    lease = (await bench.lease(10)).lease
    usage = bench.usage(lease.id, cost=4, hold=6)
    await bench.record(usage)
    (post,) = (await admin("GET", f"/ledger/transfers?attempt_id={usage.message.attempt_id}"))["items"]
    assert (post["kind"], post["source"], post["target"], post["amount"]["nano_usd"]) == (
        "post",
        "leased",
        "settled",
        4,
    )
    assert len((await admin("GET", f"/ledger/transfers?lease_id={lease.id}"))["items"]) == 2


@pytest.mark.parametrize("path", ["/budgets", "/leases", "/suspense", "/ledger/transfers"])
async def test_a_cursor_of_another_list_is_refused(admin: Caller, path: str) -> None:
    assert (await admin("GET", f"{path}?cursor=eyJuIjoxfQ", None, 400))["code"] == "invalid_cursor"
    assert (await admin("GET", f"{path}?cursor=%7B", None, 400))["code"] == "invalid_cursor"


async def test_spend_needs_a_range_that_is_one(admin: Caller) -> None:
    assert (await admin("GET", "/spend?from=2026-02-01&to=2026-01-01", None, 422))["code"] == "empty_range"
    assert (await admin("GET", "/spend?from=2026-01-01&to=2026-02-01"))["items"] == []


NEEDS = {
    ("POST", "/budgets"): "admin",
    ("GET", "/budgets"): "viewer",
    ("GET", "/budgets/{budget_id}"): "viewer",
    ("PATCH", "/budgets/{budget_id}"): "admin",
    ("DELETE", "/budgets/{budget_id}"): "admin",
    ("GET", "/leases"): "developer",
    ("GET", "/leases/holds"): "developer",
    ("GET", "/suspense"): "developer",
    ("POST", "/suspense/{lease_id}/release"): "admin",
    ("GET", "/ledger/transfers"): "developer",
    ("GET", "/ledger/check"): "developer",
    ("POST", "/reconciliations"): "admin",
    ("GET", "/spend"): "viewer",
    ("GET", "/usage"): "viewer",
    ("GET", "/accounting/accounts"): "developer",
    ("GET", "/accounting/trial-balance"): "developer",
    ("GET", "/accounting/entries"): "developer",
    ("GET", "/accounting/reconciliation"): "developer",
    ("GET", "/accounting/export"): "developer",
    ("GET", "/accounting/rates"): "developer",
    ("PUT", "/accounting/rates"): "admin",
    ("POST", "/accounting/adjustments"): "admin",
    ("POST", "/accounting/reversals"): "admin",
    ("POST", "/budgets/simulate"): "viewer",
    ("GET", "/budgets/{budget_id}/status"): "viewer",
    ("GET", "/analytics/models"): "viewer",
    ("GET", "/analytics/timeseries"): "viewer",
    ("GET", "/analytics/errors"): "viewer",
    ("POST", "/internal/leases"): "llm-router",
    ("GET", "/internal/leases/scopes/{organisation_id}"): "llm-router",
    ("POST", "/internal/leases/renew"): "llm-router",
    ("POST", "/internal/leases/{lease_id}/close"): "llm-router",
}
RANKS = ("viewer", "developer", "admin")


async def test_every_route_lets_in_exactly_whom_it_should(
    app: FastAPI, client: httpx.AsyncClient, bench: Bench
) -> None:
    guarded = {
        (method, route.path)
        for route in declarations(app)
        for method in route.methods
        if any(hasattr(guard, "permission") for guard in route.guards)
    }
    assert guarded == set(NEEDS)
    callers = {role: f"{role} {bench.organisation}" for role in RANKS}
    callers |= {name: f"service {name}" for name in ("llm-router", "bot-worker")}
    for (method, path), least in NEEDS.items():
        address = path.format(budget_id=uuid4(), lease_id=uuid4(), organisation_id=bench.organisation)
        allowed = set(RANKS[RANKS.index(least) :]) if least in RANKS else {least}
        anonymous = await client.request(method, address)
        assert anonymous.status_code == 401, (method, path)
        for name, credential in callers.items():
            answer = await client.request(method, address, headers={"Authorization": f"Bearer {credential}"})
            assert (answer.status_code != 403) == (name in allowed), (method, path, name, answer.text)
            assert answer.status_code < 500


async def test_a_denial_is_audited(client: httpx.AsyncClient, bench: Bench) -> None:
    viewer = Caller(client, f"viewer {bench.organisation}")
    await viewer("POST", "/budgets", {"name": "mine", "limit_usd": "1"}, 403)
    (entry,) = await bench.emitted("audit.entry.recorded.v1")
    assert (entry["action"], entry["outcome"], entry["reason"]) == (
        "access.denied",
        "denied",
        "budgets.write",
    )


async def test_another_tenants_budget_is_not_found(admin: Caller, client: httpx.AsyncClient) -> None:
    made = await admin("POST", "/budgets", {"name": "ours", "limit_usd": "1"}, 201)
    stranger = replace(admin, credential=f"admin {uuid4()}")
    for method, body in (("GET", None), ("PATCH", {"name": "theirs"}), ("DELETE", None)):
        assert (await stranger(method, f"/budgets/{made['id']}", body, 404))["code"] == "budget_not_found"
    assert (await stranger("GET", "/budgets"))["items"] == []


async def test_the_service_is_ready_and_shows_its_metrics(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health/live")).status_code == 200
    assert (await client.get("/health")).json()["checks"][0]["healthy"] is True
    page = (await client.get("/metrics")).text
    for name in (
        "kairos_ledger_imbalance",
        "kairos_leases_open",
        "kairos_budget_overspend_total",
        "kairos_attempt_above_hold_total",
    ):
        assert name in page
