"""What router processes may do with money, on real PostgreSQL."""

from datetime import timedelta
from uuid import uuid4

import pytest

from kairos_budget.application.renew_leases import Heartbeat
from kairos_budget.domain.book import BudgetExceeded
from kairos_budget.domain.budget import Scope
from kairos_budget.domain.calendar import PeriodKind
from kairos_budget.domain.lease import LeaseState, NothingSuspended, Report, StaleEpoch, UnknownLease

from .conftest import CONTEXT, Bench  # noqa: TID252 - tests have no importable package name

pytestmark = pytest.mark.servers


async def test_a_lease_reserves_money_and_usage_settles_it(bench: Bench) -> None:
    budget = await bench.budget(1_000)
    granted = await bench.lease(600)
    assert granted.lease.granted == 600
    assert 14_000 < granted.expires_in_ms <= 15_000
    await bench.record(bench.usage(granted.lease.id, cost=150, hold=200))
    balances = (await bench.reading(budget)).balances
    assert (balances.leased, balances.settled, balances.available) == (450, 150, 400)
    closed = await bench.cases.close_lease(granted.lease.id, epoch=1, settled=150)
    assert (closed.returned, closed.owed, closed.lease.state) == (450, 0, LeaseState.CLOSED)
    assert (await bench.reading(budget)).balances.available == 850
    await bench.assert_balanced()


async def test_all_scopes_are_reserved_or_none(bench: Bench) -> None:
    bot, project = uuid4(), uuid4()
    wide = await bench.budget(1_000)
    middle = await bench.budget(500, scope=Scope.PROJECT, scope_id=project)
    narrow = await bench.budget(100, scope=Scope.BOT, scope_id=bot)
    with pytest.raises(BudgetExceeded) as refusal:
        await bench.lease(101, bot=bot, project=project)
    assert refusal.value.period.budget.id == narrow.id
    assert refusal.value.period.balances.available == 100
    assert (await bench.reading(wide)).balances.leased == 0
    await bench.lease(100, bot=bot, project=project)
    for budget in (wide, middle, narrow):
        assert (await bench.reading(budget)).balances.leased == 100
    await bench.lease(400, project=project)
    with pytest.raises(BudgetExceeded):
        await bench.lease(1, project=project)
    await bench.lease(500)
    await bench.assert_balanced()


async def test_slices_shrink_towards_the_end_and_the_last_money_is_still_to_be_had(bench: Bench) -> None:
    budget = await bench.budget(1_000)
    grants = [(await bench.lease(1_000, need=1, holder=f"router-{n}")).lease.granted for n in range(6)]
    assert grants == [500, 125, 62, 39, 27, 20]
    left = 1_000 - sum(grants)
    assert (await bench.lease(left, need=left, holder="last")).lease.granted == left
    assert (await bench.reading(budget)).balances.available == 0
    with pytest.raises(BudgetExceeded):
        await bench.lease(1)
    assert (await bench.reading(budget)).balances.leased == 1_000


async def test_without_a_budget_a_lease_is_unlimited_and_its_usage_is_spend(bench: Bench) -> None:
    granted = await bench.lease(10**15)
    assert granted.lease.unlimited
    await bench.record(bench.usage(granted.lease.id, cost=7))
    closed = await bench.cases.close_lease(granted.lease.id, epoch=1, settled=7)
    assert closed.lease.state is LeaseState.CLOSED
    await bench.assert_balanced()


async def test_asking_again_with_the_same_id_grants_once(bench: Bench) -> None:
    budget = await bench.budget(1_000)
    wished = uuid4()
    first = await bench.lease(100, lease_id=wished)
    again = await bench.lease(100, lease_id=wished)
    assert again.lease.id == first.lease.id == wished
    assert (await bench.reading(budget)).balances.leased == 100
    with pytest.raises(UnknownLease):
        await bench.lease(100, lease_id=wished, holder="somebody else")
    await bench.cases.close_lease(wished, epoch=1, settled=0)
    with pytest.raises(UnknownLease):
        await bench.lease(100, lease_id=wished)


