"""Calendar periods in a time zone, as instants of one time line.

Every moment lies in exactly one period of a kind, and one period ends where the next begins, whatever the
zone does to its clocks. A day begins with the first instant of its date: at midnight, or where the clock
jumped over midnight with that jump. A day of a clock change has 23 or 25 hours.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import Final
from zoneinfo import ZoneInfo

# The start of a `total` or `rolling` period: it has begun for every moment a budget can see.
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR: Final = timedelta(hours=1)
_TICK: Final = timedelta(microseconds=1)
_MONTHS: Final = {"month": 1, "quarter": 3, "year": 12}


class PeriodKind(StrEnum):
    """A week begins on Monday, as ISO 8601 says. `rolling` is a window that moves on with time."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    QUARTER = "quarter"
    YEAR = "year"
    TOTAL = "total"
    ROLLING = "rolling"


@dataclass(frozen=True, slots=True)
class Bounds:
    """Start inclusive, end exclusive; `ends_at` is None when the period never ends."""

    starts_at: datetime
    ends_at: datetime | None

    def contains(self, moment: datetime) -> bool:
        return self.starts_at <= moment and (self.ends_at is None or moment < self.ends_at)


def bounds(kind: PeriodKind, moment: datetime, time_zone: str = "UTC") -> Bounds:
    """The period of `kind` that holds `moment`, in the zone's calendar."""
    if kind in {PeriodKind.TOTAL, PeriodKind.ROLLING}:
        return Bounds(EPOCH, None)
    zone = ZoneInfo(time_zone)
    moment = moment.astimezone(UTC)
    if kind is PeriodKind.HOUR:
        return _hour(moment, zone)
    first = _first_day(kind, moment.astimezone(zone).date())
    # A clock set back over midnight gives a date twice; a zone that crosses the date line lacks one.
    while _begin(first, zone) > moment:
        first = _first_day(kind, first - timedelta(days=1))
    while (end := _begin(_following(kind, first), zone)) <= moment:
        first = _following(kind, first)
    return Bounds(_begin(first, zone), end)


def _begin(day: date, zone: ZoneInfo) -> datetime:
    # For a midnight that a clock change skipped, the earlier offset gives the instant of the change.
    return datetime.combine(day, time(), zone).astimezone(UTC)


def _first_day(kind: PeriodKind, day: date) -> date:
    if kind is PeriodKind.DAY:
        return day
    if kind is PeriodKind.WEEK:
        return day - timedelta(days=day.weekday())
    months = _MONTHS[kind.value]
    return day.replace(month=(day.month - 1) // months * months + 1, day=1)


def _following(kind: PeriodKind, first: date) -> date:
    if kind is PeriodKind.DAY:
        return first + timedelta(days=1)
    if kind is PeriodKind.WEEK:
        return first + timedelta(days=7)
    ahead = first.month - 1 + _MONTHS[kind.value]
    return date(first.year + ahead // 12, ahead % 12 + 1, 1)


def _hour(moment: datetime, zone: ZoneInfo) -> Bounds:
    """A whole hour of the zone's clock; shorter where the zone moved its clock by part of an hour."""
    phase = _phase(moment, zone)
    start = moment - (moment - EPOCH + phase) % _HOUR
    end = start + _HOUR
    if _phase(start, zone) != phase:
        start = _change(start, moment, zone)
    if _phase(end - _TICK, zone) != phase:
        end = _change(moment, end, zone)
    return Bounds(start, end)


def _phase(moment: datetime, zone: ZoneInfo) -> timedelta:
    """By how much the zone's hours lie before those of UTC."""
    return (moment.astimezone(zone).utcoffset() or timedelta()) % _HOUR


def _change(earlier: datetime, later: datetime, zone: ZoneInfo) -> datetime:
    """The first whole second from which the zone has the phase it has just before `later`."""
    low, high = int(earlier.timestamp()), -int(-later.timestamp() // 1)
    phase = _phase(datetime.fromtimestamp(low, UTC), zone)
    while high - low > 1:
        middle = (low + high) // 2
        if _phase(datetime.fromtimestamp(middle, UTC), zone) == phase:
            low = middle
        else:
            high = middle
    return datetime.fromtimestamp(high, UTC)
