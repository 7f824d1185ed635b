"""Money that lies unused with holders comes back when it is missed."""

from datetime import timedelta
from uuid import uuid4

import pytest

from kairos_budget.application.define_budget import BudgetChange
from kairos_budget.application.renew_leases import Heartbeat
from kairos_budget.domain.book import BudgetExceeded
from kairos_budget.domain.lease import LeaseState, OpenHold, Report

from .conftest import CONTEXT, Bench  # noqa: TID252 - tests have no importable package name

pytestmark = pytest.mark.servers


async def test_a_refusal_makes_others_give_back_what_they_do_not_use(bench: Bench) -> None:
    budget = await bench.budget(1_000)
    first = (await bench.lease(600, holder="router-1")).lease
    second = (await bench.lease(300, holder="router-2")).lease
    assert (await bench.beat(first.id, unsettled=50)).keep is None
    with pytest.raises(BudgetExceeded):
        await bench.lease(200, holder="router-3")
    # Its holders are told at their next heartbeat, whoever they are, and nobody is topped up meanwhile.
    told = await bench.beat(first.id, unsettled=50, settled=20, want=500)
    assert (told.keep, told.granted_more) == (0, 0)
    assert (await bench.beat(second.id, holder="router-2", unsettled=300)).keep == 0
    await bench.beat(first.id, unsettled=50, settled=20, returned=530)
    balances = (await bench.reading(budget)).balances
    assert (balances.leased, balances.available) == (370, 630)
    # While money is missed a lease is no larger than what is needed.
    assert (await bench.lease(10_000, need=200, holder="router-3")).lease.granted == 200
    await bench.assert_balanced()


async def test_giving_back_is_counted_once_however_often_it_is_told(bench: Bench) -> None:
    budget = await bench.budget(1_000)
    lease = (await bench.lease(600)).lease
    for returned in (100, 100, 250, 100):
        await bench.beat(lease.id, returned=returned)
    balances = (await bench.reading(budget)).balances
    assert (balances.leased, balances.available) == (350, 650)
    # What it spent out of the rest still settles, and closing returns the rest of the rest.
    await bench.record(bench.usage(lease.id, cost=150, hold=200))
    closed = await bench.cases.close_lease(lease.id, epoch=1, settled=150)
    assert (closed.returned, closed.lease.state) == (200, LeaseState.CLOSED)
    await bench.assert_balanced()


async def test_a_refusal_that_no_unused_money_could_serve_recalls_nothing(bench: Bench) -> None:
    await bench.budget(1_000)
    lease = (await bench.lease(600)).lease
    with pytest.raises(BudgetExceeded):
        await bench.lease(5_000, holder="router-2")
    renewal = await bench.beat(lease.id, want=100)
    assert (renewal.keep, renewal.granted_more) == (None, 100)


async def test_a_lowered_limit_recalls_at_once(bench: Bench) -> None:
    budget = await bench.budget(1_000)
    lease = (await bench.lease(600)).lease
    change = BudgetChange(limit_nano=100)
    await bench.cases.change_budget(bench.organisation, budget.id, change, CONTEXT)
    assert (await bench.beat(lease.id, unsettled=40)).keep == 0
    await bench.beat(lease.id, unsettled=40, returned=560)
    balances = (await bench.reading(budget)).balances
    assert (balances.leased, balances.excess, balances.available) == (40, 0, 60)
    await bench.assert_balanced()


async def test_where_money_is_scarce_holders_keep_a_fair_share(bench: Bench) -> None:
    await bench.budget(1_000)
    first = (await bench.lease(700, holder="router-1")).lease
    await bench.lease(270, holder="router-2")
    renewal = await bench.beat(first.id, unsettled=100)
    assert renewal.keep == (30 + 600) // 4
    # A lease of about its share is left alone, so that leases do not shrink and grow in turns.
    assert (await bench.beat(first.id, unsettled=100, returned=440)).keep is None


async def test_at_exhaustion_one_heartbeat_of_each_holder_frees_all_that_no_hold_keeps(bench: Bench) -> None:
    """What is refused after that round does not fit beside what is settled and held."""
    budget = await bench.budget(1_000)
    holders = [
        (f"router-{number}", (await bench.lease(190, holder=f"router-{number}")).lease) for number in range(5)
    ]
    with pytest.raises(BudgetExceeded):
        await bench.lease(100, holder="router-9")
    open_hold, spent = 60, 30
    for _ in range(2):
        for holder, lease in holders:
            renewal = await bench.beat(
                lease.id,
                holder=holder,
                unsettled=open_hold,
                settled=spent,
                returned=lease.granted - open_hold - spent,
            )
            assert renewal.keep is None or renewal.keep == 0
    free = 1_000 - 5 * (open_hold + spent)
    assert (await bench.reading(budget)).balances.available == free
    assert (await bench.lease(free, holder="router-9")).lease.granted == free
    await bench.assert_balanced()


async def test_long_open_holds_of_every_router_are_listed(bench: Bench) -> None:
    await bench.budget(1_000)
    leases = {holder: (await bench.lease(100, holder=holder)).lease for holder in ("router-1", "router-2")}
    now = await bench.scalar("SELECT clock_timestamp()")
    attempts = {holder: uuid4() for holder in leases}
    for holder, lease in leases.items():
        hold = OpenHold(attempts[holder], 40, now - timedelta(seconds=90), "dear-1")
        beats = [Heartbeat(lease.id, 1, Report(unsettled=40, holds=(hold,)))]
        await bench.cases.renew_leases(holder, beats)
    listed, _ = await bench.cases.readings.open_holds(bench.organisation, bench.part())
    assert {(each.holder, each.attempt_id, each.amount_nano, each.model) for each in listed} == {
        (holder, attempt, 40, "dear-1") for holder, attempt in attempts.items()
    }
    assert all(each.expires_at > now > each.since for each in listed)
    # A silent holder's holds stay visible in suspense; one that reports none has none.
    await bench.silence(leases["router-1"].id)
    await bench.beat(leases["router-2"].id, holder="router-2")
    (kept,), _ = await bench.cases.readings.open_holds(bench.organisation, bench.part())
    assert (kept.holder, kept.lease_state) == ("router-1", "suspended")
