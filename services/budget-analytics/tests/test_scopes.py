"""Every kind of scope limits what is spent in it, and nothing else."""

from uuid import uuid4

import pytest

from kairos_budget.domain.book import BudgetExceeded
from kairos_budget.domain.budget import Scope
from kairos_contracts.scopes import model_scope_id

from .conftest import Bench  # noqa: TID252 - tests have no importable package name

pytestmark = pytest.mark.servers
KINDS = (Scope.PROJECT, Scope.TEAM, Scope.BOT, Scope.CONTACT, Scope.API_KEY)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_budget_of_any_kind_limits_leases_and_is_charged(bench: Bench, kind: Scope) -> None:
    limited, other = uuid4(), uuid4()
    budget = await bench.budget(100, scope=kind, scope_id=limited)
    field = f"{kind.value}_id"
    named = {"bot_id": "bot", "project_id": "project"}.get(field, field)
    lease = (await bench.lease(60, **{named: limited})).lease
    with pytest.raises(BudgetExceeded):
        await bench.lease(41, **{named: limited})
    assert (await bench.lease(10**9, **{named: other})).lease.unlimited
    await bench.record(bench.usage(lease.id, cost=25, hold=30, **{named: limited}))
    # Without a lease the same scope is charged all the same; another one of its kind is not.
    await bench.record(
        bench.usage(None, cost=5, **{named: limited}), bench.usage(None, cost=7, **{named: other})
    )
    balances = (await bench.reading(budget)).balances
    assert (balances.settled, balances.leased, balances.available) == (30, 35, 35)
    await bench.assert_balanced()


async def test_a_model_is_limited_by_its_name(bench: Bench) -> None:
    budget = await bench.budget(100, scope=Scope.MODEL, scope_id=model_scope_id("dear-1"))
    lease = (await bench.lease(60, model_id=model_scope_id("dear-1"))).lease
    await bench.record(bench.usage(lease.id, cost=25, hold=30, model="dear-1"))
    await bench.record(bench.usage(None, cost=9, model="cheap-1"))
    assert (await bench.reading(budget)).balances.settled == 25
    await bench.assert_balanced()


async def test_seven_scopes_are_reserved_at_once(bench: Bench) -> None:
    ids = {kind: uuid4() for kind in (*KINDS, Scope.MODEL)}
    budgets = [await bench.budget(1_000)]
    budgets += [await bench.budget(1_000, scope=kind, scope_id=found) for kind, found in ids.items()]
    tightest = await bench.budget(50, scope=Scope.CONTACT, scope_id=ids[Scope.CONTACT])
    chain = {f"{kind.value}_id": found for kind, found in ids.items()}
    bot, project = chain.pop("bot_id"), chain.pop("project_id")
    with pytest.raises(BudgetExceeded) as refusal:
        await bench.lease(51, bot=bot, project=project, **chain)
    assert refusal.value.period.budget.id == tightest.id
    await bench.lease(50, bot=bot, project=project, **chain)
    assert [(await bench.reading(each)).balances.leased for each in (*budgets, tightest)] == [50] * 8
    (listed,), _ = await bench.cases.readings.leases(bench.organisation, bench.part(), state=None)
    assert dict(listed.chain.members()) == ids
