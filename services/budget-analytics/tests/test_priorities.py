"""Reserves: batch work stops first, customers last."""

from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos_budget.application.define_budget import BudgetChange
from kairos_budget.domain.book import BudgetExceeded
from kairos_budget.domain.budget import Scope
from kairos_budget.domain.priority import Priority, Reserves

from .conftest import CONTEXT, Bench  # noqa: TID252 - tests have no importable package name

BATCH, NORMAL, INTERACTIVE = Priority.BATCH, Priority.NORMAL, Priority.INTERACTIVE


@given(st.integers(0, 100), st.data(), st.integers(0, 10**18))
def test_a_lower_priority_never_has_the_lower_floor(normal: int, data: st.DataObject, limit: int) -> None:
    reserves = Reserves(normal, data.draw(st.integers(0, 100 - normal)))
    floors = [reserves.floor(limit, each) for each in (INTERACTIVE, NORMAL, BATCH)]
    assert floors == sorted(floors)
    assert floors[0] == 0
    assert floors[-1] <= limit
    assert reserves.floor(limit, None) == floors[-1]


@pytest.mark.servers
async def test_batch_stops_first_then_normal_and_customers_get_the_rest(bench: Bench) -> None:
    budget = await bench.budget(1_000, reserves=Reserves(normal=20, interactive=30))
    with pytest.raises(BudgetExceeded) as refusal:
        await bench.lease(501, priority=BATCH)
    assert refusal.value.remaining == 500
    batch = (await bench.lease(500, priority=BATCH)).lease
    assert batch.priority is BATCH
    with pytest.raises(BudgetExceeded):
        await bench.lease(1, priority=BATCH)
    assert (await bench.beat(batch.id, want=100)).granted_more == 0
    await bench.lease(200, priority=NORMAL)
    with pytest.raises(BudgetExceeded):
        await bench.lease(1, priority=NORMAL)
    await bench.lease(300, priority=INTERACTIVE)
    assert (await bench.reading(budget)).balances.available == 0
    await bench.assert_balanced()


@pytest.mark.servers
async def test_a_reserve_of_one_scope_holds_for_the_whole_chain(bench: Bench) -> None:
    bot = uuid4()
    await bench.budget(1_000)
    await bench.budget(100, scope=Scope.BOT, scope_id=bot, reserves=Reserves(interactive=40))
    with pytest.raises(BudgetExceeded):
        await bench.lease(61, bot=bot)
    assert (await bench.lease(60, bot=bot)).lease.priority is NORMAL
    assert (await bench.lease(900)).lease.priority is None


@pytest.mark.servers
async def test_leases_without_a_priority_retire_when_reserves_come(bench: Bench) -> None:
    budget = await bench.budget(1_000)
    lease = (await bench.lease(10)).lease
    change = BudgetChange(reserves=Reserves(interactive=10))
    await bench.cases.change_budget(bench.organisation, budget.id, change, CONTEXT)
    assert (await bench.beat(lease.id)).reason == "budgets_changed"
    index = await bench.cases.readings.scope_index(bench.organisation)
    assert index.scopes == ((Scope.ORGANISATION, bench.organisation, True),)
