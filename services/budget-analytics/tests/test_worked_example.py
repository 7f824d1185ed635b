"""The table of docs/money.md, step by step, on real PostgreSQL."""

from uuid import uuid4

import pytest

from kairos_budget.application.reconcile_attempts import ProviderRecord
from kairos_budget.domain.book import BudgetExceeded
from kairos_budget.domain.budget import Scope
from kairos_budget.domain.calendar import PeriodKind
from kairos_budget.domain.priority import Priority, Reserves

from .conftest import CONTEXT, Bench  # noqa: TID252 - tests have no importable package name

pytestmark = pytest.mark.servers

CENT = 10_000_000


async def test_the_worked_example_of_the_money_page(bench: Bench) -> None:
    bot, attempts = uuid4(), [uuid4() for _ in range(3)]
    wide = await bench.budget(1_000 * CENT)
    narrow = await bench.budget(100 * CENT, scope=Scope.BOT, scope_id=bot, period=PeriodKind.DAY)

    async def shows(available: int, bots: int, leased: int, settled: int, suspense: int) -> None:
        for budget, left in ((wide, available), (narrow, bots)):
            found = (await bench.reading(budget)).balances
            assert (found.available, found.leased, found.settled, found.suspense) == tuple(
                cents * CENT for cents in (left, leased, settled, suspense)
            )
        await bench.assert_balanced()

    await shows(1_000, 100, 0, 0, 0)
    lease = (await bench.lease(80 * CENT, need=CENT, holder="A", bot=bot)).lease
    await shows(950, 50, 50, 0, 0)
    hold = 10 * CENT
    await bench.record(bench.usage(lease.id, cost=4 * CENT, hold=hold, attempt=attempts[0], bot=bot))
    await shows(950, 50, 46, 4, 0)
    await bench.record(bench.usage(lease.id, hold=hold, outcome="unknown", attempt=attempts[1], bot=bot))
    await shows(950, 50, 36, 4, 10)
    await bench.silence(lease.id)
    await shows(950, 50, 0, 4, 46)
    await bench.record(bench.usage(lease.id, cost=7 * CENT, hold=hold, attempt=attempts[2], bot=bot))
    await shows(950, 50, 0, 11, 39)
    with pytest.raises(BudgetExceeded) as refusal:
        await bench.lease(60 * CENT, holder="B", bot=bot)
    assert refusal.value.period.budget.id == narrow.id
    await bench.cases.reconcile_attempts(
        bench.organisation,
        [ProviderRecord(attempts[1], cost=6 * CENT)],
        complete_leases=[lease.id],
        context=CONTEXT,
    )
    await shows(983, 83, 0, 17, 0)
    await bench.lease(60 * CENT, holder="B", bot=bot)
    await shows(923, 23, 60, 17, 0)


async def test_the_last_dollars_of_the_money_page(bench: Bench) -> None:
    budget = await bench.budget(1_000 * CENT, reserves=Reserves(interactive=20))
    four = 400 * CENT

    async def shows(available: int, leased: int) -> None:
        found = (await bench.reading(budget)).balances
        assert (found.available, found.leased) == (available * CENT, leased * CENT)
        await bench.assert_balanced()

    first = (await bench.lease(four, need=CENT, holder="A")).lease
    await shows(600, 400)
    await bench.lease(four, need=CENT, holder="B")
    await shows(500, 500)
    with pytest.raises(BudgetExceeded) as refusal:
        await bench.lease(four, need=350 * CENT, holder="B")
    assert refusal.value.remaining == 300 * CENT
    await shows(500, 500)
    assert (await bench.beat(first.id, holder="A", unsettled=50 * CENT)).keep == 0
    await bench.beat(first.id, holder="A", unsettled=50 * CENT, returned=350 * CENT)
    await shows(850, 150)
    await bench.lease(four, need=350 * CENT, holder="B")
    await shows(500, 500)
    with pytest.raises(BudgetExceeded):
        await bench.lease(350 * CENT, holder="B", priority=Priority.BATCH)
    await shows(500, 500)
    await bench.lease(500 * CENT, holder="A", priority=Priority.INTERACTIVE)
    await shows(0, 1_000)
