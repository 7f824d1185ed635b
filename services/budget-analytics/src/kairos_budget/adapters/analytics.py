"""Rollups read back, on PostgreSQL. Every query names an organisation and a span: partitions are pruned."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text

from kairos_budget.application.analytics import (
    SUMS,
    Dimension,
    ErrorCount,
    Figures,
    Filters,
    Key,
    Question,
    Step,
    UsageFilters,
    UsageReading,
)
from kairos_budget.application.readings import BadPosition, Slice
from kairos_budget.domain.histogram import COUNT_BITS, COUNT_MASK
from kairos_budget.domain.span import Grain, Kept, Piece, floor, pieces
from kairos_persistence import Database

_TABLES = {Grain.MINUTE: "usage_minutes", Grain.HOUR: "usage_hours", Grain.DAY: "usage_days"}
_DIMENSIONS: Mapping[Dimension, str] = {
    "model": "s.model",
    "deployment": "s.deployment",
    "provider": "s.provider",
    "bot": "s.bot_id::text",
    "project": "s.project_id::text",
    "api_key": "s.api_key_id::text",
    "team": "s.team_id::text",
}
_SUMS = ", ".join(f"sum(p.{name})::bigint AS {name}" for name in SUMS)
_COLUMNS = ", ".join(("series_id", "starts_at", *SUMS, "latency", "first_token"))
_HISTOGRAMS = ("latency", "first_token")
# How far a router's clock may be ahead of the database's for its usage still to be found by when it started.
CLOCK_SKEW = timedelta(hours=1)
_USAGE_COLUMNS = (
    "recorded_at, attempt_id, completion_id, lease_id, project_id, bot_id, api_key_id, team_id, contact_id,"
    " model, deployment, provider, route, operation, priority, outcome, input_tokens, output_tokens,"
    " cached_input_tokens, cache_write_tokens, reasoning_tokens, audio_input_tokens, audio_output_tokens,"
    " estimated, cache, error, hold_nano, cost_nano, price_version, status, streaming, latency_ms,"
    " time_to_first_token_ms, started_at"
)


class PostgresAnalytics:
    """See application.analytics.Analytics."""

    def __init__(self, database: Database, *, minutes_days: int, hours_days: int) -> None:
        self._database = database
        self._minutes = timedelta(days=minutes_days)
        self._hours = timedelta(days=hours_days)

    async def now(self) -> datetime:
        async with self._database.system_unit_of_work() as unit:
            found: datetime = (await unit.session.execute(text("SELECT clock_timestamp()"))).scalar_one()
            return found

    def kept(self, now: datetime) -> Kept:
        today = floor(now, Grain.DAY)
        return Kept(today - self._minutes, today - self._hours)

    async def totals(self, organisation_id: UUID, question: Question) -> dict[Key, Figures]:
        given = _given(organisation_id, question.filters)
        part = _part(pieces(question.span), given)
        keys = _keys(question.group_by)
        found: dict[Key, Figures] = {}
        for row in await self._rows(organisation_id, _summed(part, keys, question.filters), given):
            found[tuple(row[: len(question.group_by)])] = _figures(row)
        await self._merge(organisation_id, part, keys, question, given, found)
        return found

    async def series(
        self, organisation_id: UUID, question: Question, *, step: Step, time_zone: str, grain: Grain
    ) -> dict[tuple[datetime, Key], Figures]:
        given = _given(organisation_id, question.filters) | {"step": step, "zone": time_zone}
        part = _part((Piece(grain, question.span),), given)
        starts = "date_trunc(CAST(:step AS text), p.starts_at, CAST(:zone AS text))"
        keys = [starts, *_keys(question.group_by)]
        width = len(keys)
        found: dict[Key, Figures] = {}
        for row in await self._rows(organisation_id, _summed(part, keys, question.filters), given):
            found[tuple(row[:width])] = _figures(row)
        await self._merge(organisation_id, part, keys, question, given, found)
        return {(key[0], key[1:]): figures for key, figures in found.items()}  # type: ignore[misc]  # a moment

    async def _merge(
        self,
        organisation_id: UUID,
        part: str,
        keys: Sequence[str],
        question: Question,
        given: dict[str, Any],
        found: dict[Key, Figures],
    ) -> None:
        for name in _HISTOGRAMS:
            query = _histogram(part, keys, question.filters, name)
            for row in await self._rows(organisation_id, query, given):
                getattr(found[tuple(row[:-2])], name)[row[-2]] += int(row[-1])

    async def errors(self, organisation_id: UUID, question: Question) -> Sequence[ErrorCount]:
        given = _given(organisation_id, question.filters)
        given |= {"since": question.span.starts_at, "until": question.span.ends_at}
        keys = _keys(question.group_by)
        names = ", ".join((*keys, "p.error", "p.status"))
        query = f"""
            SELECT {names}, sum(p.attempts)::bigint
            FROM usage_errors p JOIN usage_series s ON s.id = p.series_id
            WHERE p.organisation_id = :organisation AND p.starts_at >= :since AND p.starts_at < :until
                {_where(question.filters)}
            GROUP BY {_positions(len(keys) + 2)} ORDER BY {len(keys) + 3} DESC, {_positions(len(keys) + 2)}
        """  # noqa: S608 - composed of constants
        rows = await self._rows(organisation_id, query, given)
        return [ErrorCount(tuple(row[: len(keys)]), row[-3], row[-2], int(row[-1])) for row in rows]

    async def usage(
        self, organisation_id: UUID, part: Slice, wanted: UsageFilters
    ) -> tuple[Sequence[UsageReading], dict[str, Any] | None]:
        given: dict[str, Any] = {"organisation": organisation_id, "limit": part.limit + 1}
        conditions = ["organisation_id = :organisation"]
        plain = {name: getattr(wanted.filters, name) for name in Filters.__dataclass_fields__}
        plain |= {
            name: getattr(wanted, name)
            for name in ("contact_id", "completion_id", "route", "outcome", "error")
        }
        for name, value in plain.items():
            if value is not None:
                conditions.append(f"{name} = :{name}")
                given[name] = value
        if wanted.span is not None:
            conditions += [
                "started_at >= :since AND started_at < :until AND recorded_at >= :earliest",
            ]
            given |= {"since": wanted.span.starts_at, "until": wanted.span.ends_at}
            # Nothing is recorded before it starts, so the days before need not be looked at.
            given["earliest"] = wanted.span.starts_at - CLOCK_SKEW
        if part.after is not None:
            conditions.append("(recorded_at, attempt_id) < (:after_at, :after_id)")
            given |= _position(part.after)
        query = (
            f"SELECT {_USAGE_COLUMNS} FROM usage_records WHERE {' AND '.join(conditions)}"  # noqa: S608 - constants
            " ORDER BY recorded_at DESC, attempt_id DESC LIMIT :limit"
        )
        rows = [UsageReading(dict(row._mapping)) for row in await self._rows(organisation_id, query, given)]  # noqa: SLF001 - SQLAlchemy's public name for a row as a mapping
        if len(rows) <= part.limit:
            return rows, None
        last = rows[part.limit - 1].facts
        return rows[: part.limit], {"at": last["recorded_at"].isoformat(), "id": str(last["attempt_id"])}

    async def _rows(self, organisation_id: UUID, query: str, given: dict[str, Any]) -> Sequence[Any]:
        async with self._database.unit_of_work(organisation_id) as unit:
            return list(await unit.session.execute(text(query), given))


def _position(after: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"after_at": datetime.fromisoformat(after["at"]), "after_id": UUID(after["id"])}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadPosition from error


def _given(organisation_id: UUID, filters: Filters) -> dict[str, Any]:
    named = {name: getattr(filters, name) for name in Filters.__dataclass_fields__}
    return {"organisation": organisation_id} | {
        name: value for name, value in named.items() if value is not None
    }


def _keys(group_by: Sequence[Dimension]) -> list[str]:
    return [_DIMENSIONS[each] for each in group_by]


def _where(filters: Filters) -> str:
    named = [name for name in Filters.__dataclass_fields__ if getattr(filters, name) is not None]
    return "".join(f" AND s.{name} = :{name}" for name in named)


def _positions(count: int) -> str:
    return ", ".join(str(number) for number in range(1, count + 1))


def _part(parts: Sequence[Piece], given: dict[str, Any]) -> str:
    """Rows of every piece of the span, each from its own rollup."""
    selects = []
    for number, piece in enumerate(parts):
        given |= {f"since_{number}": piece.span.starts_at, f"until_{number}": piece.span.ends_at}
        selects.append(
            f"SELECT {_COLUMNS} FROM {_TABLES[piece.grain]} WHERE organisation_id = :organisation"  # noqa: S608 - constants
            f" AND starts_at >= :since_{number} AND starts_at < :until_{number}"
        )
    return " UNION ALL ".join(selects)


def _summed(part: str, keys: Sequence[str], filters: Filters) -> str:
    names = ", ".join((*keys, _SUMS))
    grouped = f"GROUP BY {_positions(len(keys))}" if keys else "HAVING count(*) > 0"
    return f"""
        SELECT {names} FROM ({part}) p JOIN usage_series s ON s.id = p.series_id
        WHERE s.organisation_id = :organisation {_where(filters)} {grouped}
    """  # noqa: S608 - composed of constants


def _histogram(part: str, keys: Sequence[str], filters: Filters, name: str) -> str:
    names = ", ".join((*keys, f"entry >> {COUNT_BITS}", f"sum(entry & {COUNT_MASK})::bigint"))
    return f"""
        SELECT {names} FROM ({part}) p JOIN usage_series s ON s.id = p.series_id, unnest(p.{name}) AS entry
        WHERE s.organisation_id = :organisation {_where(filters)} GROUP BY {_positions(len(keys) + 1)}
    """  # noqa: S608 - composed of constants


def _figures(row: Any) -> Figures:
    figures = Figures()
    for name in SUMS:
        setattr(figures, name, int(getattr(row, name)))
    return figures
