"""Percentiles of merged histograms stay within the bound that is stated."""

from collections import Counter
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from kairos_budget.domain.histogram import RELATIVE_ERROR, bucket_of, decode, encode, estimate, percentile

DURATIONS = st.integers(1, 10_000_000)


@given(DURATIONS)
def test_a_bucket_stands_for_its_values_within_the_error_bound(milliseconds: int) -> None:
    assert abs(estimate(bucket_of(milliseconds)) - milliseconds) <= RELATIVE_ERROR * milliseconds * 1.0001


@given(
    st.lists(st.lists(DURATIONS, max_size=40), min_size=1, max_size=6).filter(any),
    st.sampled_from([50, 90, 95, 99, 100]),
)
def test_a_percentile_of_merged_parts_is_that_of_all_values_within_the_bound(
    parts: list[list[int]], percent: int
) -> None:
    stored = [encode(Counter(map(bucket_of, part))) for part in parts]
    values = sorted(value for part in parts for value in part)
    exact = values[max(ceil(len(values) * percent / 100), 1) - 1]
    found = percentile(decode(entry for entries in stored for entry in entries), percent)
    assert found is not None
    assert abs(found - exact) <= RELATIVE_ERROR * exact * 1.0001


def test_nothing_measured_has_no_percentile() -> None:
    assert percentile(Counter(), 95) is None


def test_a_duration_of_nothing_or_of_weeks_still_counts() -> None:
    assert bucket_of(0) == bucket_of(1) == 0
    assert bucket_of(10**12) == bucket_of(10**13)
