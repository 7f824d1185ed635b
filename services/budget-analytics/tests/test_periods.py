"""Calendar periods: what must hold in every time zone, and the days on which clocks change."""

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos_budget.domain.calendar import PeriodKind, bounds

TICK = timedelta(microseconds=1)
CALENDAR = [kind for kind in PeriodKind if kind not in {PeriodKind.TOTAL, PeriodKind.ROLLING}]
ZONES = sorted(available_timezones())
# Zones with clocks that change by half an hour, at or over midnight, by a day, or twice within a year.
ODD = [
    "Australia/Lord_Howe",
    "America/St_Johns",
    "America/Havana",
    "America/Caracas",
    "Pacific/Apia",
    "Asia/Pyongyang",
    "Asia/Kathmandu",
    "Africa/Casablanca",
    "Asia/Beirut",
    "Europe/Zurich",
]
zones = st.sampled_from(ODD) | st.sampled_from(ZONES)
moments = st.datetimes(
    min_value=datetime(2000, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    max_value=datetime(2090, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    timezones=st.just(UTC),
)


def clock_changes(name: str) -> list[datetime]:
    """The hours in which the zone changed its clock, 2000 to 2030."""
    zone, found = ZoneInfo(name), []
    moment = datetime(2000, 1, 1, tzinfo=UTC)
    while moment.year < 2031:
        following = moment + timedelta(days=1)
        if moment.astimezone(zone).utcoffset() != following.astimezone(zone).utcoffset():
            found += [moment + timedelta(hours=hour) for hour in range(24)]
        moment = following
    return found


def assert_tiles(kind: PeriodKind, moment: datetime, zone: str) -> None:
    here = bounds(kind, moment, zone)
    assert here.ends_at is not None
    assert here.starts_at < here.ends_at
    assert here.contains(moment)
    assert bounds(kind, here.starts_at, zone) == here
    assert bounds(kind, here.ends_at - TICK, zone) == here
    following = bounds(kind, here.ends_at, zone)
    assert following.starts_at == here.ends_at
    assert bounds(kind, here.starts_at - TICK, zone).ends_at == here.starts_at


@given(st.sampled_from(CALENDAR), moments, zones)
def test_periods_tile_time_in_every_zone(kind: PeriodKind, moment: datetime, zone: str) -> None:
    assert_tiles(kind, moment, zone)


@pytest.mark.parametrize("zone", ODD)
def test_periods_tile_time_around_every_clock_change(zone: str) -> None:
    for moment in clock_changes(zone):
        for minutes in (0, 29, 31):
            for kind in (PeriodKind.HOUR, PeriodKind.DAY):
                assert_tiles(kind, moment + timedelta(minutes=minutes), zone)


@given(st.sampled_from(CALENDAR), moments, st.sampled_from(["UTC", "Europe/Zurich", "America/New_York"]))
def test_a_period_begins_at_a_midnight_of_its_zone(kind: PeriodKind, moment: datetime, zone: str) -> None:
    start = bounds(kind, moment, zone).starts_at.astimezone(ZoneInfo(zone))
    assert (start.minute, start.second, start.microsecond) == (0, 0, 0)
    assert kind is PeriodKind.HOUR or start.hour == 0
    if kind is PeriodKind.WEEK:
        assert start.weekday() == 0
    if kind in {PeriodKind.MONTH, PeriodKind.QUARTER, PeriodKind.YEAR}:
        assert start.day == 1
    if kind is PeriodKind.QUARTER:
        assert start.month in {1, 4, 7, 10}


@pytest.mark.parametrize(
    ("day", "hours"),
    [(datetime(2026, 3, 29, 12, tzinfo=UTC), 23), (datetime(2026, 10, 25, 12, tzinfo=UTC), 25)],
)
def test_a_day_of_a_clock_change_has_23_or_25_hours(day: datetime, hours: int) -> None:
    here = bounds(PeriodKind.DAY, day, "Europe/Zurich")
    assert here.ends_at is not None
    assert here.ends_at - here.starts_at == timedelta(hours=hours)


def test_a_date_that_a_zone_skipped_is_no_period() -> None:
    # Samoa went from 29 to 31 December 2011.
    here = bounds(PeriodKind.DAY, datetime(2011, 12, 30, 9, tzinfo=UTC), "Pacific/Apia")
    assert here.ends_at == datetime(2011, 12, 30, 10, tzinfo=UTC)
    following = bounds(PeriodKind.DAY, here.ends_at, "Pacific/Apia")
    assert following.starts_at.astimezone(ZoneInfo("Pacific/Apia")).day == 31


def test_a_month_begins_at_midnight_utc_wherever_the_moment_was_taken() -> None:
    tokyo = timezone(timedelta(hours=9))
    assert bounds(PeriodKind.MONTH, datetime(2026, 3, 1, 8, tzinfo=tokyo)).starts_at == datetime(
        2026, 2, 1, tzinfo=UTC
    )
    assert bounds(PeriodKind.TOTAL, datetime(2026, 3, 1, tzinfo=UTC)).ends_at is None
