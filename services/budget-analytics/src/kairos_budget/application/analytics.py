"""Questions about usage, answered from rollups, and the port that answers them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol
from uuid import UUID

from kairos_budget.application.readings import Slice
from kairos_budget.domain.histogram import percentile
from kairos_budget.domain.span import Grain, Kept, Span

Dimension = Literal["model", "deployment", "provider", "bot", "project", "api_key", "team"]
Step = Literal["minute", "hour", "day", "week", "month"]
Sort = Literal["cost", "attempts", "errors", "tokens"]
Key = tuple[str | None, ...]
PERCENTS = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class Filters:
    """Only usage of these; empty means all."""

    model: str | None = None
    deployment: str | None = None
    provider: str | None = None
    bot_id: UUID | None = None
    project_id: UUID | None = None
    api_key_id: UUID | None = None
    team_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Question:
    span: Span
    group_by: tuple[Dimension, ...]
    filters: Filters = Filters()
    percentiles: bool = True


@dataclass(slots=True)
class Figures:
    """Sums of one group. `latency` and `first_token` count per histogram bucket; empty unless asked for."""

    attempts: int = 0
    unknown_attempts: int = 0
    errors: int = 0
    cache_hits: int = 0
    cost_nano: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    latency: Counter[int] = field(default_factory=Counter)
    first_token: Counter[int] = field(default_factory=Counter)

    def latency_at(self, percent: float) -> float | None:
        return percentile(self.latency, percent)

    def first_token_at(self, percent: float) -> float | None:
        return percentile(self.first_token, percent)

    def add(self, other: "Figures") -> None:
        for name in SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.latency.update(other.latency)
        self.first_token.update(other.first_token)

    def take(self, other: "Figures") -> None:
        """What was counted in both of them is counted no more."""
        for name in SUMS:
            setattr(self, name, getattr(self, name) - getattr(other, name))
        self.latency.subtract(other.latency)
        self.first_token.subtract(other.first_token)

    def rank(self, sort: Sort) -> int:
        if sort == "tokens":
            return self.input_tokens + self.output_tokens
        ranks = {"cost": self.cost_nano, "attempts": self.attempts, "errors": self.errors}
        return ranks[sort]


SUMS = tuple(name for name in Figures.__dataclass_fields__ if name not in {"latency", "first_token"})


@dataclass(frozen=True, slots=True)
class ErrorCount:
    key: Key
    error: str
    status: int
    attempts: int


@dataclass(frozen=True, slots=True)
class UsageReading:
    """One attempt as its router reported it; the columns of usage_records by name."""

    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class UsageFilters:
    filters: Filters
    span: Span | None = None
    contact_id: UUID | None = None
    completion_id: UUID | None = None
    route: str | None = None
    outcome: str | None = None
    error: str | None = None


class Analytics(Protocol):
    """Reads one organisation's rollups; no method reads usage rows but `usage`, page by page."""

    async def now(self) -> datetime:
        """The database's clock."""

    def kept(self, now: datetime) -> Kept: ...

    async def totals(self, organisation_id: UUID, question: Question) -> dict[Key, Figures]:
        """Per group, of a span on borders that are kept."""

    async def series(
        self,
        organisation_id: UUID,
        question: Question,
        *,
        step: Step,
        time_zone: str,
        grain: Grain,
        top: int | None = None,
    ) -> dict[tuple[datetime, Key], Figures]:
        """Per step of the time zone's calendar and group; of the `top` groups by cost when it is given.

        `grain` is the finest rollup that is kept for the whole span.
        """

    async def errors(self, organisation_id: UUID, question: Question) -> Sequence[ErrorCount]:
        """Failures by code and status, in whole hours."""

    async def usage(
        self, organisation_id: UUID, part: Slice, wanted: UsageFilters
    ) -> tuple[Sequence[UsageReading], dict[str, Any] | None]:
        """Attempts as they were reported, the newest record first."""


def top(
    groups: Mapping[Key, Figures], count: int, sort: Sort
) -> tuple[list[tuple[Key, Figures]], Figures | None]:
    """The largest groups, and all others as one; None when there are no others."""
    ranked = sorted(groups.items(), key=lambda item: (-item[1].rank(sort), tuple(map(str, item[0]))))
    if len(ranked) <= count:
        return ranked, None
    rest = Figures()
    for _, figures in ranked[count:]:
        rest.add(figures)
    return ranked[:count], rest
