"""Days, weeks and months of a time zone's calendar, put together from rollups of UTC days and hours."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from kairos_budget.domain.calendar import PeriodKind, bounds
from kairos_budget.domain.span import Grain, Span, ceiling, floor

_HALF_A_DAY = timedelta(hours=12)


@dataclass(frozen=True, slots=True)
class Share:
    """Rows of one rollup which count for one step (by its number), or are taken off one, or both."""

    grain: Grain
    span: Span
    adds_to: int | None = None
    takes_from: int | None = None

    @property
    def weight(self) -> int:
        """How often its rows count in all steps together."""
        return (self.adds_to is not None) - (self.takes_from is not None)


@dataclass(frozen=True, slots=True)
class Steps:
    """When each step starts in the calendar, and what the steps are made of."""

    starts: Sequence[datetime]
    shares: Sequence[Share]


def calendar_steps(span: Span, kind: PeriodKind, time_zone: str, grain: Grain) -> Steps:
    """`grain` is the finest rollup that is still kept; a row counts for the step its start lies in.

    A day of Istanbul is the UTC day without its last three hours, and with those of the day before. So a
    border costs at most twelve hours of rows, and the rest are rows of whole days.
    """
    starts: list[datetime] = []
    edges = [span.starts_at]
    while edges[-1] < span.ends_at:
        step = bounds(kind, edges[-1], time_zone)
        starts.append(step.starts_at)
        edges.append(min(ceiling(step.ends_at or span.ends_at, grain), span.ends_at))
    turns = [floor(edge + _HALF_A_DAY, Grain.DAY) for edge in edges] if grain is Grain.HOUR else edges
    shares = [
        Share(Grain.DAY, Span(first, last), adds_to=number)
        for number, (first, last) in enumerate(pairwise(turns))
        if first < last
    ]
    for number, (edge, turn) in enumerate(zip(edges, turns, strict=True)):
        before = number - 1 if number else None
        after = number if number < len(starts) else None
        if turn < edge:
            shares.append(Share(grain, Span(turn, edge), before, after))
        elif edge < turn:
            shares.append(Share(grain, Span(edge, turn), after, before))
    return Steps(starts, shares)