async def test_a_heartbeat_keeps_a_lease_and_tops_it_up(bench: Bench) -> None:
    budget = await bench.budget(1_000)
    lease = (await bench.lease(100)).lease
    renewal = await bench.beat(lease.id, want=5_000)
    assert (renewal.status, renewal.granted_more) == ("ok", 450)
    assert 14_000 < renewal.expires_in_ms <= 15_000
    assert (await bench.reading(budget)).balances.leased == 550
    assert (await bench.beat(lease.id, holder="thief")).status == "unknown"
    assert (await bench.beat(uuid4())).status == "unknown"
    stale = await bench.beat(lease.id, epoch=9)
    assert (stale.status, stale.reason) == ("expired", "stale_epoch")
    await bench.assert_balanced()


async def test_a_heartbeat_of_many_leases_answers_each(bench: Bench) -> None:
    await bench.budget(1_000)
    leases = [(await bench.lease(10)).lease for _ in range(5)]
    beats = [Heartbeat(each.id, 1, Report(), want_more=10) for each in leases]
    renewals = await bench.cases.renew_leases("router-1", beats)
    assert [each.lease_id for each in renewals] == [each.id for each in leases]
    assert sum(each.granted_more for each in renewals) == 50
    assert await bench.cases.renew_leases("router-1", []) == []


async def test_what_is_reported_but_not_yet_charged_stays_reserved_until_it_arrives(bench: Bench) -> None:
    budget = await bench.budget(1_000)
    lease = (await bench.lease(500)).lease
    closed = await bench.cases.close_lease(lease.id, epoch=1, settled=120)
    assert (closed.returned, closed.owed, closed.lease.state) == (380, 120, LeaseState.CLOSING)
    await bench.record(bench.usage(lease.id, cost=50))
    assert (await bench.reading(budget)).balances.leased == 70
    await bench.record(bench.usage(lease.id, cost=70))
    balances = (await bench.reading(budget)).balances
    assert (balances.leased, balances.settled, balances.available) == (0, 120, 880)
    repeated = await bench.cases.close_lease(lease.id, epoch=1, settled=0)
    assert (repeated.returned, repeated.lease.state) == (0, LeaseState.CLOSED)
    await bench.assert_balanced()


async def test_the_rest_of_a_silent_holder_counts_as_spent_until_its_usage_arrives(bench: Bench) -> None:
    budget = await bench.budget(1_000)
    lease = (await bench.lease(500)).lease
    await bench.record(bench.usage(lease.id, cost=100, hold=150))
    await bench.silence(lease.id)
    assert (await bench.beat(lease.id)).reason == "suspended"
    balances = (await bench.reading(budget)).balances
    assert (balances.settled, balances.suspense, balances.leased) == (100, 400, 0)
    (event,) = await bench.emitted("budget.lease.suspended.v1")
    assert (event["suspense_nano_usd"], event["holder"]) == (400, "router-1")
    await bench.record(bench.usage(lease.id, cost=30, hold=80))
    balances = (await bench.reading(budget)).balances
    assert (balances.settled, balances.suspense, balances.available) == (130, 370, 500)
    await bench.assert_balanced()


async def test_a_holder_that_wakes_up_may_still_close_its_suspended_lease(bench: Bench) -> None:
    budget = await bench.budget(1_000)
    lease = (await bench.lease(500)).lease
    await bench.silence(lease.id)
    closed = await bench.cases.close_lease(lease.id, epoch=1, settled=40)
    assert (closed.returned, closed.owed, closed.lease.state) == (460, 40, LeaseState.SUSPENDED)
    await bench.record(bench.usage(lease.id, cost=40))
    balances = (await bench.reading(budget)).balances
    assert (balances.settled, balances.suspense, balances.available) == (40, 0, 960)
    await bench.assert_balanced()


