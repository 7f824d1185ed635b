"""Windows that move on with time: no window of their length ever holds more than the limit."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos_budget.domain.book import Book, BudgetExceeded
from kairos_budget.domain.budget import Budget, Scope
from kairos_budget.domain.calendar import EPOCH, Bounds, PeriodKind
from kairos_budget.domain.ledger import Account, Balances, Exhausted, Kind
from kairos_budget.domain.period import Period
from kairos_budget.domain.rolling import Window

from .conftest import Bench  # noqa: TID252 - tests have no importable package name

START = datetime(2026, 5, 1, tzinfo=UTC)
steps = st.lists(
    st.tuples(st.sampled_from(["spend", "lease", "pass"]), st.integers(1, 60), st.integers(0, 7_200)),
    max_size=60,
)


def rolling_book(limit: int, hours: int) -> tuple[Book, Period]:
    budget = Budget(
        id=uuid4(),
        organisation_id=uuid4(),
        name="rolling",
        scope=Scope.ORGANISATION,
        scope_id=uuid4(),
        limit_nano=limit,
        period=PeriodKind.ROLLING,
        time_zone="UTC",
        thresholds=(50, 100),
        active=True,
        version=1,
        created_at=START,
        window_hours=hours,
    )
    period = Period(uuid4(), budget, Bounds(EPOCH, None), Balances(limit=limit, available=limit))
    return Book(periods={period.id: period}), period


@given(st.integers(1, 200), st.sampled_from([1, 24, 168]), steps)
def test_no_window_at_any_instant_holds_more_than_the_limit(
    limit: int, hours: int, script: list[tuple[str, int, int]]
) -> None:
    book, period = rolling_book(limit, hours)
    now, spent, leased = START, list[tuple[datetime, int]](), 0
    window = Window(hours, now)
    for kind, amount, seconds in script:
        now += timedelta(seconds=seconds * hours / 4)
        book.open_window(period.id, replace(window, now=now))
        try:
            if kind == "spend":
                # What is settled was leased before: reserve and post, as a lease does.
                reserve = book.periods[period.id].balances.reserve(amount)
                book._move(period.id, Kind.LEASE, reserve, f"lease:{uuid4()}")
                post = [replace(reserve[0], source=Account.LEASED, target=Account.SETTLED)]
                book._move(period.id, Kind.POST, post, f"post:{uuid4()}")
                spent.append((now, amount))
            elif kind == "lease":
                reserve = book.periods[period.id].balances.reserve(amount)
                book._move(period.id, Kind.LEASE, reserve, f"lease:{uuid4()}")
                leased += amount
        except Exhausted:
            refused = True
        else:
            refused = False
        window = book.windows[period.id]
        balances = book.periods[period.id].balances
        assert sum(window.amounts.values()) == balances.settled
        inside = sum(each for moment, each in spent if moment > now - timedelta(hours=hours))
        assert inside + leased <= limit
        assert balances.excess == 0
        # And no more is withheld than the window and one bucket before it hold.
        late = now - timedelta(hours=hours) - 2 * window.granularity
        assert balances.settled <= sum(each for moment, each in spent if moment > late)
        assert not refused or amount > balances.available


def test_a_bucket_is_a_48th_of_the_window() -> None:
    assert Window(24, START).granularity == timedelta(minutes=30)
    assert Window(7 * 24, START).granularity == timedelta(hours=3, minutes=30)
    assert Window(30 * 24, START).granularity == timedelta(hours=15)


@pytest.mark.parametrize("hours", [1, 24, 168, 720])
def test_a_bucket_leaves_when_its_last_instant_has_left_the_window(hours: int) -> None:
    window = Window(hours, START).add(5)
    start = window.current()
    end = start + window.granularity + timedelta(hours=hours)
    assert replace(window, now=end - timedelta(microseconds=1)).due() == []
    assert replace(window, now=end).due() == [start]


def test_money_taken_back_shrinks_the_oldest_buckets_first() -> None:
    older = START - timedelta(hours=3)
    window = Window(24, START, {older: 5, START: 10}).take(7)
    assert window.amounts == {older: 0, START: 8}


@pytest.mark.servers
async def test_what_leaves_the_window_can_be_spent_again(bench: Bench) -> None:
    budget = await bench.budget(1_000, period=PeriodKind.ROLLING, window_hours=24)
    lease = (await bench.lease(900)).lease
    await bench.record(bench.usage(lease.id, cost=700, hold=900))
    await bench.cases.close_lease(lease.id, epoch=1, settled=700)
    with pytest.raises(BudgetExceeded):
        await bench.lease(301)
    await bench.assert_balanced()
    await move_buckets(bench, timedelta(hours=24))
    with pytest.raises(BudgetExceeded):
        await bench.lease(301)
    await move_buckets(bench, timedelta(minutes=31))
    # A reading shows it although nothing was written yet.
    assert (await bench.reading(budget)).balances.settled == 0
    assert (await bench.lease(1_000)).lease.granted == 1_000
    assert (await bench.reading(budget)).balances.leased == 1_000
    await bench.assert_balanced()
    kinds = await bench.scalar(
        "SELECT array_agg(DISTINCT kind) FROM transfers WHERE budget_id = :id", id=budget.id
    )
    assert "expire" in kinds


@pytest.mark.servers
async def test_a_threshold_is_told_again_when_the_window_has_moved_on(bench: Bench) -> None:
    await bench.budget(100, period=PeriodKind.ROLLING, window_hours=1)
    await bench.record(bench.usage(None, cost=60))
    await move_buckets(bench, timedelta(hours=2))
    await bench.record(bench.usage(None, cost=60))
    told = await bench.emitted("budget.threshold.reached.v1")
    assert [event["threshold_percent"] for event in told] == [50, 50]
    await bench.assert_balanced()


async def move_buckets(bench: Bench, by: timedelta) -> None:
    await bench.execute(
        "UPDATE period_buckets SET starts_at = starts_at - :by WHERE organisation_id = :organisation",
        by=by,
        organisation=bench.organisation,
    )
