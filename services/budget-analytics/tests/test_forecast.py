"""Where a budget is heading, by arithmetic and on real PostgreSQL."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from kairos_budget.domain.budget import Budget, Scope
from kairos_budget.domain.calendar import Bounds, PeriodKind
from kairos_budget.domain.forecast import Sample, forecast, is_over, window_of

from .conftest import Bench, Caller  # noqa: TID252 - tests have no importable package name

START = datetime(2026, 11, 1, tzinfo=UTC)
MONTH = Bounds(START, START + timedelta(days=30))
NOW = START + timedelta(days=10)


def test_a_rate_goes_on_until_the_limit_or_the_end() -> None:
    # 24 a day: 1 an hour, 200 settled after ten days.
    found = forecast(MONTH, 400, Sample(NOW, 200), Sample(NOW - timedelta(days=1), 176))
    assert (found.rate, found.projected) == (1, 200 + 20 * 24)
    assert found.exceeds_at == NOW + timedelta(hours=200)
    assert forecast(MONTH, 700, Sample(NOW, 200), Sample(NOW - timedelta(days=1), 176)).exceeds_at is None
    assert forecast(MONTH, 400, Sample(NOW, 200), Sample(NOW - timedelta(days=1), 200)).exceeds_at is None


@pytest.mark.parametrize(
    ("length", "window"),
    [(timedelta(hours=1), 15), (timedelta(days=1), 60), (timedelta(days=30), 24 * 60), (None, 24 * 60)],
)
def test_the_rate_is_measured_over_a_part_of_the_period(length: timedelta | None, window: int) -> None:
    bounds = Bounds(START, None if length is None else START + length)
    assert window_of(bounds) == timedelta(minutes=window)


def test_a_projection_that_wobbles_around_the_limit_stays_over_until_it_is_clearly_below() -> None:
    unit = 1_000_000

    def over(spent_in_a_day: int, *, was_over: bool) -> bool:
        now = Sample(NOW, 200 * unit)
        then = Sample(NOW - timedelta(days=1), (200 - spent_in_a_day) * unit)
        return is_over(forecast(MONTH, 680 * unit, now, then), 680 * unit, now, was_over=was_over)

    assert not over(23, was_over=False)
    assert over(25, was_over=False)
    assert over(23, was_over=True)
    assert not over(15, was_over=True)


def test_a_measurement_of_minutes_says_too_little() -> None:
    now = Sample(NOW, 200)
    found = forecast(MONTH, 300, now, Sample(NOW - timedelta(minutes=5), 0))
    assert found.exceeds_at is not None
    assert not is_over(found, 300, now, was_over=False)


async def aged(bench: Bench, budget: Budget, hours: float) -> None:
    """Let the budget, its period and its samples be older."""
    by = timedelta(hours=hours)
    await bench.execute(
        "UPDATE budgets SET created_at = created_at - :by WHERE id = :id", by=by, id=budget.id
    )
    await bench.execute(
        "UPDATE budget_samples SET sampled_at = sampled_at - :by WHERE period_id IN"
        " (SELECT id FROM budget_periods WHERE budget_id = :id)",
        by=by,
        id=budget.id,
    )


async def forecasts(bench: Bench) -> list[dict[str, object]]:
    told = await bench.emitted("budget.threshold.reached.v1")
    return [each for each in told if each["kind"] == "forecast"]


@pytest.mark.servers
async def test_heading_over_the_limit_is_told_once_and_again_only_after_it_was_clearly_below(
    bench: Bench,
) -> None:
    budget = await bench.budget(100_000, period=PeriodKind.TOTAL)
    await bench.record(bench.usage(None, cost=1_000))
    await aged(bench, budget, 30)
    await bench.cases.forecast_budgets()
    (event,) = await forecasts(bench)
    assert (event["threshold_percent"], event["settled_nano_usd"]) == (100, 1_000)
    assert datetime.fromisoformat(str(event["exceeds_at"])) > datetime.now(UTC)
    await bench.execute("DELETE FROM budget_samples")
    await bench.cases.forecast_budgets()
    assert len(await forecasts(bench)) == 1
    # A day and a half without spending: it heads nowhere. Then it spends again.
    await bench.execute("UPDATE budget_samples SET sampled_at = sampled_at - interval '36 hours'")
    await bench.cases.forecast_budgets()
    assert len(await forecasts(bench)) == 1
    await bench.record(bench.usage(None, cost=5_000))
    await bench.execute("UPDATE budget_samples SET sampled_at = sampled_at - interval '1 hour'")
    await bench.cases.forecast_budgets()
    assert len(await forecasts(bench)) == 2


@pytest.mark.servers
async def test_a_budget_that_ends_within_its_limit_is_not_told(bench: Bench) -> None:
    budget = await bench.budget(10**12, period=PeriodKind.DAY)
    await bench.record(bench.usage(None, cost=10))
    await aged(bench, budget, 1)
    await bench.cases.forecast_budgets()
    assert await forecasts(bench) == []


@pytest.mark.servers
async def test_the_status_of_a_budget_says_how_it_stands_and_where_it_heads(
    bench: Bench, admin: Caller
) -> None:
    bot, other = uuid4(), uuid4()
    budget = await bench.budget(10_000, scope=Scope.BOT, scope_id=bot, period=PeriodKind.TOTAL)
    lease = (await bench.lease(2_000, bot=bot)).lease
    await bench.record(
        bench.usage(lease.id, cost=300, bot=bot, model="large"),
        bench.usage(lease.id, cost=100, bot=bot, model="small"),
        bench.usage(lease.id, hold=50, outcome="unknown", bot=bot),
        bench.usage(None, cost=900, bot=other),
    )
    await aged(bench, budget, 10)
    status = await admin("GET", f"/budgets/{budget.id}/status")
    names = ("settled", "held", "suspense", "available")
    assert [status[name]["nano_usd"] for name in names] == [400, 1_550, 50, 8_000]
    assert (status["used_percent"], status["elapsed_percent"]) == (20.0, None)
    assert status["burn_rate"]["nano_usd"] == 40
    assert status["forecast"]["method"] == "linear"
    left = datetime.fromisoformat(status["forecast"]["exceeds_at"]) - datetime.fromisoformat(status["as_of"])
    assert left == pytest.approx(timedelta(hours=240), abs=timedelta(hours=1))
    models = status["top_consumers"]["model"]
    assert [(each["key"], each["cost"]["nano_usd"], each["share"]) for each in models[:2]] == [
        ("large", 300, 0.75),
        ("small", 100, 0.25),
    ]
    assert {each["key"] for each in status["top_consumers"]["bot"]} == {str(bot)}
    await admin("GET", f"/budgets/{uuid4()}/status", None, 404)
