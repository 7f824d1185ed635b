"""Any span is covered exactly once, by few rows of the coarsest rollups."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos_budget.domain.calendar import PeriodKind, bounds
from kairos_budget.domain.span import (
    EmptySpan,
    Grain,
    Kept,
    Span,
    ceiling,
    floor,
    pieces,
    starts_in,
    widened,
)
from kairos_budget.domain.steps import calendar_steps

MINUTE = timedelta(minutes=1)
START = datetime(2026, 1, 1, tzinfo=UTC)
MOMENTS = st.integers(0, 500 * 24 * 60).map(lambda minutes: START + minutes * MINUTE)


@given(MOMENTS, st.integers(1, 100 * 24 * 60))
def test_pieces_cover_the_span_without_a_gap_or_overlap(start: datetime, minutes: int) -> None:
    span = Span(start, start + minutes * MINUTE)
    found = pieces(span)
    assert found[0].span.starts_at == span.starts_at
    assert found[-1].span.ends_at == span.ends_at
    for before, after in pairwise(found):
        assert before.span.ends_at == after.span.starts_at
    for piece in found:
        if piece.grain is not Grain.MINUTE:
            assert piece.span.starts_at.minute == piece.span.ends_at.minute == 0
        if piece.grain is Grain.DAY:
            assert piece.span.starts_at.hour == piece.span.ends_at.hour == 0
    assert len(found) <= 5


@given(MOMENTS, st.integers(1, 300 * 24 * 60))
def test_an_old_end_is_widened_to_what_is_kept_and_a_new_one_is_exact(start: datetime, minutes: int) -> None:
    now = START + timedelta(days=510)
    kept = Kept(now - timedelta(days=7), now - timedelta(days=100))
    span = Span(start, start + minutes * MINUTE)
    wide = widened(span, kept)
    assert wide.starts_at <= span.starts_at
    assert wide.ends_at >= span.ends_at
    if span.starts_at >= kept.minutes_since:
        assert wide == span
    for piece in pieces(wide):
        if piece.grain is Grain.MINUTE:
            assert piece.span.starts_at >= kept.minutes_since - timedelta(hours=1)
        if piece.grain is Grain.HOUR:
            assert piece.span.starts_at >= kept.hours_since - timedelta(days=1)


def test_a_span_ends_after_it_starts() -> None:
    with pytest.raises(EmptySpan):
        Span(START, START)


ZONES = ("UTC", "Europe/Istanbul", "America/New_York", "Pacific/Auckland", "Asia/Kolkata", "Pacific/Apia")


@given(
    MOMENTS,
    st.integers(1, 40 * 24),
    st.sampled_from(ZONES),
    st.sampled_from([PeriodKind.DAY, PeriodKind.WEEK, PeriodKind.MONTH]),
    st.sampled_from([Grain.HOUR, Grain.DAY]),
)
def test_steps_of_any_calendar_are_made_of_the_rows_that_start_in_them_each_once(
    start: datetime, hours: int, zone: str, kind: PeriodKind, grain: Grain
) -> None:
    span = widened(Span(start, start + timedelta(hours=hours)), Kept(START, START))
    span = Span(floor(span.starts_at, grain), ceiling(span.ends_at, grain))
    steps = calendar_steps(span, kind, zone, grain)
    counted: Counter[tuple[int, datetime]] = Counter()
    for share in steps.shares:
        for row in starts_in(share.span, share.grain):
            # A day's row is the rows of its hours, where hours are kept.
            finer = Grain.HOUR if grain is Grain.HOUR else Grain.DAY
            for moment in starts_in(Span(row, ceiling(row + MINUTE, share.grain)), finer):
                counted[share.adds_to if share.adds_to is not None else -1, moment] += 1
                counted[share.takes_from if share.takes_from is not None else -1, moment] -= 1
    found = {place: count for place, count in counted.items() if count and place[0] >= 0}
    expected = {
        (steps.starts.index(bounds(kind, moment, zone).starts_at), moment): 1
        for moment in starts_in(span, grain)
    }
    assert found == expected


def test_a_day_of_another_zone_costs_three_hours_of_rows_and_not_a_day_of_them() -> None:
    span = Span(START - timedelta(hours=3), START + timedelta(days=30, hours=-3))
    steps = calendar_steps(span, PeriodKind.DAY, "Europe/Istanbul", Grain.HOUR)
    rows = Counter(share.grain for share in steps.shares for _ in starts_in(share.span, share.grain))
    assert (len(steps.starts), rows[Grain.DAY], rows[Grain.HOUR]) == (30, 30, 31 * 3)
