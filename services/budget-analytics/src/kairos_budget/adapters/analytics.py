"""Rollups read back, on PostgreSQL. Every query names an organisation and a span: partitions are pruned."""

import asyncio
from collections import Counter
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
from kairos_budget.domain.calendar import PeriodKind
from kairos_budget.domain.histogram import COUNT_BITS, COUNT_MASK, decode
from kairos_budget.domain.span import Grain, Kept, Piece, floor, pieces, starts_in
from kairos_budget.domain.steps import Share, Steps, calendar_steps
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
_NO_JIT = text("SET LOCAL jit = off")
_CALENDAR = frozenset({"day", "week", "month"})
_STARTS = "date_trunc(CAST(:step AS text), p.starts_at, CAST(:zone AS text))"
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
        self,
        organisation_id: UUID,
        question: Question,
        *,
        step: Step,
        time_zone: str,
        grain: Grain,
        top: int | None = None,
    ) -> dict[tuple[datetime, Key], Figures]:
        if step in _CALENDAR:
            steps = calendar_steps(question.span, PeriodKind(step), time_zone, grain)
            given = _given(organisation_id, question.filters)
            weights = [share.weight for share in steps.shares]
            series = _Series("p.place", _shared(steps.shares, given), question, given, weights)
            return _put_together(steps, await self._figures(organisation_id, series, top))
        given = _given(organisation_id, question.filters) | {"step": step, "zone": time_zone}
        part = _part((Piece(grain, question.span),), given)
        # A minute of any zone is a minute of UTC; an hour of some zones begins at half past.
        starts = "p.starts_at" if step == "minute" else _STARTS
        return await self._figures(organisation_id, _Series(starts, part, question, given), top)

    async def _figures(
        self, organisation_id: UUID, series: "_Series", top: int | None
    ) -> dict[tuple[Any, Key], Figures]:
        """Per place in the series and group; of the `top` groups by cost only, when it is given."""
        names = _HISTOGRAMS if series.question.percentiles else ()
        # Each takes a core of the database for a while; without groups to choose, none waits for another.
        early = [] if series.width > 1 and top is not None else [series.histograms(name) for name in names]
        rows, *histograms = await asyncio.gather(
            *(self._rows(organisation_id, query, series.given) for query in (series.sums(), *early))
        )
        found: dict[tuple[Any, Key], Figures] = {}
        costs: Counter[Key] = Counter()
        for row in rows:
            key = tuple(row[1 : series.width])
            found[row[0], key] = figures = _figures(row)
            costs[key] += figures.cost_nano * (series.weights[row[0]] if series.weights else 1)
        if top is not None and len(costs) > top:
            largest = sorted(costs, key=lambda key: (-costs[key], tuple(map(str, key))))[:top]
            found = {(place, key): figures for (place, key), figures in found.items() if key in largest}
            series.only(largest)
        if not early:
            later = (self._rows(organisation_id, series.histograms(name), series.given) for name in names)
            histograms = await asyncio.gather(*later)
        for name, counted in zip(names, histograms, strict=True):
            for row in counted:
                # What came between the two questions is in the next answer.
                point = found.get((row[0], tuple(row[1 : series.width])))
                if point is not None:
                    setattr(point, name, decode(row[-1]))
        return found

    async def _merge(
        self,
        organisation_id: UUID,
        part: str,
        keys: Sequence[str],
        question: Question,
        given: dict[str, Any],
        found: dict[Key, Figures],
    ) -> None:
        for name in _HISTOGRAMS if question.percentiles else ():
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
            # Compiling one of these queries takes longer than running it.
            await unit.session.execute(_NO_JIT)
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


