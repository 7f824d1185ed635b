"""/budgets: limits and how much of them is used."""

from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import UUID
from zoneinfo import available_timezones

from fastapi import APIRouter, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from kairos_budget.application.define_budget import BudgetChange, BudgetClosed, NewBudget, UnknownBudget
from kairos_budget.application.readings import BudgetReading
from kairos_budget.domain.budget import DEFAULT_THRESHOLDS, Scope
from kairos_budget.domain.calendar import PeriodKind
from kairos_budget.domain.money import nano_from_usd
from kairos_budget.domain.priority import Reserves
from kairos_budget.entrypoints.amounts import Amount, NanoAmount, UsdAmount
from kairos_budget.entrypoints.paging import page_of
from kairos_budget.entrypoints.use_cases import Cases, UseCases
from kairos_contracts.permissions import Permission
from kairos_contracts.scopes import model_scope_id
from kairos_web import CurrentContext, CurrentOrganisation, Page, Paged, Problem, requires

Name = Annotated[str, Field(min_length=1, max_length=120)]


def _rising(percents: list[int]) -> list[int]:
    if sorted(set(percents)) != percents:
        raise ValueError("thresholds rise and none is named twice")
    return percents


Thresholds = Annotated[
    list[Annotated[int, Field(ge=1, le=100)]], Field(max_length=10), AfterValidator(_rising)
]


def _known_zone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError("a time zone of the IANA database, as Europe/Zurich")
    return name


TimeZone = Annotated[str, Field(max_length=64), AfterValidator(_known_zone)]
MAX_WINDOW_HOURS = 366 * 24
Percent = Annotated[int, Field(ge=0, le=100)]


class ReservesShape(BaseModel):
    """Percents of the limit that only this priority and higher ones may use: a batch stops first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    normal: Percent = 0
    interactive: Percent = 0

    @model_validator(mode="after")
    def _within_the_limit(self) -> Self:
        if self.normal + self.interactive > 100:  # noqa: PLR2004 - percent
            raise ValueError("reserves are at most 100 percent together")
        return self

    @classmethod
    def of(cls, reserves: Reserves) -> Self:
        return cls(normal=reserves.normal, interactive=reserves.interactive)

    def parsed(self) -> Reserves:
        return Reserves(self.normal, self.interactive)


class Limit(BaseModel):
    """Name the limit once: `limit_nano_usd` (integer) or `limit_usd` (decimal text)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit_nano_usd: NanoAmount | None = None
    limit_usd: UsdAmount | None = None

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        if self.limit_nano_usd is not None and self.limit_usd is not None:
            raise ValueError("name the limit either in nano-USD or in USD")
        return self

    @property
    def limit(self) -> int | None:
        return nano_from_usd(self.limit_usd) if self.limit_usd is not None else self.limit_nano_usd


class BudgetIn(Limit):
    """`scope_id` is the id of what is limited; for the organisation's own budget it may be left out.

    Calendar periods begin at midnights of `time_zone`. A `rolling` period is the last `window_hours`, always.
    A model has no id: name it in `model`, as its deployments do.
    """

    name: Name
    scope: Literal["organisation", "project", "team", "bot", "contact", "api_key", "model"] = "organisation"
    scope_id: UUID | None = None
    model: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    period: PeriodKind = PeriodKind.MONTH
    window_hours: Annotated[int, Field(ge=1, le=MAX_WINDOW_HOURS)] | None = None
    time_zone: TimeZone = "UTC"
    thresholds: Thresholds = list(DEFAULT_THRESHOLDS)
    reserves: ReservesShape = ReservesShape()

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.limit is None:
            raise ValueError("a budget has a limit")
        if (self.period is PeriodKind.ROLLING) != (self.window_hours is not None):
            raise ValueError("a rolling period has window_hours, others have not")
        if (self.model is not None) != (self.scope == "model" and self.scope_id is None):
            raise ValueError("a budget of scope model names it in model or scope_id, others do not")
        if self.scope not in {"organisation", "model"} and self.scope_id is None:
            raise ValueError(f"name the {self.scope} in scope_id")
        return self

    @property
    def limited(self) -> UUID | None:
        return self.scope_id if self.model is None else model_scope_id(self.model)


class BudgetPatch(Limit):
    name: Name | None = None
    thresholds: Thresholds | None = None
    reserves: ReservesShape | None = None


class PeriodOut(BaseModel):
    """The current period.

    `settled` is what was spent, `leased` what routers may spend without asking again, `suspense` what may
    have been spent, `available` the rest. `excess` is what is committed above the limit, after the limit was
    lowered or an attempt cost more than its hold; `overspend` is all that ever was committed with no room.
    """

    starts_at: datetime
    ends_at: datetime | None
    limit: Amount
    settled: Amount
    leased: Amount
    suspense: Amount
    available: Amount
    excess: Amount
    overspend: Amount


