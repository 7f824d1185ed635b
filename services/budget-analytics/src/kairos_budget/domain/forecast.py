"""When a period's limit will be passed if spending goes on as it does now.

Linear: what was settled within the last 24th of the period, but at least 15 minutes and at most a day, goes
on at that rate. A crossing is told once; it counts as over until the projection falls below nine tenths of
the limit, so a projection that wobbles around the limit is not told again and again.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from kairos_budget.domain.calendar import Bounds

METHOD: Final = "linear"
SHORTEST: Final = timedelta(minutes=15)
LONGEST: Final = timedelta(hours=24)
CLEARED_BELOW_PERCENT: Final = 90


@dataclass(frozen=True, slots=True)
class Sample:
    """What a period had settled at a moment, nano-USD."""

    at: datetime
    settled: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """`rate` is nano-USD per hour. `projected` is settled at the end of the period, if it ends."""

    rate: int
    window: timedelta
    projected: int | None
    exceeds_at: datetime | None


def window_of(bounds: Bounds) -> timedelta:
    """How far back the present rate is measured."""
    if bounds.ends_at is None:
        return LONGEST
    return max(SHORTEST, min(LONGEST, (bounds.ends_at - bounds.starts_at) / 24))


def forecast(bounds: Bounds, limit: int, now: Sample, then: Sample) -> Forecast:
    """`then` is an earlier sample of the same period, or its beginning with nothing settled."""
    window = now.at - then.at
    spent = max(now.settled - then.settled, 0)
    seconds = max(window.total_seconds(), 1.0)
    rate = round(spent * 3_600 / seconds)
    projected = None
    if bounds.ends_at is not None:
        projected = now.settled + round(rate * max((bounds.ends_at - now.at).total_seconds(), 0) / 3_600)
    exceeds_at = None
    left = limit - now.settled
    if rate and left >= 0:
        hours = left / rate
        # Further away than a century is never.
        if hours < 24 * 36_525:
            exceeds_at = now.at + timedelta(hours=hours)
    if exceeds_at is not None and bounds.ends_at is not None and exceeds_at >= bounds.ends_at:
        exceeds_at = None
    return Forecast(rate, window, projected, exceeds_at)


def elapsed_percent(bounds: Bounds, now: datetime) -> float | None:
    if bounds.ends_at is None:
        return None
    part = (now - bounds.starts_at) / (bounds.ends_at - bounds.starts_at)
    return round(min(max(part, 0.0), 1.0) * 100, 2)


def is_over(found: Forecast, limit: int, now: Sample, *, was_over: bool) -> bool:
    """Whether the period counts as heading over its limit."""
    if now.settled >= limit:
        return True
    if not was_over:
        # A shorter measurement says too little.
        return found.exceeds_at is not None and found.window >= SHORTEST
    if found.projected is None:
        return found.exceeds_at is not None
    return found.projected * 100 >= limit * CLEARED_BELOW_PERCENT
