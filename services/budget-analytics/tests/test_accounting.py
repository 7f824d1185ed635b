"""The books an accountant reads add up, and are corrected by new entries only, on real PostgreSQL."""

import csv
import io
import re
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import psycopg
import pytest

from kairos_budget.domain.budget import Scope
from kairos_budget.domain.calendar import PeriodKind
from kairos_testkit.databases import ClonedDatabase

from .conftest import Bench, Caller  # noqa: TID252 - tests have no importable package name

pytestmark = pytest.mark.servers

ADJUSTMENTS, REVERSALS = "/accounting/adjustments", "/accounting/reversals"


async def spent(bench: Bench) -> tuple[UUID, UUID]:
    """A budget of 1,000 with 110 settled by two attempts; returns the budget and the larger attempt."""
    budget = await bench.budget(1_000)
    lease = (await bench.lease(400)).lease
    large = bench.usage(lease.id, cost=100, hold=120)
    await bench.record(large, bench.usage(lease.id, cost=10))
    return budget.id, large.message.attempt_id


async def test_accounts_are_recomputed_as_of_any_moment(bench: Bench, admin: Caller) -> None:
    budget, _ = await spent(bench)
    before = datetime.now(UTC) - timedelta(days=1)
    found = await admin("GET", "/accounting/accounts")
    held = {row["account"]: row["balance"]["nano_usd"] for row in found["items"]}
    assert held == {"available": 600, "leased": 290, "settled": 110, "limit": -1_000}
    assert {row["budget_id"] for row in found["items"]} == {str(budget)}
    moment = f"{before:%Y-%m-%dT%H:%M:%SZ}"
    assert (await admin("GET", f"/accounting/accounts?as_of={moment}"))["items"] == []
    trial = await admin("GET", "/accounting/trial-balance")
    assert trial["balanced"] is True
    assert trial["debits"]["nano_usd"] == trial["credits"]["nano_usd"] == 1_000


async def test_entries_are_paged_the_oldest_first(bench: Bench, admin: Caller) -> None:
    await spent(bench)
    kinds, cursor = [], ""
    while cursor is not None:
        page = await admin("GET", f"/accounting/entries?limit=1{cursor and '&cursor=' + cursor}")
        kinds += [(row["kind"], row["debit"], row["credit"]) for row in page["items"]]
        cursor = page["next_cursor"]
    assert kinds == [
        ("adjust", "available", "limit"),
        ("lease", "leased", "available"),
        ("post", "settled", "leased"),
    ]


async def test_a_correction_is_a_new_entry_with_a_reason_that_is_audited(bench: Bench, admin: Caller) -> None:
    budget, _ = await spent(bench)
    body = {"budget_id": str(budget), "amount_nano_usd": -30, "reason": "the provider gave a credit"}
    made = await admin("POST", ADJUSTMENTS, body, 201)
    assert (made["kind"], made["amount"]["nano_usd"]) == ("correction", -30)
    await admin("POST", ADJUSTMENTS, body | {"amount_nano_usd": 5}, 201)
    current = (await admin("GET", f"/budgets/{budget}"))["current"]
    assert (current["settled"]["nano_usd"], current["available"]["nano_usd"]) == (85, 625)
    assert (await admin("POST", ADJUSTMENTS, body | {"amount_nano_usd": -86}, 409))[
        "code"
    ] == "more_than_settled"
    await admin("POST", ADJUSTMENTS, body | {"amount_nano_usd": 0}, 422)
    await admin("POST", ADJUSTMENTS, body | {"reason": ""}, 422)
    await admin("POST", ADJUSTMENTS, body | {"budget_id": str(uuid4())}, 404)
    past = {"moment": "2020-01-01T00:00:00Z"}
    assert (await admin("POST", ADJUSTMENTS, body | past, 409))["code"] == "period_not_found"
    entries = [
        each for each in await bench.emitted("audit.entry.recorded.v1") if each["action"] == "ledger.adjusted"
    ]
    assert [each["reason"] for each in entries] == [body["reason"]] * 2
    await bench.assert_balanced()