class BudgetOut(BaseModel):
    id: UUID
    name: str
    scope: Scope
    scope_id: UUID
    model: str | None
    limit: Amount
    period: PeriodKind
    window_hours: int | None
    time_zone: str
    thresholds: list[int]
    reserves: ReservesShape
    active: bool
    created_at: datetime
    current: PeriodOut

    @classmethod
    def of(cls, reading: BudgetReading) -> Self:
        budget, balances = reading.budget, reading.balances
        return cls(
            id=budget.id,
            name=budget.name,
            scope=budget.scope,
            scope_id=budget.scope_id,
            model=budget.model,
            limit=Amount.of(budget.limit_nano),
            period=budget.period,
            window_hours=budget.window_hours,
            time_zone=budget.time_zone,
            thresholds=list(budget.thresholds),
            reserves=ReservesShape.of(budget.reserves),
            active=budget.active,
            created_at=budget.created_at,
            current=PeriodOut(
                starts_at=reading.bounds.starts_at,
                ends_at=reading.bounds.ends_at,
                limit=Amount.of(balances.limit),
                settled=Amount.of(balances.settled),
                leased=Amount.of(balances.leased),
                suspense=Amount.of(balances.suspense),
                available=Amount.of(balances.available),
                excess=Amount.of(balances.excess),
                overspend=Amount.of(balances.overspend),
            ),
        )


def _unknown() -> Problem:
    return Problem(404, "budget_not_found", "There is no such budget")


def _closed() -> Problem:
    return Problem(409, "budget_closed", "A closed budget does not change any more")


router = APIRouter(prefix="/budgets", tags=["budgets"])
read, write = requires(Permission.BUDGETS_READ), requires(Permission.BUDGETS_WRITE)


async def _found(cases: UseCases, organisation_id: UUID, budget_id: UUID) -> BudgetOut:
    reading = await cases.readings.budget(organisation_id, budget_id)
    if reading is None:
        raise _unknown()
    return BudgetOut.of(reading)


@router.post("", status_code=201, dependencies=[write])
async def create(
    cases: Cases, body: BudgetIn, organisation_id: CurrentOrganisation, context: CurrentContext
) -> BudgetOut:
    if body.scope == "organisation" and body.scope_id not in {None, organisation_id}:
        raise Problem(422, "foreign_scope", "An organisation's budget limits that organisation")
    wish = NewBudget(
        name=body.name,
        scope=Scope(body.scope),
        scope_id=body.limited or organisation_id,
        limit_nano=body.limit or 0,
        period=body.period,
        window_hours=body.window_hours,
        reserves=body.reserves.parsed(),
        time_zone=body.time_zone,
        thresholds=tuple(body.thresholds),
        model=body.model,
    )
    budget = await cases.create_budget(organisation_id, wish, context)
    return await _found(cases, organisation_id, budget.id)


@router.get("", dependencies=[read])
async def listed(
    cases: Cases,
    organisation_id: CurrentOrganisation,
    page: Paged,
    active: Annotated[bool | None, Query()] = None,
    scope: Annotated[Scope | None, Query()] = None,
) -> Page[BudgetOut]:
    return await page_of(
        page,
        lambda part: cases.readings.budgets(organisation_id, part, active=active, scope=scope),
        BudgetOut.of,
    )


@router.get("/{budget_id}", dependencies=[read])
async def one(cases: Cases, budget_id: UUID, organisation_id: CurrentOrganisation) -> BudgetOut:
    return await _found(cases, organisation_id, budget_id)


@router.patch("/{budget_id}", dependencies=[write])
async def change(
    cases: Cases,
    budget_id: UUID,
    body: BudgetPatch,
    organisation_id: CurrentOrganisation,
    context: CurrentContext,
) -> BudgetOut:
    """A limit below what is used takes nothing back: it stops new leases until enough money returns."""
    thresholds = None if body.thresholds is None else tuple(body.thresholds)
    reserves = None if body.reserves is None else body.reserves.parsed()
    wish = BudgetChange(name=body.name, limit_nano=body.limit, thresholds=thresholds, reserves=reserves)
    try:
        await cases.change_budget(organisation_id, budget_id, wish, context)
    except UnknownBudget as error:
        raise _unknown() from error
    except BudgetClosed as error:
        raise _closed() from error
    return await _found(cases, organisation_id, budget_id)


@router.delete("/{budget_id}", dependencies=[write])
async def close(
    cases: Cases, budget_id: UUID, organisation_id: CurrentOrganisation, context: CurrentContext
) -> BudgetOut:
    """No new lease counts against it; its figures stay readable."""
    try:
        await cases.close_budget(organisation_id, budget_id, context)
    except UnknownBudget as error:
        raise _unknown() from error
    except BudgetClosed as error:
        raise _closed() from error
    return await _found(cases, organisation_id, budget_id)
