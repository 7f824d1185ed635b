"""Past traffic against a budget that did not exist: what it would have let through.

Attempts are taken in the order they started, at what they cost. An attempt that does not fit, with what is
reserved for higher priorities, is refused, or answered by a local model at no cost; a smaller one behind it
may still fit. Holds under way are not simulated, so near the end a real budget refuses somewhat earlier.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from kairos_budget.domain.calendar import Bounds, PeriodKind, bounds
from kairos_budget.domain.priority import Priority, Reserves


@dataclass(frozen=True, slots=True)
class PastAttempts:
    """`count` attempts that cost `cost` nano-USD together; more than one when it comes from a rollup."""

    started_at: datetime
    cost: int
    count: int
    priority: Priority
    model: str
    bot_id: UUID | None


@dataclass(frozen=True, slots=True)
class Terms:
    """The budget that is tried. `window_hours` is the length of a rolling one."""

    limit: int
    period: PeriodKind
    time_zone: str
    window_hours: int | None
    reserves: Reserves


@dataclass(slots=True)
class PeriodResult:
    bounds: Bounds
    spent: int = 0
    allowed: int = 0
    stopped: int = 0
    stopped_cost: int = 0
    exhausted_at: datetime | None = None


@dataclass(slots=True)
class Simulation:
    """`stopped` are attempts that would not have been made as they were, `by_*` counts and costs of these."""

    attempts: int = 0
    cost: int = 0
    periods: list[PeriodResult] = field(default_factory=list)
    by_model: dict[str, tuple[int, int]] = field(default_factory=dict)
    by_bot: dict[str, tuple[int, int]] = field(default_factory=dict)
    by_day: dict[str, tuple[int, int]] = field(default_factory=dict)
    by_priority: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def stopped(self) -> int:
        return sum(period.stopped for period in self.periods)

    @property
    def stopped_cost(self) -> int:
        return sum(period.stopped_cost for period in self.periods)

    @property
    def exhausted_at(self) -> datetime | None:
        return next((period.exhausted_at for period in self.periods if period.exhausted_at), None)


class Replay:
    """Takes attempts in time order; `result` may be read at any time."""

    def __init__(self, terms: Terms) -> None:
        self.result = Simulation()
        self._terms = terms
        self._window: deque[tuple[datetime, int]] = deque()
        self._in_window = 0

    def run(self, traffic: Iterable[PastAttempts]) -> Simulation:
        for attempts in traffic:
            self.take(attempts)
        return self.result

    def take(self, past: PastAttempts) -> None:
        self.result.attempts += past.count
        self.result.cost += past.cost
        period = self._period(past.started_at)
        room = self._terms.limit - self._spent(period, past.started_at)
        room -= self._terms.reserves.floor(self._terms.limit, past.priority)
        fits = past.count if past.cost <= room else _fitting(past, room)
        spent = past.cost if fits == past.count else past.cost * fits // past.count
        period.spent += spent
        period.allowed += fits
        if self._terms.window_hours is not None and spent:
            self._window.append((past.started_at, spent))
            self._in_window += spent
        if fits < past.count:
            self._stop(period, past, past.count - fits, past.cost - spent)

    def _period(self, moment: datetime) -> PeriodResult:
        periods = self.result.periods
        if not periods or not periods[-1].bounds.contains(moment):
            periods.append(PeriodResult(bounds(self._terms.period, moment, self._terms.time_zone)))
        return periods[-1]

    def _spent(self, period: PeriodResult, moment: datetime) -> int:
        if self._terms.window_hours is None:
            return period.spent
        since = moment - timedelta(hours=self._terms.window_hours)
        while self._window and self._window[0][0] <= since:
            self._in_window -= self._window.popleft()[1]
        return self._in_window

    def _stop(self, period: PeriodResult, past: PastAttempts, count: int, cost: int) -> None:
        period.stopped += count
        period.stopped_cost += cost
        period.exhausted_at = period.exhausted_at or past.started_at
        result = self.result
        for groups, key in (
            (result.by_model, past.model),
            (result.by_bot, str(past.bot_id) if past.bot_id else ""),
            (result.by_day, past.started_at.date().isoformat()),
            (result.by_priority, past.priority.value),
        ):
            counted, costed = groups.get(key, (0, 0))
            groups[key] = (counted + count, costed + cost)


def _fitting(past: PastAttempts, room: int) -> int:
    """How many of them fit when each costs the same."""
    return max(room, 0) * past.count // past.cost if past.cost else past.count
