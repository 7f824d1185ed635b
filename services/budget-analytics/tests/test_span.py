"""Any span is covered exactly once, by few rows of the coarsest rollups."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos_budget.domain.span import EmptySpan, Grain, Kept, Span, pieces, widened

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
