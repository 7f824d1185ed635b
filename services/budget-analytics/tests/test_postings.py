"""Attempts are moved together and still each exactly once, on real PostgreSQL."""

import asyncio
import random
from uuid import uuid4

import pytest

from kairos_budget.application.ports import Usage
from kairos_budget.domain.budget import Scope
from kairos_persistence import DatabaseUnavailable

from .conftest import Bench  # noqa: TID252 - tests have no importable package name

pytestmark = pytest.mark.servers


async def transfers(bench: Bench, kind: str) -> int:
    query = "SELECT count(*) FROM transfers WHERE organisation_id = :organisation AND kind = :kind"
    return int(await bench.scalar(query, organisation=bench.organisation, kind=kind))


async def test_many_attempts_of_a_lease_are_one_transfer_per_budget(bench: Bench) -> None:
    bot = uuid4()
    budgets = [await bench.budget(10_000), await bench.budget(10_000, scope=Scope.BOT, scope_id=bot)]
    lease = (await bench.lease(5_000, bot=bot)).lease
    usages = [bench.usage(lease.id, cost=n, bot=bot) for n in range(1, 100)]
    await bench.record(*usages)
    assert await transfers(bench, "post") == 2
    for budget in budgets:
        assert (await bench.reading(budget)).balances.settled == 4_950
    found, _ = await bench.cases.readings.transfers(
        bench.organisation,
        bench.part(),
        budget_id=None,
        lease_id=None,
        attempt_id=usages[7].message.attempt_id,
    )
    assert [(each.kind, each.amount_nano) for each in found] == [("post", 4_950)] * 2
    await bench.assert_balanced()


@pytest.mark.parametrize("leased", [True, False])
async def test_the_same_attempts_reported_by_many_messages_at_once_are_charged_once(
    bench: Bench, leased: bool
) -> None:
    budget = await bench.budget(1_000_000)
    lease_id = (await bench.lease(500_000)).lease.id if leased else None
    messages = [bench.usage(lease_id, cost=10 + n).message for n in range(60)]
    dice = random.Random(11)

    async def process() -> None:
        mine = [Usage(uuid4(), bench.organisation, each, None) for each in dice.sample(messages, 45)]
        async with asyncio.timeout(120):
            while True:
                try:
                    await bench.record(*mine)
                except DatabaseUnavailable:
                    continue
                return

    await asyncio.gather(*(process() for _ in range(8)))
    await bench.record(*(Usage(uuid4(), bench.organisation, each, None) for each in messages))
    assert (await bench.reading(budget)).balances.settled == sum(each.cost_nano_usd for each in messages)
    counted = "SELECT sum(attempts) FROM usage_days WHERE organisation_id = :organisation"
    assert await bench.scalar(counted, organisation=bench.organisation) == len(messages)
    await bench.assert_balanced()


async def test_an_attempt_unknown_and_settled_in_one_batch_costs_what_it_cost(bench: Bench) -> None:
    budget = await bench.budget(1_000)
    lease = (await bench.lease(500)).lease
    attempt = uuid4()
    await bench.record(
        bench.usage(lease.id, hold=100, outcome="unknown", attempt=attempt),
        bench.usage(lease.id, cost=7),
        bench.usage(lease.id, hold=100, cost=30, attempt=attempt),
        bench.usage(lease.id, hold=100, cost=99, attempt=attempt),
    )
    balances = (await bench.reading(budget)).balances
    assert (balances.settled, balances.suspense) == (37, 0)
    await bench.assert_balanced()


async def test_attempts_beyond_the_room_are_counted_one_by_one_though_moved_together(bench: Bench) -> None:
    budget = await bench.budget(100)
    await bench.record(*(bench.usage(None, cost=40) for _ in range(4)))
    balances = (await bench.reading(budget)).balances
    assert (balances.settled, balances.excess, balances.overspend) == (160, 60, 60)
    await bench.assert_balanced()
