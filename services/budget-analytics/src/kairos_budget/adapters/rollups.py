"""Usage into rows and rollups: minutes, hours and days, each added to in one statement."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncSession

from kairos_budget.adapters.bulk import columns, insert, names, unnest, write
from kairos_budget.application.ports import Usage
from kairos_budget.application.rollup import NUMBERS, Rollup, Sums
from kairos_budget.domain.attempt import SpendKey
from kairos_budget.domain.histogram import COUNT_BITS, COUNT_MASK, encode
from kairos_persistence import Database

_KEEP = text("SELECT keep_rollups(:minutes, :hours, :days)")
_USAGE = columns(
    attempt_id="uuid",
    organisation_id="uuid",
    completion_id="uuid",
    lease_id="uuid",
    project_id="uuid",
    bot_id="uuid",
    api_key_id="uuid",
    team_id="uuid",
    contact_id="uuid",
    model="text",
    deployment="text",
    provider="text",
    route="text",
    operation="text",
    priority="text",
    outcome="text",
    input_tokens="bigint",
    output_tokens="bigint",
    cached_input_tokens="bigint",
    cache_write_tokens="bigint",
    reasoning_tokens="bigint",
    audio_input_tokens="bigint",
    audio_output_tokens="bigint",
    estimated="boolean",
    cache="text",
    error="text",
    hold_nano="bigint",
    cost_nano="bigint",
    price_version="text",
    status="integer",
    streaming="boolean",
    latency_ms="integer",
    time_to_first_token_ms="integer",  # noqa: S106 - a latency, not a credential
    started_at="timestamptz",
)
_INSERT_USAGE = insert("usage_records", _USAGE)

_SERIES = columns(
    id="uuid",
    organisation_id="uuid",
    model="text",
    deployment="text",
    provider="text",
    bot_id="uuid",
    project_id="uuid",
    api_key_id="uuid",
    team_id="uuid",
)
_INSERT_SERIES = insert("usage_series", _SERIES, "ON CONFLICT (id) DO NOTHING")

_KEY = columns(organisation_id="uuid", starts_at="timestamptz", series_id="uuid")
_ROW = _KEY + columns(**dict.fromkeys(NUMBERS, "bigint"), latency="text", first_token="text")  # noqa: S106 - a duration


def _merged(name: str) -> str:
    """Counts of the same bucket add up."""
    return f"""{name} = CASE WHEN excluded.{name} = '{{}}' THEN t.{name}
    WHEN t.{name} = '{{}}' THEN excluded.{name}
    ELSE (SELECT array_agg((bucket << {COUNT_BITS}) + count ORDER BY bucket) FROM (
        SELECT entry >> {COUNT_BITS} AS bucket, CAST(sum(entry & {COUNT_MASK}) AS bigint) AS count
        FROM unnest(t.{name} || excluded.{name}) AS entry GROUP BY 1) AS merged) END"""  # noqa: S608 - constants


def _add(table: str) -> TextClause:
    sums = ", ".join(f"{name} = t.{name} + excluded.{name}" for name in NUMBERS)
    return text(f"""
INSERT INTO {table} AS t ({names(_ROW)})
SELECT {names(_KEY)}, {", ".join(NUMBERS)}, CAST(latency AS bigint[]), CAST(first_token AS bigint[])
FROM unnest({unnest(_ROW)}) WITH ORDINALITY AS given ({names(_ROW)}, position) ORDER BY position
ON CONFLICT (organisation_id, starts_at, series_id) DO UPDATE SET {sums},
    {_merged("latency")}, {_merged("first_token")}
""")  # noqa: S608 - composed of constants


_ERROR = _KEY + columns(error="text", status="integer", attempts="bigint")
_ADD_ERRORS = insert(
    "usage_errors AS t",
    _ERROR,
    "ON CONFLICT (organisation_id, starts_at, series_id, error, status)"
    " DO UPDATE SET attempts = t.attempts + excluded.attempts",
)


def _hour(moment: datetime) -> datetime:
    return moment.replace(minute=0)


def _day(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0)


_GRAINS: tuple[tuple[TextClause, Callable[[datetime], datetime]], ...] = (
    (_add("usage_minutes"), lambda moment: moment),
    (_add("usage_hours"), _hour),
    (_add("usage_days"), _day),
)


async def keep_rollups(
    database: Database, minutes_days: int, hours_days: int, days_days: int, every_s: float = 3_600.0
) -> None:
    """Make the coming partitions and drop what is older than it is kept, now and again until cancelled."""
    while True:
        async with database.system_unit_of_work() as unit:
            await unit.session.execute(
                _KEEP, {"minutes": minutes_days, "hours": hours_days, "days": days_days}
            )
        await asyncio.sleep(every_s)


async def append_usage(session: AsyncSession, counted: Sequence[Usage], told_again: Sequence[Usage]) -> None:
    await write(session, _INSERT_USAGE, _USAGE, [_usage_row(each) for each in (*counted, *told_again)])
    rollup = Rollup()
    for usage in counted:
        rollup.add(usage)
    await add_rollup(session, rollup)


async def add_rollup(session: AsyncSession, rollup: Rollup) -> None:
    """Rows are added to in key order, so that writers wait for each other but never in a circle."""
    series = sorted((each.id, *each) for each in rollup.series.values())
    await write(session, _INSERT_SERIES, _SERIES, series)
    for statement, start in _GRAINS:
        await write(session, statement, _ROW, _rows(rollup.minutes.items(), start))
    errors = [
        (each.organisation_id, each.hour.astimezone(UTC), each.series_id, each.error, each.status, count)
        for each, count in rollup.errors.items()
    ]
    await write(session, _ADD_ERRORS, _ERROR, sorted(errors))


def _rows(
    minutes: Iterable[tuple[SpendKey, Sums]], start: Callable[[datetime], datetime]
) -> list[tuple[Any, ...]]:
    merged: dict[tuple[Any, ...], Sums] = {}
    for key, sums in minutes:
        place = (key.organisation_id, start(key.minute.astimezone(UTC)), key.series_id)
        merged.setdefault(place, Sums()).merge(sums)
    return [
        (*place, *(getattr(sums, name) for name in NUMBERS), _array(sums.latency), _array(sums.first_token))
        for place, sums in sorted(merged.items(), key=lambda item: item[0])
    ]


def _array(buckets: Any) -> str:
    return "{" + ",".join(map(str, encode(buckets))) + "}"


def _usage_row(usage: Usage) -> tuple[Any, ...]:
    message = usage.message
    return (
        message.attempt_id,
        usage.organisation_id,
        message.completion_id,
        message.lease_id,
        message.project_id,
        message.bot_id,
        message.api_key_id,
        message.team_id,
        message.contact_id,
        message.model,
        message.deployment,
        message.provider,
        message.route,
        message.operation,
        message.priority,
        message.outcome,
        message.input_tokens,
        message.output_tokens,
        message.cached_input_tokens,
        message.cache_write_tokens,
        message.reasoning_tokens,
        message.audio_input_tokens,
        message.audio_output_tokens,
        message.estimated,
        message.cache,
        message.error,
        message.hold_nano_usd,
        message.cost_nano_usd,
        message.price_version,
        message.status,
        message.streaming,
        message.latency_ms,
        message.time_to_first_token_ms,
        message.started_at,
    )
