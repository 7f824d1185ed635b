"""Samples of what periods had settled, and what was last forecast from them."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession

from kairos_budget.adapters.loading import BUDGET_COLUMNS, budget_of
from kairos_budget.application.ports import Outlook
from kairos_budget.domain.calendar import Bounds
from kairos_budget.domain.forecast import Sample
from kairos_budget.domain.ledger import Balances
from kairos_budget.domain.period import Period

_ALONE = text("SELECT pg_try_advisory_xact_lock(hashtextextended('kairos.budget.samples', 0))")
_OLD = text("DELETE FROM budget_samples WHERE sampled_at < clock_timestamp() - interval '50 hours'")
# The window is that of domain.forecast.window_of. Before a sample is as old as it, the oldest one counts, or
# the beginning of the period or the budget with nothing settled.
_WINDOW = (
    "greatest(interval '15 minutes', least(interval '24 hours', coalesce((p.ends_at - p.starts_at) / 24,"
    " interval '24 hours')))"
)
_THEN = f"""
LEFT JOIN LATERAL (
    SELECT sampled_at, settled_nano FROM budget_samples s
    WHERE s.period_id = p.id AND s.sampled_at <= now() - {_WINDOW} ORDER BY sampled_at DESC LIMIT 1
) aged ON true
LEFT JOIN LATERAL (
    SELECT sampled_at, settled_nano FROM budget_samples s
    WHERE s.period_id = p.id ORDER BY sampled_at LIMIT 1
) oldest ON aged.sampled_at IS NULL AND p.starts_at < b.created_at
"""  # noqa: S608 - composed of constants
_OUTLOOKS = text(f"""
SELECT now() AS at, p.id AS period_id, p.starts_at, p.ends_at, p.limit_nano AS period_limit, p.available_nano,
    p.leased_nano, p.settled_nano, p.suspense_nano, p.excess_nano, p.overspend_nano,
    coalesce(aged.sampled_at, oldest.sampled_at, greatest(p.starts_at, b.created_at)) AS then_at,
    coalesce(aged.settled_nano, oldest.settled_nano, 0) AS then_settled, coalesce(f.over, false) AS over,
    {BUDGET_COLUMNS}
FROM budget_periods p JOIN budgets b ON b.id = p.budget_id LEFT JOIN budget_forecasts f ON f.period_id = p.id
{_THEN}
WHERE b.active AND p.opened AND b.period <> 'rolling' AND p.starts_at <= now()
    AND (p.ends_at IS NULL OR p.ends_at > now())
    AND NOT EXISTS (SELECT FROM budget_samples s WHERE s.period_id = p.id
        AND s.sampled_at > now() - interval '20 seconds')
ORDER BY p.id
""")  # noqa: S608 - composed of constants
_SAMPLE = text("""
INSERT INTO budget_samples (period_id, sampled_at, organisation_id, settled_nano)
SELECT id, now(), organisation_id, settled_nano FROM budget_periods WHERE id = ANY(CAST(:ids AS uuid[]))
ON CONFLICT DO NOTHING
""")
_THEN_OF = text(f"""
SELECT coalesce(aged.sampled_at, oldest.sampled_at, greatest(p.starts_at, b.created_at)) AS at,
    coalesce(aged.settled_nano, oldest.settled_nano, 0) AS settled
FROM budget_periods p JOIN budgets b ON b.id = p.budget_id {_THEN}
WHERE p.budget_id = :budget AND p.starts_at = :starts
""")  # noqa: S608 - composed of constants
_KEEP = text("""
INSERT INTO budget_forecasts (period_id, organisation_id, over, crossings, exceeds_at)
VALUES (:period, :organisation, :over, :crossing, :exceeds_at)
ON CONFLICT (period_id) DO UPDATE SET over = excluded.over, exceeds_at = excluded.exceeds_at,
    crossings = budget_forecasts.crossings + excluded.crossings, updated_at = clock_timestamp()
""")


async def take_samples(session: AsyncSession) -> list[Outlook]:
    if not (await session.execute(_ALONE)).scalar_one():
        return []
    await session.execute(_OLD)
    rows = (await session.execute(_OUTLOOKS)).all()
    if rows:
        await session.execute(_SAMPLE, {"ids": [row.period_id for row in rows]})
    return [_outlook(row) for row in rows]


async def sample_before(session: AsyncSession, budget_id: UUID, starts_at: datetime) -> Sample | None:
    """What the rate of a period is measured from; None before it was opened."""
    found = await session.execute(_THEN_OF, {"budget": budget_id, "starts": starts_at})
    row = found.one_or_none()
    return Sample(row.at, row.settled) if row else None


async def keep_forecast(
    session: AsyncSession, period: Period, *, over: bool, exceeds_at: datetime | None, crossing: bool
) -> None:
    await session.execute(
        _KEEP,
        {
            "period": period.id,
            "organisation": period.budget.organisation_id,
            "over": over,
            "crossing": int(crossing),
            "exceeds_at": exceeds_at,
        },
    )


def _outlook(row: Row[Any]) -> Outlook:
    balances = Balances(
        limit=row.period_limit,
        available=row.available_nano,
        leased=row.leased_nano,
        settled=row.settled_nano,
        suspense=row.suspense_nano,
        excess=row.excess_nano,
        overspend=row.overspend_nano,
    )
    period = Period(row.period_id, budget_of(row), Bounds(row.starts_at, row.ends_at), balances)
    return Outlook(period, row.at, Sample(row.then_at, row.then_settled), row.over)
