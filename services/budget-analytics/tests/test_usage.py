"""Usage events settle holds, whatever order and however often they come, on real PostgreSQL."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from kairos_budget.application.define_budget import BudgetChange
from kairos_budget.application.reconcile_attempts import ProviderRecord
from kairos_budget.domain.budget import Scope
from kairos_budget.domain.calendar import PeriodKind
from kairos_telemetry import metrics

from .conftest import CONTEXT, Bench  # noqa: TID252 - tests have no importable package name

pytestmark = pytest.mark.servers


def overspends() -> float:
    return float(metrics.counter("kairos_budget_overspend_total")._value.get())


async def test_the_same_event_is_charged_once(bench: Bench) -> None:
    budget = await bench.budget(1_000)
    lease = (await bench.lease(500)).lease
    usage = bench.usage(lease.id, cost=100)
    await bench.record(usage, usage)
    await bench.record(usage)
    assert (await bench.reading(budget)).balances.settled == 100
    await bench.assert_balanced()


async def test_the_same_attempt_under_another_message_id_is_charged_once(bench: Bench) -> None:
    budget = await bench.budget(1_000)
    lease = (await bench.lease(500)).lease
    attempt = uuid4()
    await bench.record(
        bench.usage(lease.id, cost=100, attempt=attempt), bench.usage(lease.id, cost=100, attempt=attempt)
    )
    await bench.record(bench.usage(lease.id, cost=90, attempt=attempt))
    assert (await bench.reading(budget)).balances.settled == 100
    await bench.assert_balanced()


async def test_a_released_attempt_costs_nothing(bench: Bench) -> None:
    budget = await bench.budget(1_000)
    lease = (await bench.lease(500)).lease
    await bench.record(bench.usage(lease.id, hold=100, outcome="released"))
    assert (await bench.reading(budget)).balances.leased == 500
    await bench.assert_balanced()


@pytest.mark.parametrize("cost", [0, 40, 100])
async def test_an_unknown_attempt_holds_its_whole_hold_until_its_usage_is_known(
    bench: Bench, cost: int
) -> None:
    budget = await bench.budget(1_000)
    lease = (await bench.lease(500)).lease
    attempt = uuid4()
    await bench.record(bench.usage(lease.id, hold=100, outcome="unknown", attempt=attempt))
    balances = (await bench.reading(budget)).balances
    assert (balances.suspense, balances.settled, balances.leased) == (100, 0, 400)
    await bench.record(bench.usage(lease.id, hold=100, cost=cost, attempt=attempt))
    balances = (await bench.reading(budget)).balances
    assert (balances.suspense, balances.settled, balances.available) == (0, cost, 600 - cost)
    # A late duplicate of the first report changes nothing.
    await bench.record(bench.usage(lease.id, hold=100, outcome="unknown", attempt=attempt))
    assert (await bench.reading(budget)).balances == balances
    await bench.assert_balanced()


async def test_a_cost_above_its_hold_is_recorded_in_full_and_counted(bench: Bench) -> None:
    budget = await bench.budget(100)
    lease = (await bench.lease(100)).lease
    before = overspends()
    await bench.record(bench.usage(lease.id, cost=130, hold=100))
    balances = (await bench.reading(budget)).balances
    assert (balances.settled, balances.leased, balances.excess, balances.overspend) == (130, 0, 30, 30)
    assert overspends() == before + 1
    await bench.assert_balanced()


async def test_an_overrun_that_still_fits_the_limit_is_no_overspend(bench: Bench) -> None:
    budget = await bench.budget(1_000)
    lease = (await bench.lease(100)).lease
    before = overspends()
    await bench.record(bench.usage(lease.id, cost=130, hold=100))
    balances = (await bench.reading(budget)).balances
    assert (balances.settled, balances.available, balances.excess) == (130, 870, 0)
    assert overspends() == before
    await bench.assert_balanced()


async def test_excess_is_made_good_by_the_next_money_that_returns(bench: Bench) -> None:
    budget = await bench.budget(200)
    lying, honest = (await bench.lease(100)).lease, (await bench.lease(100, holder="router-2")).lease
    await bench.record(bench.usage(lying.id, cost=130, hold=100))
    assert (await bench.reading(budget)).balances.excess == 30
    await bench.cases.close_lease(honest.id, epoch=1, settled=0)
    balances = (await bench.reading(budget)).balances
    assert (balances.excess, balances.available, balances.overspend) == (0, 70, 30)
    await bench.assert_balanced()


async def test_usage_without_a_lease_counts_against_every_budget_that_applies(bench: Bench) -> None:
    bot = uuid4()
    wide = await bench.budget(1_000)
    narrow = await bench.budget(1_000, scope=Scope.BOT, scope_id=bot)
    await bench.record(bench.usage(None, cost=70, bot=bot), bench.usage(uuid4(), cost=5, bot=bot))
    for budget in (wide, narrow):
        balances = (await bench.reading(budget)).balances
        assert (balances.settled, balances.available) == (75, 925)
    await bench.assert_balanced()


async def test_a_budget_made_after_a_lease_was_granted_bears_the_spend_since_it_was_made(
    bench: Bench,
) -> None:
    lease = (await bench.lease(500)).lease
    budget = await bench.budget(1_000)
    past = datetime.now(UTC) - timedelta(minutes=1)
    await bench.record(bench.usage(lease.id, cost=70), bench.usage(lease.id, cost=9, started_at=past))
    assert (await bench.reading(budget)).balances.settled == 70
    await bench.assert_balanced()


async def test_free_local_models_touch_no_budget(bench: Bench) -> None:
    budget = await bench.budget(1_000)
    await bench.record(bench.usage(None, cost=0))
    rows, _ = await bench.cases.readings.transfers(
        bench.organisation, bench.part(), budget_id=budget.id, lease_id=None, attempt_id=None
    )
    assert rows == []


async def test_usage_lands_in_the_period_its_attempt_started_in(bench: Bench) -> None:
    budget = await bench.budget(1_000, period=PeriodKind.DAY)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    await bench.execute(
        "UPDATE budgets SET created_at = created_at - interval '3 days' WHERE id = :id", id=budget.id
    )
    await bench.record(bench.usage(None, cost=60, started_at=yesterday), bench.usage(None, cost=1))
    assert (await bench.reading(budget)).balances.settled == 1
    await bench.assert_balanced()


async def test_each_threshold_is_announced_once_in_a_period(bench: Bench) -> None:
    budget = await bench.budget(100)
    lease = (await bench.lease(100)).lease
    for cost in (49, 1, 10, 25, 15):
        await bench.record(bench.usage(lease.id, cost=cost))
    events = await bench.emitted("budget.threshold.reached.v1")
    assert [(e["threshold_percent"], e["settled_nano_usd"]) for e in events] == [
        (50, 50),
        (80, 85),
        (100, 100),
    ]
    assert {e["budget_id"] for e in events} == {str(budget.id)}


async def test_a_lowered_limit_announces_the_thresholds_it_makes_true(bench: Bench) -> None:
    budget = await bench.budget(1_000)
    await bench.record(bench.usage(None, cost=90))
    change = BudgetChange(limit_nano=100)
    await bench.cases.change_budget(bench.organisation, budget.id, change, CONTEXT)
    events = await bench.emitted("budget.threshold.reached.v1")
    assert [e["threshold_percent"] for e in events] == [50, 80]


async def test_spend_adds_up_by_model_bot_project_and_day(bench: Bench) -> None:
    bot, project = uuid4(), uuid4()
    yesterday = datetime.now(UTC) - timedelta(days=1)
    await bench.record(
        bench.usage(None, cost=5, bot=bot, model="small"),
        bench.usage(None, cost=7, bot=bot, project=project, model="large"),
        bench.usage(None, cost=1, model="small", started_at=yesterday),
        bench.usage(None, hold=9, outcome="unknown", model="small"),
    )
    today = datetime.now(UTC).date()
    span = {"since": today - timedelta(days=2), "until": today + timedelta(days=1)}
    spend = bench.cases.readings.spend

    async def totals(group_by: str) -> dict[str | None, tuple[int, int]]:
        rows, following = await spend(bench.organisation, bench.part(), group_by=group_by, **span)  # type: ignore[arg-type]  # parametrised
        assert following is None
        return {row.key: (row.cost_nano, row.attempts) for row in rows}

    assert await totals("model") == {"small": (6, 3), "large": (7, 1)}
    assert await totals("bot") == {None: (1, 2), str(bot): (12, 2)}
    assert await totals("project") == {None: (6, 3), str(project): (7, 1)}
    assert await totals("day") == {yesterday.date().isoformat(): (1, 1), today.isoformat(): (12, 3)}
    rows, following = await spend(bench.organisation, bench.part(1), group_by="model", **span)
    assert (len(rows), following) == (1, {"key": "large"})
    rows, _ = await spend(bench.organisation, bench.part(1, following), group_by="model", **span)
    assert [(row.key, row.unknown_attempts) for row in rows] == [("small", 1)]


async def test_the_providers_record_resolves_what_is_unknown(bench: Bench) -> None:
    budget = await bench.budget(1_000)
    lease = (await bench.lease(500)).lease
    attempts = [uuid4() for _ in range(3)]
    await bench.record(
        bench.usage(lease.id, hold=100, outcome="unknown", attempt=attempts[0]),
        bench.usage(lease.id, hold=100, outcome="unknown", attempt=attempts[1]),
        bench.usage(lease.id, cost=20, attempt=attempts[2]),
    )
    lost, stranger = uuid4(), uuid4()
    await bench.silence(lease.id)
    records = [
        ProviderRecord(attempts[0], cost=60),
        ProviderRecord(attempts[1], cost=0),
        ProviderRecord(attempts[2], cost=21),
        ProviderRecord(lost, cost=30, lease_id=lease.id),
        ProviderRecord(stranger, cost=30),
    ]
    done = await bench.cases.reconcile_attempts(
        bench.organisation, records, complete_leases=[lease.id, uuid4()], context=CONTEXT
    )
    assert [result for _, result in done.results] == [
        "resolved",
        "resolved",
        "differs",
        "recorded",
        "unmatched",
    ]
    assert done.returned == 500 - 200 - 20 - 30
    balances = (await bench.reading(budget)).balances
    assert (balances.settled, balances.suspense, balances.available) == (110, 0, 890)
    # Told twice, it changes nothing.
    again = await bench.cases.reconcile_attempts(
        bench.organisation, records, complete_leases=[lease.id], context=CONTEXT
    )
    assert [result for _, result in again.results] == [
        "matches",
        "matches",
        "differs",
        "matches",
        "unmatched",
    ]
    assert (await bench.reading(budget)).balances == balances
    (first, _) = [
        e for e in await bench.emitted("audit.entry.recorded.v1") if e["action"] == "ledger.reconciled"
    ]
    assert first["after"] == {
        "records": 5,
        "returned_nano_usd": 250,
        "resolved": 2,
        "differs": 1,
        "recorded": 1,
        "unmatched": 1,
    }
    await bench.assert_balanced()


async def test_a_provider_that_charged_more_than_the_hold_is_recorded_in_full(bench: Bench) -> None:
    budget = await bench.budget(100)
    lease = (await bench.lease(100)).lease
    attempt = uuid4()
    await bench.record(bench.usage(lease.id, hold=100, outcome="unknown", attempt=attempt))
    await bench.cases.reconcile_attempts(
        bench.organisation, [ProviderRecord(attempt, cost=140)], complete_leases=[], context=CONTEXT
    )
    balances = (await bench.reading(budget)).balances
    assert (balances.settled, balances.suspense, balances.excess) == (140, 0, 40)
    await bench.assert_balanced()


async def test_an_empty_batch_is_nothing(bench: Bench) -> None:
    await bench.record()


async def test_a_cost_above_its_hold_is_counted_even_while_there_is_room(bench: Bench) -> None:
    budget = await bench.budget(1_000)
    lease = (await bench.lease(500)).lease
    counter = metrics.counter("kairos_attempt_above_hold_total")
    before = counter._value.get()
    above = bench.usage(lease.id, cost=101, hold=100)
    await bench.record(above, bench.usage(lease.id, cost=100, hold=100))
    await bench.record(above)
    assert counter._value.get() == before + 1
    assert (await bench.reading(budget)).balances.overspend == 0