async def test_an_attempt_is_reversed_once_in_every_budget_that_bore_it(bench: Bench, admin: Caller) -> None:
    bot = uuid4()
    budgets = [await bench.budget(1_000), await bench.budget(500, scope=Scope.BOT, scope_id=bot)]
    lease = (await bench.lease(300, bot=bot)).lease
    usages = [bench.usage(lease.id, cost=cost, bot=bot) for cost in (40, 60)]
    await bench.record(*usages)
    body = {"attempt_id": str(usages[0].message.attempt_id), "reason": "answered twice"}
    made = await admin("POST", REVERSALS, body, 201)
    assert (made["amount"]["nano_usd"], len(made["period_ids"])) == (-40, 2)
    for budget in budgets:
        assert (await bench.reading(budget)).balances.settled == 60
    assert (await admin("POST", REVERSALS, body, 409))["code"] == "not_reversible"
    free = bench.usage(None, cost=0)
    await bench.record(free)
    await admin("POST", REVERSALS, body | {"attempt_id": str(free.message.attempt_id)}, 409)
    await admin("POST", REVERSALS, body | {"attempt_id": str(uuid4())}, 404)
    # The attempt stays a fact: the same usage again changes nothing.
    await bench.record(usages[0], usages[1])
    assert (await bench.reading(budgets[0])).balances.settled == 60
    await bench.assert_balanced()


async def test_what_has_left_a_rolling_window_is_not_given_back_again(
    bench: Bench, admin: Caller, cloned: ClonedDatabase
) -> None:
    total = await bench.budget(10_000, period=PeriodKind.TOTAL)
    window = await bench.budget(1_000, period=PeriodKind.ROLLING, window_hours=24)
    old = bench.usage(None, cost=400)
    await bench.record(old)
    with psycopg.connect(cloned.admin_url) as connection:
        for table, column in (("period_buckets", "starts_at"), ("transfers", "created_at")):
            connection.execute(f"UPDATE budget.{table} SET {column} = {column} - interval '25 hours'")  # type: ignore[arg-type]  # noqa: S608
    await bench.record(young := bench.usage(None, cost=700))
    made = await admin("POST", REVERSALS, {"attempt_id": str(old.message.attempt_id), "reason": "late"}, 201)
    assert len(made["period_ids"]) == 1
    assert (await bench.reading(total)).balances.settled == 700
    assert (await bench.reading(window)).balances.settled == 700, "all of it was spent within the last day"
    await admin("POST", REVERSALS, {"attempt_id": str(young.message.attempt_id), "reason": "soon"}, 201)
    assert (await bench.reading(window)).balances.settled == 0
    await bench.assert_balanced()


async def test_a_reversal_shows_beside_what_usage_says(bench: Bench, admin: Caller) -> None:
    _, attempt = await spent(bench)
    await admin("POST", REVERSALS, {"attempt_id": str(attempt), "reason": "by mistake"}, 201)
    await bench.assert_balanced()
    found = await admin("GET", "/accounting/reconciliation")
    (row,) = found["items"]
    figures = [row[name]["nano_usd"] for name in ("ledger", "usage", "adjusted", "difference")]
    assert figures == [110, 110, -100, 0]
    assert found["differences"] == 0


async def test_an_adjustment_that_moved_another_amount_than_it_says_is_found(
    bench: Bench, admin: Caller, cloned: ClonedDatabase
) -> None:
    _, attempt = await spent(bench)
    await admin("POST", REVERSALS, {"attempt_id": str(attempt), "reason": "by mistake"}, 201)
    with psycopg.connect(cloned.admin_url) as connection:
        connection.execute(
            "UPDATE budget.transfers SET amount_nano = 99 WHERE kind = 'reversal' AND organisation_id = %s",
            (bench.organisation,),
        )
    rules = {finding.rule for finding in await bench.cases.check_ledger(bench.organisation, full=False)}
    assert "adjusted_once" in rules


async def test_reconciliation_shows_what_usage_and_ledger_disagree_about(bench: Bench, admin: Caller) -> None:
    await spent(bench)
    await bench.execute(
        "UPDATE usage_minutes SET cost_nano = cost_nano + 7 WHERE organisation_id = :organisation",
        organisation=bench.organisation,
    )
    found = await admin("GET", "/accounting/reconciliation")
    assert [row["difference"]["nano_usd"] for row in found["items"]] == [-7]
    assert found["differences"] == 1


