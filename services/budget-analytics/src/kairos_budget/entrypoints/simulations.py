"""/budgets/simulate: what a budget would have done to the traffic of the past."""

from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, Field, model_validator

from kairos_budget.application.simulate_budget import Method, Traffic, TrafficTooLarge
from kairos_budget.domain.budget import Scope
from kairos_budget.domain.calendar import PeriodKind
from kairos_budget.domain.simulation import PeriodResult, Simulation, Terms
from kairos_budget.entrypoints.amounts import Amount
from kairos_budget.entrypoints.budgets import MAX_WINDOW_HOURS, Limit, ReservesShape, TimeZone
from kairos_budget.entrypoints.moments import span_of, zone_of
from kairos_budget.entrypoints.use_cases import Cases
from kairos_contracts.permissions import Permission
from kairos_contracts.scopes import model_scope_id
from kairos_web import CurrentOrganisation, Problem, requires

DEFAULT_DAYS = 30
MOST_PERIODS = 400


class SimulationIn(Limit):
    """A budget as in `POST /budgets`, and the span to try it on (`from`, `to`: dates or moments).

    `when_exhausted`: what becomes of requests that do not fit, refusal or a local model at no cost.
    """

    scope: Scope = Scope.ORGANISATION
    scope_id: UUID | None = None
    model: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    period: PeriodKind = PeriodKind.MONTH
    window_hours: Annotated[int, Field(ge=1, le=MAX_WINDOW_HOURS)] | None = None
    time_zone: TimeZone = "UTC"
    reserves: ReservesShape = ReservesShape()
    since: Annotated[str | None, Field(alias="from", max_length=40)] = None
    until: Annotated[str | None, Field(alias="to", max_length=40)] = None
    when_exhausted: Literal["refuse", "local"] = "refuse"

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.limit is None:
            raise ValueError("a budget has a limit")
        if (self.period is PeriodKind.ROLLING) != (self.window_hours is not None):
            raise ValueError("a rolling period has window_hours, others have not")
        if (self.scope is Scope.MODEL) != (self.model is not None):
            raise ValueError("the scope model is named by model, others by scope_id")
        if self.scope not in {Scope.ORGANISATION, Scope.MODEL} and self.scope_id is None:
            raise ValueError(f"name the {self.scope} in scope_id")
        return self


class StoppedOut(BaseModel):
    key: str | None
    attempts: int
    cost: Amount


class PeriodSimulated(BaseModel):
    starts_at: datetime
    ends_at: datetime | None
    spent: Amount
    allowed: int
    stopped: int
    stopped_cost: Amount
    exhausted_at: datetime | None

    @classmethod
    def of(cls, period: PeriodResult) -> Self:
        return cls(
            starts_at=period.bounds.starts_at,
            ends_at=period.bounds.ends_at,
            spent=Amount.of(period.spent),
            allowed=period.allowed,
            stopped=period.stopped,
            stopped_cost=Amount.of(period.stopped_cost),
            exhausted_at=period.exhausted_at,
        )


class SimulationOut(BaseModel):
    """`exhausted_at` is when the first attempt did not fit. `refused` or `degraded`, by what was asked for.

    `method` attempts: every attempt was replayed, exact. Others: rollups of that grain were, because there
    were too many attempts; they count as of normal priority and of equal cost within a minute, hour or day.
    """

    method: Method
    attempts: int
    cost: Amount
    exhausted_at: datetime | None
    refused: StoppedOut
    degraded: StoppedOut
    periods: list[PeriodSimulated]
    by_model: list[StoppedOut]
    by_bot: list[StoppedOut]
    by_day: list[StoppedOut]
    by_priority: list[StoppedOut]


router = APIRouter(prefix="/budgets", tags=["budgets"])


@router.post("/simulate", dependencies=[requires(Permission.BUDGETS_READ)])
async def simulate(cases: Cases, body: SimulationIn, organisation_id: CurrentOrganisation) -> SimulationOut:
    """Replays what was recorded; creates nothing."""
    span = span_of(body.since, body.until, zone_of(body.time_zone), days=DEFAULT_DAYS)
    scope_id = model_scope_id(body.model) if body.model else body.scope_id or organisation_id
    traffic = Traffic(organisation_id, body.scope, scope_id, body.model, span)
    terms = Terms(
        limit=body.limit or 0,
        period=body.period,
        time_zone=body.time_zone,
        window_hours=body.window_hours,
        reserves=body.reserves.parsed(),
    )
    try:
        method, found = await cases.simulate_budget(traffic, terms)
    except TrafficTooLarge as error:
        raise Problem(422, "too_much_traffic", "Contacts have no rollups; choose a shorter span") from error
    return _shaped(method, found, degrades=body.when_exhausted == "local")


def _shaped(method: Method, found: Simulation, *, degrades: bool) -> SimulationOut:
    stopped = StoppedOut(key=None, attempts=found.stopped, cost=Amount.of(found.stopped_cost))
    none = StoppedOut(key=None, attempts=0, cost=Amount.of(0))
    return SimulationOut(
        method=method,
        attempts=found.attempts,
        cost=Amount.of(found.cost),
        exhausted_at=found.exhausted_at,
        refused=none if degrades else stopped,
        degraded=stopped if degrades else none,
        periods=[PeriodSimulated.of(period) for period in found.periods[:MOST_PERIODS]],
        by_model=_grouped(found.by_model),
        by_bot=_grouped(found.by_bot),
        by_day=sorted(_grouped(found.by_day), key=lambda row: row.key or ""),
        by_priority=_grouped(found.by_priority),
    )


def _grouped(groups: dict[str, tuple[int, int]]) -> list[StoppedOut]:
    """The costliest first."""
    rows = sorted(groups.items(), key=lambda item: (-item[1][1], item[0]))
    return [
        StoppedOut(key=key or None, attempts=attempts, cost=Amount.of(cost)) for key, (attempts, cost) in rows
    ]
