"""Every kind of scope limits what is spent in it, and nothing else."""

from uuid import uuid4

import pytest

from kairos_budget.application.define_budget import BudgetChange
from kairos_budget.domain.book import BudgetExceeded
from kairos_budget.domain.budget import Scope, ScopeChain
from kairos_budget.domain.lease import UnknownLease
from kairos_contracts.scopes import model_scope_id

from .conftest import CONTEXT, Bench  # noqa: TID252 - tests have no importable package name

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


async def test_a_lease_is_for_the_scopes_that_have_a_budget(bench: Bench) -> None:
    contact, other = uuid4(), uuid4()
    await bench.budget(1_000, scope=Scope.CONTACT, scope_id=contact)
    limited = (await bench.lease(10, bot=uuid4(), contact_id=contact)).lease
    assert limited.chain == ScopeChain(bench.organisation, contact_id=contact)
    free = (await bench.lease(10, bot=uuid4(), contact_id=other)).lease
    assert free.chain == ScopeChain(bench.organisation)
    # The same lease serves whoever has no budget of his own, and nobody else.
    again = await bench.lease(10, lease_id=free.id, bot=uuid4(), contact_id=other)
    assert again.lease.id == free.id
    with pytest.raises(UnknownLease):
        await bench.lease(10, lease_id=limited.id, contact_id=other)


async def test_the_index_names_scopes_with_a_budget_and_changes_its_version_with_them(bench: Bench) -> None:
    readings, team = bench.cases.readings, uuid4()
    assert (await readings.scope_index(bench.organisation)).version == 0
    budget = await bench.budget(1_000, scope=Scope.TEAM, scope_id=team)
    first = await readings.scope_index(bench.organisation)
    assert first.scopes == ((Scope.TEAM, team, False),)
    await bench.cases.change_budget(bench.organisation, budget.id, BudgetChange(limit_nano=5), CONTEXT)
    assert await readings.scope_index(bench.organisation) == first
    await bench.cases.close_budget(bench.organisation, budget.id, CONTEXT)
    last = await readings.scope_index(bench.organisation)
    assert (last.scopes, last.version > first.version) == ((), True)


async def test_a_lease_that_became_too_narrow_retires_although_its_own_budgets_are_the_same(
    bench: Bench,
) -> None:
    """The race: a contact gets a budget while a router spends for him from a lease that knows no contacts."""
    await bench.budget(1_000)
    contact = uuid4()
    wide = (await bench.lease(10, contact_id=contact)).lease
    assert wide.chain.contact_id is None
    made = await bench.budget(100, scope=Scope.CONTACT, scope_id=contact)
    narrow = (await bench.lease(10, contact_id=contact)).lease
    assert narrow.chain.contact_id == contact
    assert (await bench.beat(wide.id)).reason == "budgets_changed"
    assert (await bench.beat(narrow.id)).status == "ok"
    # What was spent from the lease meanwhile is charged to the contact all the same.
    await bench.record(bench.usage(wide.id, cost=5, contact_id=contact, started_at=made.created_at))
    assert (await bench.reading(made)).balances.settled == 5
    # A budget of another contact does not concern a lease that names its contact.
    await bench.budget(100, scope=Scope.CONTACT, scope_id=uuid4())
    assert (await bench.beat(narrow.id)).status == "ok"
    await bench.assert_balanced()