def _shared(shares: Sequence[Share], given: dict[str, Any]) -> str:
    """Rows of every share, with its place among them."""
    selects = []
    for grain in dict.fromkeys(share.grain for share in shares):
        # Each start by itself: joined by ranges, every row could be compared with every range.
        starts = [
            (place, moment)
            for place, share in enumerate(shares)
            if share.grain is grain
            for moment in starts_in(share.span, grain)
        ]
        given |= {
            f"{grain}_places": [place for place, _ in starts],
            f"{grain}_starts": [moment for _, moment in starts],
            # Known before it runs, so that partitions are pruned.
            f"{grain}_first": starts[0][1],
            f"{grain}_last": starts[-1][1],
        }
        selects.append(f"""
            SELECT r.place, {_COLUMNS} FROM {_TABLES[grain]} JOIN unnest(
                CAST(:{grain}_places AS int[]), CAST(:{grain}_starts AS timestamptz[])
            ) AS r(place, starts) ON starts_at = r.starts
            WHERE organisation_id = :organisation
                AND starts_at >= :{grain}_first AND starts_at <= :{grain}_last
        """)  # noqa: S608 - composed of constants
    return " UNION ALL ".join(selects)


class _Series:
    """The queries of one series: `place` says where on it a row of `part` lies.

    `weights` says how often each place counts in the whole series; once when they are empty.
    """

    def __init__(
        self,
        place: str,
        part: str,
        question: Question,
        given: dict[str, Any],
        weights: Sequence[int] = (),
    ) -> None:
        self.question = question
        self.given = given
        self.weights = weights
        self._keys = _keys(question.group_by)
        self._columns = [place, *self._keys]
        self.width = len(self._columns)
        where = _where(question.filters)
        self._rows = f"({part}) p"
        if self._keys or where:
            self._rows += " JOIN usage_series s ON s.id = p.series_id"
            where = f" AND s.organisation_id = :organisation{where}"
        self._where = f"WHERE true{where}"

    def only(self, groups: Sequence[Key]) -> None:
        """Leave all other groups out."""
        names = [f"wanted_{number}" for number in range(len(self._keys))]
        for number, name in enumerate(names):
            self.given[name] = [key[number] for key in groups]
        arrays = ", ".join(f"CAST(:{name} AS text[])" for name in names)
        equal = " AND ".join(
            f"w.{name} IS NOT DISTINCT FROM {key}" for name, key in zip(names, self._keys, strict=True)
        )
        self._where += f" AND EXISTS (SELECT 1 FROM unnest({arrays}) AS w({', '.join(names)}) WHERE {equal})"  # noqa: S608 - composed of constants

    def sums(self) -> str:
        names = ", ".join((*self._columns, _SUMS))
        return f"SELECT {names} FROM {self._rows} {self._where} GROUP BY {_positions(self.width)}"  # noqa: S608 - composed of constants

    def histograms(self, name: str) -> str:
        """One row per point: a row per bucket would be fifty times as many to read."""
        names = [f"k{number}" for number in range(self.width)]
        keys = ", ".join(names)
        named = ", ".join(f"{column} AS {name}" for column, name in zip(self._columns, names, strict=True))
        return f"""
            SELECT {keys}, array_agg((bucket << {COUNT_BITS}) + counted) FROM (
                SELECT {keys}, entry >> {COUNT_BITS} AS bucket, sum(entry & {COUNT_MASK})::bigint AS counted
                FROM (SELECT {named}, unnest(p.{name}) AS entry FROM {self._rows} {self._where}) entries
                GROUP BY {keys}, bucket
            ) buckets GROUP BY {keys}
        """  # noqa: S608 - composed of constants


def _put_together(
    steps: Steps, found: Mapping[tuple[Any, Key], Figures]
) -> dict[tuple[datetime, Key], Figures]:
    """Figures of steps from those of their shares; steps without usage are left out."""
    whole: dict[tuple[datetime, Key], Figures] = {}
    for (place, key), figures in found.items():
        share = steps.shares[place]
        for number, put in ((share.adds_to, Figures.add), (share.takes_from, Figures.take)):
            if number is not None:
                put(whole.setdefault((steps.starts[number], key), Figures()), figures)
    return {at: figures for at, figures in whole.items() if figures.attempts}


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
