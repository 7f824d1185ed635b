"""Past traffic against budgets that did not exist."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos_budget.adapters.analytics import PostgresAnalytics
from kairos_budget.adapters.past import PostgresPast
from kairos_budget.application.ports import Usage
from kairos_budget.application.simulate_budget import Traffic
from kairos_budget.domain.budget import Scope
from kairos_budget.domain.calendar import PeriodKind
from kairos_budget.domain.priority import NO_RESERVES, Priority, Reserves
from kairos_budget.domain.simulation import PastAttempts, Replay, Simulation, Terms
from kairos_budget.domain.span import Span

from .conftest import Bench, Caller  # noqa: TID252 - tests have no importable package name

START = datetime(2026, 11, 2, tzinfo=UTC)


def past(minutes: int, cost: int, *, count: int = 1, priority: Priority = Priority.NORMAL) -> PastAttempts:
    return PastAttempts(START + timedelta(minutes=minutes), cost, count, priority, "m", None)


def replayed(
    traffic: Iterable[PastAttempts],
    limit: int,
    period: PeriodKind = PeriodKind.DAY,
    window: int | None = None,
    reserves: Reserves = NO_RESERVES,
) -> Simulation:
    return Replay(Terms(limit, period, "UTC", window, reserves)).run(traffic)


def test_what_does_not_fit_is_stopped_and_a_smaller_one_behind_it_is_not() -> None:
    found = replayed([past(0, 60), past(1, 50), past(2, 40), past(3, 1)], 100)
    assert (found.stopped, found.stopped_cost, found.exhausted_at) == (2, 51, START + timedelta(minutes=1))
    assert found.periods[0].spent == 100


def test_every_period_begins_anew() -> None:
    found = replayed([past(0, 100), past(1, 1), past(24 * 60, 100), past(24 * 60 + 1, 1)], 100)
    assert [(each.spent, each.stopped) for each in found.periods] == [(100, 1), (100, 1)]


def test_a_rolling_window_gives_back_what_leaves_it() -> None:
    found = replayed([past(0, 100), past(59, 1), past(60, 1)], 100, PeriodKind.ROLLING, 1)
    assert (found.stopped, found.exhausted_at) == (1, START + timedelta(minutes=59))


def test_a_batch_stops_where_reserves_of_others_begin() -> None:
    reserves = Reserves(normal=20, interactive=30)
    low = [past(n, 10, priority=Priority.BATCH) for n in range(10)]
    middle = [past(20 + n, 10) for n in range(10)]
    high = [past(40 + n, 10, priority=Priority.INTERACTIVE) for n in range(10)]
    found = replayed([*low, *middle, *high], 100, reserves=reserves)
    assert found.by_priority == {"batch": (5, 50), "normal": (8, 80), "interactive": (7, 70)}


@given(st.lists(st.tuples(st.integers(0, 5_000), st.integers(1, 90)), max_size=60), st.integers(0, 300))
def test_no_period_ever_passes_the_limit_and_nothing_is_lost(
    traffic: list[tuple[int, int]], limit: int
) -> None:
    attempts = [past(minute, cost) for minute, cost in sorted(traffic)]
    found = replayed(attempts, limit)
    assert all(each.spent <= limit for each in found.periods)
    assert sum(each.spent for each in found.periods) + found.stopped_cost == found.cost
    assert sum(each.allowed for each in found.periods) + found.stopped == len(attempts)


@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 1_200))
def test_a_rollup_of_equal_attempts_answers_as_the_attempts_do(count: int, cost: int, limit: int) -> None:
    single = replayed([past(0, cost) for _ in range(count)], limit)
    together = replayed([past(0, cost * count, count=count)], limit)
    assert (single.stopped, single.stopped_cost) == (together.stopped, together.stopped_cost)


NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=1)


def attempt(bench: Bench, minute: int, cost: int, **changes: Any) -> Usage:
    message = bench.usage(None, cost=cost).message
    changes = {"started_at": NOON + timedelta(minutes=minute)} | changes
    return Usage(uuid4(), bench.organisation, message.model_copy(update=changes), None)


@pytest.mark.servers
async def test_recorded_usage_is_replayed_through_the_door(bench: Bench, admin: Caller) -> None:
    bot = uuid4()
    await bench.record(
        attempt(bench, 3, 40, model="large"),
        attempt(bench, 0, 60, model="large", bot_id=bot),
        attempt(bench, 5, 30, model="small", bot_id=bot),
        attempt(bench, 6, 0, outcome="released"),
        attempt(bench, 7, 0, cache="exact"),
    )
    body = {
        "limit_nano_usd": 80,
        "period": "day",
        "from": NOON.date().isoformat(),
        "to": (NOON + timedelta(days=1)).date().isoformat(),
    }
    found = await admin("POST", "/budgets/simulate", body)
    assert (found["method"], found["attempts"], found["cost"]["nano_usd"]) == ("attempts", 3, 130)
    assert (found["refused"]["attempts"], found["refused"]["cost"]["nano_usd"]) == (2, 70)
    assert datetime.fromisoformat(found["exhausted_at"]) == NOON + timedelta(minutes=3)
    assert [(row["key"], row["attempts"]) for row in found["by_model"]] == [("large", 1), ("small", 1)]
    assert {row["key"] for row in found["by_bot"]} == {None, str(bot)}
    local = await admin("POST", "/budgets/simulate", body | {"when_exhausted": "local"})
    assert (local["refused"]["attempts"], local["degraded"]["attempts"]) == (0, 2)
    one = await admin("POST", "/budgets/simulate", body | {"scope": "bot", "scope_id": str(bot)})
    assert (one["attempts"], one["refused"]["attempts"]) == (2, 1)
    named = await admin("POST", "/budgets/simulate", body | {"scope": "model", "model": "small"})
    assert (named["attempts"], named["refused"]["attempts"]) == (1, 0)
    assert (await admin("GET", "/budgets"))["items"] == []


@pytest.mark.servers
async def test_an_unknown_attempt_counts_its_hold_until_it_is_known(bench: Bench, admin: Caller) -> None:
    unknown = attempt(bench, 0, 0, outcome="unknown", hold_nano_usd=90)
    await bench.record(unknown, attempt(bench, 1, 20))
    body = {"limit_nano_usd": 100, "period": "day"}
    assert (await admin("POST", "/budgets/simulate", body))["refused"]["attempts"] == 1
    told = unknown.message.model_copy(update={"outcome": "settled", "cost_nano_usd": 30})
    await bench.record(Usage(uuid4(), bench.organisation, told, None))
    again = await admin("POST", "/budgets/simulate", body)
    assert (again["attempts"], again["refused"]["attempts"]) == (2, 0)


@pytest.mark.servers
async def test_beyond_a_number_of_attempts_rollups_answer(bench: Bench) -> None:
    await bench.record(*(attempt(bench, n // 10, 5) for n in range(40)))
    analytics = PostgresAnalytics(bench.database, minutes_days=7, hours_days=100)
    traffic = Traffic(
        bench.organisation,
        Scope.ORGANISATION,
        bench.organisation,
        None,
        Span(NOON - timedelta(hours=1), NOON + timedelta(hours=1)),
    )
    found = {}
    for most in (40, 39):
        async with PostgresPast(bench.database, analytics).replay(traffic, most) as (method, attempts):
            taken = [each async for each in attempts]
        found[method] = replayed(taken, 120)
        assert sum(each.count for each in taken) == 40
    assert set(found) == {"attempts", "minutes"}
    assert found["attempts"].stopped == found["minutes"].stopped == 16


@pytest.mark.servers
@pytest.mark.parametrize(
    "body",
    [
        {"period": "day"},
        {"limit_usd": "1", "scope": "bot"},
        {"limit_usd": "1", "scope": "model"},
        {"limit_usd": "1", "period": "rolling"},
        {"limit_usd": "1", "from": "2026-02-02", "to": "2026-02-01"},
    ],
)
async def test_a_simulation_that_makes_no_sense_is_refused(admin: Caller, body: dict[str, Any]) -> None:
    await admin("POST", "/budgets/simulate", body, 422)
