"""Past traffic, streamed in time order from rows or, when there are too many, from rollups."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from kairos_budget.adapters.analytics import CLOCK_SKEW
from kairos_budget.application.analytics import Analytics
from kairos_budget.application.simulate_budget import Method, Traffic, TrafficTooLarge
from kairos_budget.domain.budget import Scope
from kairos_budget.domain.priority import Priority
from kairos_budget.domain.simulation import PastAttempts
from kairos_budget.domain.span import Grain, kept_grain
from kairos_persistence import Database

_COLUMNS = {
    Scope.PROJECT: "project_id",
    Scope.BOT: "bot_id",
    Scope.TEAM: "team_id",
    Scope.API_KEY: "api_key_id",
    Scope.CONTACT: "contact_id",
}
_METHODS: dict[Grain, tuple[Method, str]] = {
    Grain.MINUTE: ("minutes", "usage_minutes"),
    Grain.HOUR: ("hours", "usage_hours"),
    Grain.DAY: ("days", "usage_days"),
}
# What an attempt counts against a budget: its cost, or its whole hold while its outcome is unknown. One that
# became known later has two rows; the later one tells.
_ROWS = """
SELECT started_at, CASE WHEN outcome = 'unknown' THEN hold_nano ELSE cost_nano END AS cost, 1 AS attempts,
    priority, model, bot_id
FROM usage_records u
WHERE organisation_id = :organisation AND started_at >= :since AND started_at < :until
    AND recorded_at >= :earliest
    AND outcome <> 'released' AND (cost_nano > 0 OR outcome = 'unknown')
    {where}
    AND NOT (outcome = 'unknown' AND EXISTS (
        SELECT FROM attempts a WHERE a.id = u.attempt_id AND a.outcome <> 'unknown'))
"""
_ROLLUP = """
SELECT p.starts_at AS started_at, sum(p.cost_nano)::bigint AS cost, sum(p.attempts)::bigint AS attempts,
    'normal' AS priority, s.model, s.bot_id
FROM {table} p JOIN usage_series s ON s.id = p.series_id
WHERE p.organisation_id = :organisation AND p.starts_at >= :since AND p.starts_at < :until {where}
GROUP BY p.starts_at, s.model, s.bot_id HAVING sum(p.cost_nano) > 0 ORDER BY p.starts_at, s.model, s.bot_id
"""


class PostgresPast:
    """See application.simulate_budget.Past."""

    def __init__(self, database: Database, analytics: Analytics) -> None:
        self._database = database
        self._analytics = analytics

    @asynccontextmanager
    async def replay(
        self, traffic: Traffic, most: int
    ) -> AsyncIterator[tuple[Method, AsyncIterator[PastAttempts]]]:
        kept = self._analytics.kept(await self._analytics.now())
        async with self._database.unit_of_work(traffic.organisation_id) as unit:
            column, given = _given(traffic)
            rows = _ROWS.format(where=f"AND {column}" if column else "")
            counted = text(f"SELECT count(*) FROM ({rows} LIMIT :most) AS counted")  # noqa: S608 - constants
            found = (await unit.session.execute(counted, given | {"most": most + 1})).scalar_one()
            if found <= most:
                query = f"{rows} ORDER BY started_at, attempt_id"
                yield "attempts", _stream(unit.session, query, given)
                return
            if traffic.scope is Scope.CONTACT:
                raise TrafficTooLarge
            method, table = _METHODS[kept_grain(traffic.span.starts_at, kept)]
            where = f"AND s.{column}" if column else ""
            yield method, _stream(unit.session, _ROLLUP.format(table=table, where=where), given)


def _given(traffic: Traffic) -> tuple[str, dict[str, Any]]:
    given: dict[str, Any] = {
        "organisation": traffic.organisation_id,
        "since": traffic.span.starts_at,
        "until": traffic.span.ends_at,
        "earliest": traffic.span.starts_at - CLOCK_SKEW,
    }
    if traffic.scope is Scope.ORGANISATION:
        return "", given
    if traffic.scope is Scope.MODEL:
        return "model = :model", given | {"model": traffic.model}
    return f"{_COLUMNS[traffic.scope]} = :scope_id", given | {"scope_id": traffic.scope_id}


async def _stream(session: AsyncSession, query: str, given: dict[str, Any]) -> AsyncIterator[PastAttempts]:
    result = await session.stream(text(query), given)
    async for row in result:
        priority = Priority(row.priority)
        yield PastAttempts(row.started_at, row.cost, row.attempts, priority, row.model, row.bot_id)