async def test_usage_that_never_comes_after_a_close_ends_in_suspense(bench: Bench) -> None:
    budget = await bench.budget(1_000)
    lease = (await bench.lease(500)).lease
    await bench.cases.close_lease(lease.id, epoch=1, settled=40)
    await bench.silence(lease.id)
    assert (await bench.reading(budget)).balances.suspense == 40
    await bench.record(bench.usage(lease.id, cost=40))
    assert (await bench.reading(budget)).balances.suspense == 0
    await bench.assert_balanced()


async def test_released_suspense_is_available_again_and_audited(bench: Bench) -> None:
    budget = await bench.budget(1_000)
    lease = (await bench.lease(500)).lease
    await bench.record(bench.usage(lease.id, hold=60, outcome="unknown"))
    await bench.silence(lease.id)
    page, _ = await bench.cases.readings.suspense(bench.organisation, bench.part())
    assert [(row.unreported_nano, row.unknown_nano) for row in page] == [(440, 60)]
    release = bench.cases.release_suspense
    released = await release(
        bench.organisation, lease.id, include_unknown=False, reason="lost power", context=CONTEXT
    )
    assert (released.unreported, released.unknown) == (440, 0)
    assert (await bench.reading(budget)).balances.suspense == 60
    with pytest.raises(StaleEpoch):
        await bench.cases.close_lease(lease.id, epoch=1, settled=0)
    released = await release(
        bench.organisation, lease.id, include_unknown=True, reason="provider says no", context=CONTEXT
    )
    assert (released.unreported, released.unknown) == (0, 60)
    assert (await bench.reading(budget)).balances.available == 1_000
    with pytest.raises(NothingSuspended):
        await release(bench.organisation, lease.id, include_unknown=True, reason="again", context=CONTEXT)
    entries = await bench.emitted("audit.entry.recorded.v1")
    assert [e["reason"] for e in entries if e["action"] == "suspense.released"] == [
        "lost power",
        "provider says no",
    ]
    await bench.assert_balanced()


async def test_at_the_end_of_a_period_a_lease_retires_and_the_next_period_is_untouched(bench: Bench) -> None:
    budget = await bench.budget(1_000, period=PeriodKind.DAY)
    lease = (await bench.lease(400)).lease
    await bench.move_periods(budget, -timedelta(days=1))
    renewal = await bench.beat(lease.id, want=100)
    assert (renewal.status, renewal.reason, renewal.granted_more) == ("expired", "period_ended", 0)
    assert (await bench.lease(1_000, need=1_000)).lease.granted == 1_000
    # Yesterday's holds still settle, into yesterday.
    await bench.record(bench.usage(lease.id, cost=100))
    closed = await bench.cases.close_lease(lease.id, epoch=1, settled=100)
    assert closed.returned == 300
    today = (await bench.reading(budget)).balances
    assert (today.settled, today.leased) == (0, 1_000)
    await bench.assert_balanced()


async def test_a_lease_never_outlives_its_period(bench: Bench) -> None:
    budget = await bench.budget(1_000, period=PeriodKind.DAY)
    await bench.lease(1)
    await bench.end_period_in(budget, timedelta(seconds=3))
    granted = await bench.lease(10)
    assert 0 < granted.expires_in_ms <= 3_000


async def test_a_new_budget_retires_the_leases_that_do_not_know_it(bench: Bench) -> None:
    lease = (await bench.lease(400)).lease
    assert (await bench.beat(lease.id)).status == "ok"
    budget = await bench.budget(1_000)
    assert (await bench.beat(lease.id)).reason == "budgets_changed"
    await bench.cases.close_budget(bench.organisation, budget.id, CONTEXT)
    assert (await bench.beat(lease.id)).status == "ok"


async def test_a_lease_of_nobody_can_not_be_closed_or_released(bench: Bench) -> None:
    with pytest.raises(UnknownLease):
        await bench.cases.close_lease(uuid4(), epoch=1, settled=0)
    with pytest.raises(UnknownLease):
        await bench.cases.release_suspense(
            bench.organisation, uuid4(), include_unknown=False, reason="none", context=CONTEXT
        )