async def test_a_csv_export_holds_every_entry_with_its_rate(bench: Bench, admin: Caller) -> None:
    await spent(bench)
    today = datetime.now(UTC).date()
    rates = [
        {
            "currency": "EUR",
            "day": (today - timedelta(days=9)).isoformat(),
            "per_usd": "0.5",
            "source": "ECB",
        },
        {"currency": "EUR", "day": today.isoformat(), "per_usd": "0.9", "source": "ECB"},
        {"currency": "EUR", "day": (today + timedelta(days=9)).isoformat(), "per_usd": "2", "source": "ECB"},
    ]
    await admin("PUT", "/accounting/rates", {"rates": rates})
    assert [row["per_usd"] for row in await admin("GET", "/accounting/rates?currency=EUR")] != []
    text = await download(admin, "format=csv&currency=EUR")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["kind"] for row in rows] == ["adjust", "lease", "post"]
    assert (rows[2]["amount_usd"], rows[2]["rate_day"]) == ("0.000000110", today.isoformat())
    assert Decimal(rows[0]["amount"]) == round(Decimal(rows[0]["amount_usd"]) * Decimal("0.9"), 6)
    accounts = await admin("GET", "/accounting/accounts?currency=EUR")
    assert (accounts["rate"]["day"], accounts["rate"]["source"]) == (today.isoformat(), "ECB")
    assert (await admin("GET", "/accounting/accounts?currency=TRY", None, 409))["code"] == "no_rate"
    exported = [
        each for each in await bench.emitted("audit.entry.recorded.v1") if each["action"] == "ledger.exported"
    ]
    assert len(exported) == 1


async def download(admin: Caller, query: str) -> str:
    answer = await admin.client.get(
        f"/accounting/export?{query}", headers={"Authorization": f"Bearer {admin.credential}"}
    )
    assert answer.status_code == 200
    return answer.text


LEG = re.compile(r"^  (Assets|Equity|Expenses):Kairos:B[0-9A-F]{32}:[A-Z][a-z]+  (-?\d+\.\d{9}) USD$")
HEAD = re.compile(r'^\d{4}-\d\d-\d\d \* "[a-z]+" "[^"]*"$')


async def test_a_beancount_export_balances_and_ends_where_the_accounts_stand(
    bench: Bench, admin: Caller
) -> None:
    budget, attempt = await spent(bench)
    await bench.execute(
        "UPDATE budgets SET name = :name WHERE id = :id",
        id=budget,
        name='A "quoted" one',
    )
    await admin("POST", REVERSALS, {"attempt_id": str(attempt), "reason": "by mistake"}, 201)
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).date()
    whole = await download(admin, "format=beancount")
    late = await download(admin, f"format=beancount&from={tomorrow}&to={tomorrow + timedelta(days=1)}")
    for journal in (whole, late):
        opened = set(re.findall(r"^\d{4}-\d\d-\d\d open (\S+) USD$", journal, re.MULTILINE))
        totals: dict[str, Decimal] = defaultdict(Decimal)
        for block in journal.split("\n\n"):
            legs = [LEG.match(line) for line in block.splitlines() if re.match(r"  [A-Z]", line)]
            if not legs:
                continue
            assert HEAD.match(block.strip().splitlines()[0]), block
            assert all(legs), block
            amounts = [Decimal(leg.group(2)) for leg in legs if leg]
            assert sum(amounts) == 0
            for leg in legs:
                name = leg.group(0).split()[0] if leg else ""
                assert name in opened
                totals[name.rsplit(":", 1)[1]] += Decimal(leg.group(2)) if leg else 0
        held = {name: int(amount * 10**9) for name, amount in totals.items() if amount}
        assert held == {"Available": 700, "Leased": 290, "Settled": 10, "Limit": -1_000}


async def test_rates_that_make_no_sense_are_refused(admin: Caller) -> None:
    good = {"currency": "EUR", "day": "2026-01-01", "per_usd": "0.9", "source": "ECB"}
    for bad in ({"per_usd": "0"}, {"currency": "eur"}, {"currency": "USD"}, {"per_usd": "-1"}):
        await admin("PUT", "/accounting/rates", {"rates": [good | bad]}, 422)
