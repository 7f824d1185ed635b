"""/budgets/{id}/status: how a budget stands now and where it is heading."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel

from kairos_budget.application.analytics import Dimension, Filters, Question, top
from kairos_budget.application.readings import BudgetReading
from kairos_budget.domain.budget import Budget, Scope
from kairos_budget.domain.calendar import PeriodKind
from kairos_budget.domain.forecast import METHOD, Sample, elapsed_percent, forecast
from kairos_budget.domain.span import Span, widened
from kairos_budget.entrypoints.amounts import Amount
from kairos_budget.entrypoints.budgets import BudgetOut
from kairos_budget.entrypoints.use_cases import Cases, UseCases
from kairos_contracts.permissions import Permission
from kairos_web import CurrentOrganisation, Problem, requires

CONSUMERS: tuple[Dimension, ...] = ("model", "bot", "api_key", "project", "team")
MOST_CONSUMERS = 5
MINUTE = timedelta(minutes=1)
_FILTERS = {
    Scope.PROJECT: "project_id",
    Scope.BOT: "bot_id",
    Scope.TEAM: "team_id",
    Scope.API_KEY: "api_key_id",
}


class ForecastOut(BaseModel):
    """`linear`: what was settled in the last `measured_hours` goes on at that rate.

    `exceeds_at` is null when the limit holds until the period ends, or nothing is being spent.
    """

    method: str
    measured_hours: float
    projected: Amount | None
    exceeds_at: datetime | None


class ConsumerOut(BaseModel):
    """`share` is of what the dimension's groups cost together in the period, 0 to 1."""

    key: str | None
    cost: Amount
    attempts: int
    share: float


class StatusOut(BaseModel):
    """`used_percent` counts what is settled, held and in suspense; `burn_rate` is per hour.

    `forecast` is null for a rolling period, which has no end. Consumers come from rollups: a contact's
    budget has none.
    """

    budget: BudgetOut
    as_of: datetime
    settled: Amount
    held: Amount
    suspense: Amount
    available: Amount
    used_percent: float
    elapsed_percent: float | None
    burn_rate: Amount
    forecast: ForecastOut | None
    thresholds_reached: list[int]
    top_consumers: dict[Dimension, list[ConsumerOut]]


router = APIRouter(prefix="/budgets", tags=["budgets"])


@router.get("/{budget_id}/status", dependencies=[requires(Permission.BUDGETS_READ)])
async def status(cases: Cases, budget_id: UUID, organisation_id: CurrentOrganisation) -> StatusOut:
    """The current period, to the last transaction."""
    reading = await cases.readings.budget(organisation_id, budget_id)
    if reading is None:
        raise Problem(404, "budget_not_found", "There is no such budget")
    now = await cases.analytics.now()
    balances = reading.balances
    rate, outlook = await _outlook(cases, organisation_id, reading, now)
    limit = max(balances.limit, 1)
    return StatusOut(
        budget=BudgetOut.of(reading),
        as_of=now,
        settled=Amount.of(balances.settled),
        held=Amount.of(balances.leased),
        suspense=Amount.of(balances.suspense),
        available=Amount.of(balances.available),
        used_percent=round(balances.committed * 100 / limit, 2),
        elapsed_percent=elapsed_percent(reading.bounds, now),
        burn_rate=Amount.of(rate),
        forecast=outlook,
        thresholds_reached=[
            each
            for each in reading.budget.thresholds
            if balances.settled and balances.settled * 100 >= balances.limit * each
        ],
        top_consumers=await _consumers(cases, organisation_id, reading, now),
    )


async def _outlook(
    cases: UseCases, organisation_id: UUID, reading: BudgetReading, now: datetime
) -> tuple[int, ForecastOut | None]:
    balances, budget = reading.balances, reading.budget
    if budget.period is PeriodKind.ROLLING:
        return balances.settled // (budget.window_hours or 1), None
    then = await cases.readings.sample_before(organisation_id, reading)
    found = forecast(reading.bounds, balances.limit, Sample(now, balances.settled), then)
    return found.rate, ForecastOut(
        method=METHOD,
        measured_hours=round(found.window.total_seconds() / 3_600, 3),
        projected=None if found.projected is None else Amount.of(found.projected),
        exceeds_at=found.exceeds_at,
    )


async def _consumers(
    cases: UseCases, organisation_id: UUID, reading: BudgetReading, now: datetime
) -> dict[Dimension, list[ConsumerOut]]:
    filters = filters_of(reading.budget)
    if filters is None or reading.bounds.starts_at >= now:
        return {}
    since = max(reading.bounds.starts_at, reading.budget.created_at)
    span = widened(Span(since, max(now, since + MINUTE)), cases.analytics.kept(now))
    found: dict[Dimension, list[ConsumerOut]] = {}
    for dimension in CONSUMERS:
        groups = await cases.analytics.totals(organisation_id, Question(span, (dimension,), filters))
        total = sum(figures.cost_nano for figures in groups.values())
        found[dimension] = [
            ConsumerOut(
                key=key[0],
                cost=Amount.of(figures.cost_nano),
                attempts=figures.attempts,
                share=round(figures.cost_nano / total, 6) if total else 0.0,
            )
            for key, figures in top(groups, MOST_CONSUMERS, "cost")[0]
        ]
    return found


def filters_of(budget: Budget) -> Filters | None:
    """What of the rollups counts against the budget; None when they do not tell."""
    if budget.scope is Scope.ORGANISATION:
        return Filters()
    if budget.scope is Scope.MODEL:
        return Filters(model=budget.model) if budget.model else None
    name = _FILTERS.get(budget.scope)
    given: dict[str, Any] = {name: budget.scope_id} if name else {}
    return Filters(**given) if given else None
