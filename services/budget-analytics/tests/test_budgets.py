"""Definitions of budgets and what changing them does, on real PostgreSQL."""

import pytest

from kairos_budget.application.define_budget import BudgetChange, BudgetClosed, UnknownBudget
from kairos_budget.domain.book import BudgetExceeded
from kairos_budget.domain.budget import Scope
from kairos_budget.domain.calendar import PeriodKind

from .conftest import CONTEXT, Bench  # noqa: TID252 - tests have no importable package name

pytestmark = pytest.mark.servers


async def change(bench: Bench, budget_id: object, limit: int) -> None:
    wish = BudgetChange(limit_nano=limit)
    await bench.cases.change_budget(bench.organisation, budget_id, wish, CONTEXT)  # type: ignore[arg-type]  # id


async def test_an_unused_budget_shows_its_whole_limit(bench: Bench) -> None:
    for period in PeriodKind:
        window = 24 if period is PeriodKind.ROLLING else None
        budget = await bench.budget(1_000, period=period, window_hours=window)
        reading = await bench.reading(budget)
        assert (reading.balances.available, reading.balances.committed) == (1_000, 0)
        assert (reading.bounds.ends_at is None) == (period in {PeriodKind.TOTAL, PeriodKind.ROLLING})


async def test_a_limit_below_what_is_used_stops_new_leases_and_takes_nothing_back(bench: Bench) -> None:
    budget = await bench.budget(1_000)
    lease = (await bench.lease(600)).lease
    await change(bench, budget.id, 400)
    balances = (await bench.reading(budget)).balances
    assert (balances.limit, balances.leased, balances.excess, balances.available) == (400, 600, 200, 0)
    with pytest.raises(BudgetExceeded):
        await bench.lease(1)
    await bench.record(bench.usage(lease.id, cost=350, hold=600))
    await bench.cases.close_lease(lease.id, epoch=1, settled=350)
    balances = (await bench.reading(budget)).balances
    assert (balances.settled, balances.excess, balances.available, balances.overspend) == (350, 0, 50, 0)
    assert (await bench.lease(50)).lease.granted == 50
    await bench.assert_balanced()


async def test_a_raised_limit_counts_at_once(bench: Bench) -> None:
    budget = await bench.budget(100)
    await bench.lease(100)
    with pytest.raises(BudgetExceeded):
        await bench.lease(50)
    await change(bench, budget.id, 150)
    assert (await bench.lease(50)).lease.granted == 50
    await change(bench, budget.id, 150)
    await bench.assert_balanced()


async def test_a_limit_of_nothing_refuses_everything(bench: Bench) -> None:
    budget = await bench.budget(0)
    with pytest.raises(BudgetExceeded):
        await bench.lease(1)
    await change(bench, budget.id, 10)
    assert (await bench.lease(10)).lease.granted == 10
    await bench.assert_balanced()


async def test_several_budgets_of_one_scope_apply_at_once(bench: Bench) -> None:
    monthly = await bench.budget(1_000)
    daily = await bench.budget(100, period=PeriodKind.DAY)
    assert (await bench.lease(1_000, need=1)).lease.granted == 50
    for budget in (monthly, daily):
        assert (await bench.reading(budget)).balances.leased == 50


async def test_a_closed_budget_no_longer_limits_and_stays_readable(bench: Bench) -> None:
    budget = await bench.budget(100)
    lease = (await bench.lease(100)).lease
    await bench.cases.close_budget(bench.organisation, budget.id, CONTEXT)
    assert (await bench.lease(10_000)).lease.unlimited
    await bench.record(bench.usage(lease.id, cost=60))
    assert (await bench.reading(budget)).balances.settled == 60
    with pytest.raises(BudgetClosed):
        await change(bench, budget.id, 5)
    with pytest.raises(BudgetClosed):
        await bench.cases.close_budget(bench.organisation, budget.id, CONTEXT)
    await bench.assert_balanced()


async def test_every_change_is_published_and_audited(bench: Bench) -> None:
    budget = await bench.budget(100, scope=Scope.ORGANISATION)
    await change(bench, budget.id, 200)
    await bench.cases.close_budget(bench.organisation, budget.id, CONTEXT)
    events = await bench.emitted("budget.definition.changed.v1")
    assert [(e["limit_nano_usd"], e["active"]) for e in events] == [(100, True), (200, True), (200, False)]
    entries = await bench.emitted("audit.entry.recorded.v1")
    assert [e["action"] for e in entries] == ["budget.created", "budget.updated", "budget.closed"]
    assert entries[1]["before"]["limit_nano_usd"] == 100
    assert entries[1]["after"]["limit_nano_usd"] == 200


async def test_a_budget_of_another_tenant_does_not_exist(bench: Bench) -> None:
    budget = await bench.budget(100)
    stranger = Bench(bench.database, bench.cases)
    assert await bench.cases.readings.budget(stranger.organisation, budget.id) is None
    with pytest.raises(UnknownBudget):
        await change(stranger, budget.id, 5)
    assert (await bench.reading(budget)).balances.limit == 100


async def test_lists_go_on_where_the_last_page_ended(bench: Bench) -> None:
    made = [await bench.budget(n + 1) for n in range(5)]
    await bench.cases.close_budget(bench.organisation, made[0].id, CONTEXT)
    seen, after = [], None
    while True:
        rows, after = await bench.cases.readings.budgets(
            bench.organisation, bench.part(2, after), active=None, scope=None
        )
        seen += [row.budget.id for row in rows]
        if after is None:
            break
    assert seen == [budget.id for budget in reversed(made)]
    active, _ = await bench.cases.readings.budgets(
        bench.organisation, bench.part(), active=True, scope="organisation"
    )
    assert len(active) == 4
