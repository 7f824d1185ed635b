"""Spans of time and the rollups that answer for them."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum


class Grain(StrEnum):
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"


class EmptySpan(ValueError):  # noqa: N818 - reads as the fact it states
    """A span ends after it starts; the request is refused."""


@dataclass(frozen=True, slots=True)
class Span:
    """Start inclusive, end exclusive, aware."""

    starts_at: datetime
    ends_at: datetime

    def __post_init__(self) -> None:
        if self.starts_at >= self.ends_at:
            raise EmptySpan

    @property
    def length(self) -> timedelta:
        return self.ends_at - self.starts_at

    def before(self) -> "Span":
        """The span of the same length that ends where this one starts."""
        return Span(self.starts_at - self.length, self.starts_at)


@dataclass(frozen=True, slots=True)
class Kept:
    """Since when each grain is kept; days are older than what anybody asks for."""

    minutes_since: datetime
    hours_since: datetime


@dataclass(frozen=True, slots=True)
class Piece:
    grain: Grain
    span: Span


_STEPS = {
    Grain.MINUTE: timedelta(minutes=1),
    Grain.HOUR: timedelta(hours=1),
    Grain.DAY: timedelta(days=1),
}


def floor(moment: datetime, grain: Grain) -> datetime:
    start = moment.astimezone(UTC).replace(second=0, microsecond=0)
    if grain is Grain.MINUTE:
        return start
    return start.replace(minute=0) if grain is Grain.HOUR else start.replace(hour=0, minute=0)


def ceiling(moment: datetime, grain: Grain) -> datetime:
    start = floor(moment, grain)
    return start if start == moment else start + _STEPS[grain]


def starts_in(span: Span, grain: Grain) -> Iterator[datetime]:
    """When each row of this grain starts, of a span on its borders."""
    moment = span.starts_at
    while moment < span.ends_at:
        yield moment
        moment += _STEPS[grain]


def kept_grain(moment: datetime, kept: Kept) -> Grain:
    """The finest grain that still has rows of this moment."""
    if moment >= kept.minutes_since:
        return Grain.MINUTE
    return Grain.HOUR if moment >= kept.hours_since else Grain.DAY


def widened(span: Span, kept: Kept) -> Span:
    """The span on the borders that are kept: exact to the minute, to the hour or to the UTC day by age."""
    return Span(
        floor(span.starts_at, kept_grain(span.starts_at, kept)),
        ceiling(span.ends_at, kept_grain(span.ends_at, kept)),
    )


def pieces(span: Span) -> tuple[Piece, ...]:
    """Cover a widened span with whole UTC days, whole hours at its ends, and minutes at theirs.

    A year is some 365 days and not half a million minutes, and still ends at the minute that was asked for.
    """
    return tuple(_cover(span.starts_at, span.ends_at, (Grain.DAY, Grain.HOUR, Grain.MINUTE)))


def _cover(start: datetime, end: datetime, grains: tuple[Grain, ...]) -> list[Piece]:
    if start >= end:
        return []
    grain, *finer = grains
    first, last = ceiling(start, grain), floor(end, grain)
    if not finer:
        return [Piece(grain, Span(start, end))]
    if first >= last:
        return _cover(start, end, tuple(finer))
    return [
        *_cover(start, first, tuple(finer)),
        Piece(grain, Span(first, last)),
        *_cover(last, end, tuple(finer)),
    ]
