"""What many attempts add to the rollups, summed before it is written."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from kairos_budget.application.ports import Usage
from kairos_budget.domain.attempt import SpendChange, SpendKey
from kairos_budget.domain.histogram import bucket_of
from kairos_budget.domain.series import Series
from kairos_contracts.llm.v1 import UsageRecordedV1

LOWEST_FAILURE = 400


@dataclass(slots=True)
class Sums:
    """Counts, nano-USD, tokens, and durations in milliseconds per histogram bucket."""

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

    def add(self, message: UsageRecordedV1, error: str | None) -> None:
        """Durations count answers of providers only: no failures, no answers from the cache."""
        self.attempts += 1
        self.input_tokens += message.input_tokens
        self.output_tokens += message.output_tokens
        self.cached_input_tokens += message.cached_input_tokens
        self.cache_write_tokens += message.cache_write_tokens
        self.reasoning_tokens += message.reasoning_tokens
        self.audio_input_tokens += message.audio_input_tokens
        self.audio_output_tokens += message.audio_output_tokens
        if message.outcome == "settled":
            self.cost_nano += message.cost_nano_usd
        elif message.outcome == "unknown":
            self.unknown_attempts += 1
        if error is not None:
            self.errors += 1
        elif message.cache is not None:
            self.cache_hits += 1
        else:
            self.latency[bucket_of(message.latency_ms)] += 1
            if message.time_to_first_token_ms is not None:
                self.first_token[bucket_of(message.time_to_first_token_ms)] += 1

    def merge(self, other: "Sums") -> None:
        for name in NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.latency.update(other.latency)
        self.first_token.update(other.first_token)


NUMBERS = tuple(name for name in Sums.__dataclass_fields__ if name not in {"latency", "first_token"})


@dataclass(frozen=True, slots=True)
class ErrorKey:
    organisation_id: UUID
    hour: datetime
    series_id: UUID
    error: str
    status: int


def error_of(message: UsageRecordedV1) -> str | None:
    """An older router names no error; its status tells as much."""
    if message.error is not None:
        return message.error
    return f"http_{message.status}" if message.status >= LOWEST_FAILURE else None


class Rollup:
    """Collects; `minutes` is what to add per minute and series, `series` who they are about."""

    def __init__(self) -> None:
        self.series: dict[UUID, Series] = {}
        self.minutes: dict[SpendKey, Sums] = {}
        self.errors: Counter[ErrorKey] = Counter()
        self._ids: dict[Series, UUID] = {}

    def series_of(self, usage: Usage) -> UUID:
        message = usage.message
        series = Series(
            usage.organisation_id,
            message.model,
            message.deployment,
            message.provider,
            message.bot_id,
            message.project_id,
            message.api_key_id,
            message.team_id,
        )
        found = self._ids.get(series)
        if found is None:
            found = self._ids[series] = series.id
            self.series[found] = series
        return found

    def add(self, usage: Usage) -> None:
        message = usage.message
        series_id = self.series_of(usage)
        minute = message.started_at.replace(second=0, microsecond=0)
        key = SpendKey(usage.organisation_id, minute, series_id)
        sums = self.minutes.get(key)
        if sums is None:
            sums = self.minutes[key] = Sums()
        error = error_of(message)
        sums.add(message, error)
        if error is not None:
            hour = minute.replace(minute=0)
            self.errors[ErrorKey(usage.organisation_id, hour, series_id, error, message.status)] += 1

    def change(self, changes: Mapping[SpendKey, SpendChange]) -> None:
        """Add what became known of attempts that were counted before."""
        for key, change in changes.items():
            sums = self.minutes.setdefault(key, Sums())
            sums.attempts += change.attempts
            sums.unknown_attempts += change.unknown
            sums.cost_nano += change.cost
            sums.input_tokens += change.input_tokens
            sums.output_tokens += change.output_tokens

    def know(self, series: Iterable[Series]) -> None:
        self.series.update({each.id: each for each in series})
