"""From and to as people give them: a date, or a moment with its offset, in a time zone."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fastapi import Query

from kairos_budget.domain.span import EmptySpan, Span
from kairos_web import Problem

Since = Annotated[
    str | None,
    Query(alias="from", description="A date, or a moment with its offset; inclusive.", max_length=40),
]
Until = Annotated[
    str | None,
    Query(alias="to", description="A date, or a moment with its offset; exclusive.", max_length=40),
]
Zone = Annotated[
    str, Query(alias="tz", description="Time zone of dates and steps, by its IANA name.", max_length=64)
]


# Far beyond what anybody spent, and far enough from the calendar's ends to compare with the span before.
_FIRST, _LAST = datetime(1990, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


def zone_of(name: str) -> ZoneInfo:
    """Raises Problem 422."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise Problem(422, "unknown_time_zone", "There is no such time zone") from error


def span_of(since: str | None, until: str | None, zone: ZoneInfo, *, days: int) -> Span:
    """Without dates the last `days` days and today. Raises Problem 422."""
    try:
        end = (
            _moment(until, zone) if until else _midnight(datetime.now(zone).date() + timedelta(days=1), zone)
        )
        start = _moment(since, zone) if since else end - timedelta(days=days)
        asked = Span(start.astimezone(UTC), end.astimezone(UTC))
    except OverflowError as error:
        raise Problem(422, "invalid_moment", "The span begins or ends outside the calendar") from error
    except EmptySpan as error:
        raise Problem(422, "empty_range", "`from` lies before `to`") from error
    if asked.starts_at < _FIRST or asked.ends_at > _LAST:
        raise Problem(422, "invalid_moment", "The span begins or ends outside the calendar")
    return asked


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), zone)


def _moment(text: str, zone: ZoneInfo) -> datetime:
    try:
        if len(text) == len("2026-01-01"):
            return _midnight(date.fromisoformat(text), zone)
        # A plus of an offset that nobody quoted arrives as a space.
        found = datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError as error:
        raise Problem(422, "invalid_moment", f"{text!r} is neither a date nor a moment") from error
    return found if found.tzinfo else found.replace(tzinfo=zone)
