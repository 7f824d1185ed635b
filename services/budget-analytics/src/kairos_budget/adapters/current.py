"""Budgets with the period that is current by the database's clock."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from kairos_budget.adapters.loading import budget_of
from kairos_budget.adapters.tables import BudgetRow
from kairos_budget.adapters.windows import amounts_of
from kairos_budget.application.readings import BudgetReading
from kairos_budget.domain.book import Book
from kairos_budget.domain.budget import Budget
from kairos_budget.domain.calendar import Bounds
from kairos_budget.domain.ledger import Balances
from kairos_budget.domain.period import Period
from kairos_budget.domain.rolling import Window

_NOW = text("SELECT clock_timestamp()")
_PERIODS = text("""
SELECT p.* FROM budget_periods p
JOIN unnest(CAST(:budgets AS uuid[]), CAST(:starts AS timestamptz[])) AS wanted (budget_id, starts_at)
    USING (budget_id, starts_at)
WHERE p.opened
""")


async def current_readings(session: AsyncSession, rows: Sequence[BudgetRow]) -> list[BudgetReading]:
    """A period nobody used yet is shown as it would open; a rolling one as it is now, not as last written."""
    if not rows:
        return []
    now = (await session.execute(_NOW)).scalar_one()
    budgets = [budget_of(row) for row in rows]
    starts = [budget.bounds_at(now).starts_at for budget in budgets]
    found = await session.execute(_PERIODS, {"budgets": [each.id for each in budgets], "starts": starts})
    periods = {row.budget_id: row for row in found}
    rolling = [periods[each.id].id for each in budgets if each.window_hours and each.id in periods]
    amounts = await amounts_of(session, rolling) if rolling else {}
    return [_reading(budget, periods.get(budget.id), now, amounts) for budget in budgets]


def _reading(
    budget: Budget, row: Any, now: datetime, amounts: Mapping[UUID, Mapping[datetime, int]]
) -> BudgetReading:
    if row is None:
        unopened = Balances(limit=budget.limit_nano, available=budget.limit_nano)
        return BudgetReading(budget, budget.bounds_at(now), unopened)
    balances = Balances(
        limit=row.limit_nano,
        available=row.available_nano,
        leased=row.leased_nano,
        settled=row.settled_nano,
        suspense=row.suspense_nano,
        excess=row.excess_nano,
        overspend=row.overspend_nano,
    )
    bounds = Bounds(row.starts_at, row.ends_at)
    if budget.window_hours is not None:
        book = Book(periods={row.id: Period(row.id, budget, bounds, balances)})
        book.open_window(row.id, replace(Window(budget.window_hours, now), amounts=amounts[row.id]))
        balances = book.periods[row.id].balances
    return BudgetReading(budget, bounds, balances)
