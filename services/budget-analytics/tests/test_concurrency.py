"""Many processes at once against the last cents, on real PostgreSQL."""

import asyncio
import random
from uuid import UUID, uuid4

import pytest

from kairos_budget.application.define_budget import BudgetChange
from kairos_budget.application.renew_leases import Heartbeat
from kairos_budget.domain.book import BudgetExceeded
from kairos_budget.domain.budget import Scope
from kairos_budget.domain.lease import Lease, Report
from kairos_persistence import DatabaseUnavailable

from .conftest import CONTEXT, Bench  # noqa: TID252 - tests have no importable package name

pytestmark = pytest.mark.servers


async def ask(bench: Bench, want: int, need: int, holder: str, bot: UUID | None = None) -> Lease | None:
    """Ask as a router does: again with the same id while the database has no connection or lock to give."""
    lease_id = uuid4()
    async with asyncio.timeout(120):
        while True:
            try:
                granted = await bench.lease(want, need=need, holder=holder, bot=bot, lease_id=lease_id)
            except BudgetExceeded:
                return None
            except DatabaseUnavailable:
                continue
            return granted.lease


async def test_concurrent_leases_grant_exactly_what_is_there(bench: Bench) -> None:
    budget = await bench.budget(100)
    grants = await asyncio.gather(*(ask(bench, 3, 3, f"router-{n}") for n in range(60)))
    granted = [lease.granted for lease in grants if lease]
    assert (len(granted), sum(granted)) == (33, 99)
    balances = (await bench.reading(budget)).balances
    assert (balances.leased, balances.available) == (99, 1)
    await bench.assert_balanced()


async def test_the_first_lease_of_a_period_is_opened_once_by_many(bench: Bench) -> None:
    budgets = [await bench.budget(10_000) for _ in range(4)]
    grants = await asyncio.gather(*(ask(bench, 10, 1, f"router-{n}") for n in range(30)))
    total = sum(lease.granted for lease in grants if lease)
    for budget in budgets:
        assert (await bench.reading(budget)).balances.leased == total
    await bench.assert_balanced()


async def test_crossing_scopes_wait_for_each_other_but_never_in_a_circle(bench: Bench) -> None:
    bots = [uuid4() for _ in range(4)]
    budgets = [await bench.budget(3_000)]
    budgets += [await bench.budget(1_000, scope=Scope.BOT, scope_id=bot) for bot in bots]
    dice = random.Random(7)

    async def router(number: int) -> int:
        settled = 0
        for _ in range(6):
            bot = dice.choice(bots)
            lease = await ask(bench, 60, 1, f"router-{number}", bot)
            if lease is None:
                continue
            cost = dice.randint(0, lease.granted)
            usage = bench.usage(lease.id, cost=cost, hold=lease.granted, bot=bot)
            beat = Heartbeat(lease.id, 1, Report(unsettled=lease.granted), want_more=5)
            # The same event twice at once: two replicas may hold the same redelivery.
            await asyncio.gather(
                bench.record(usage),
                bench.record(usage, bench.usage(None, cost=0, bot=bot)),
                bench.cases.renew_leases(lease.holder, [beat]),
            )
            await bench.cases.close_lease(lease.id, epoch=1, settled=cost)
            settled += cost
        return settled

    spent = await asyncio.gather(*(router(n) for n in range(12)))
    balances = (await bench.reading(budgets[0])).balances
    assert (balances.settled, balances.leased, balances.suspense) == (sum(spent), 0, 0)
    for budget in budgets:
        found = (await bench.reading(budget)).balances
        assert found.committed <= found.limit
    await bench.assert_balanced()


async def test_a_limit_that_changes_under_traffic_is_never_passed_by_a_new_lease(bench: Bench) -> None:
    budget = await bench.budget(1_000)

    async def change(limit: int) -> None:
        wish = BudgetChange(limit_nano=limit)
        await bench.cases.change_budget(bench.organisation, budget.id, wish, CONTEXT)

    await asyncio.gather(
        *(ask(bench, 40, 40, f"router-{n}") for n in range(40)),
        *(change(limit) for limit in (500, 900, 300, 700)),
    )
    balances = (await bench.reading(budget)).balances
    # The guard in the database has refused any lease that would have gone past the limit of its moment.
    assert balances.overspend == 0
    assert balances.excess == max(balances.committed - balances.limit, 0)
    await bench.assert_balanced()


async def test_sweepers_of_two_replicas_suspend_each_lease_once(bench: Bench) -> None:
    budget = await bench.budget(10_000)
    leases = [(await bench.lease(10)).lease for _ in range(30)]
    await bench.execute(
        "UPDATE leases SET suspend_after = clock_timestamp() WHERE id = ANY(CAST(:ids AS uuid[]))",
        ids=[lease.id for lease in leases],
    )
    await asyncio.gather(*(bench.cases.suspend_silent_leases() for _ in range(4)))
    await bench.cases.suspend_silent_leases()
    assert (await bench.reading(budget)).balances.suspense == 300
    assert len(await bench.emitted("budget.lease.suspended.v1")) == 30
    await bench.assert_balanced()
