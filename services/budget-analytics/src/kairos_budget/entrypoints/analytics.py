"""/analytics: cost, latency, errors and cache hits of models and whoever uses them, from rollups."""

from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel

from kairos_budget.application.analytics import (
    PERCENTS,
    SUMS,
    Dimension,
    Figures,
    Filters,
    Key,
    Question,
    Sort,
    Step,
    top,
)
from kairos_budget.domain.histogram import RELATIVE_ERROR
from kairos_budget.domain.span import Grain, Kept, Span, ceiling, floor, kept_grain, widened
from kairos_budget.entrypoints.amounts import Amount
from kairos_budget.entrypoints.moments import Since, Until, Zone, span_of, zone_of
from kairos_budget.entrypoints.use_cases import Cases
from kairos_contracts.permissions import Permission
from kairos_web import CurrentOrganisation, Problem, requires

DEFAULT_DAYS = 30
MOST_POINTS = 1_500
_GRAINS: dict[Step, Grain] = {"minute": Grain.MINUTE, "hour": Grain.HOUR}
_SECONDS: dict[Step, int] = {
    "minute": 60,
    "hour": 3_600,
    "day": 86_400,
    "week": 7 * 86_400,
    "month": 28 * 86_400,
}


class Percentiles(BaseModel):
    """Milliseconds, each within 5 % of the exact value; null when nothing was measured."""

    p50: float | None
    p95: float | None
    p99: float | None

    @classmethod
    def of(cls, values: list[float | None]) -> Self:
        p50, p95, p99 = (None if value is None else round(value, 1) for value in values)
        return cls(p50=p50, p95=p95, p99=p99)


class FiguresOut(BaseModel):
    """Rates are of attempts, 0 to 1. `quality` is null until replies of this group were scored."""

    cost: Amount
    attempts: int
    unknown_attempts: int
    errors: int
    error_rate: float
    cache_hits: int
    cache_hit_rate: float
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    audio_input_tokens: int
    audio_output_tokens: int
    latency_ms: Percentiles
    time_to_first_token_ms: Percentiles
    quality: float | None = None

    @classmethod
    def of(cls, figures: Figures) -> Self:
        attempts = max(figures.attempts, 1)
        plain = {name: getattr(figures, name) for name in SUMS if name != "cost_nano"}
        return cls(
            **plain,
            cost=Amount.of(figures.cost_nano),
            error_rate=round(figures.errors / attempts, 6),
            cache_hit_rate=round(figures.cache_hits / attempts, 6),
            latency_ms=Percentiles.of([figures.latency_at(percent) for percent in PERCENTS]),
            time_to_first_token_ms=Percentiles.of([figures.first_token_at(percent) for percent in PERCENTS]),
        )


class RangeOut(BaseModel):
    """What the answer covers. Older ends are widened to the hour or UTC day that is still kept."""

    since: datetime
    until: datetime
    time_zone: str


class GroupOut(BaseModel):
    """`key` names the group by each dimension asked for; null where usage has none of it."""

    key: dict[str, str | None]
    current: FiguresOut
    previous: FiguresOut | None = None
    cost_change: float | None = None


class ModelsOut(BaseModel):
    """The largest groups first; `other` is what `top` cut off. Percentiles are within `relative_error`."""

    range: RangeOut
    items: list[GroupOut]
    other: FiguresOut | None
    total: FiguresOut
    previous_total: FiguresOut | None
    relative_error: float = RELATIVE_ERROR


class PointOut(BaseModel):
    starts_at: datetime
    key: dict[str, str | None]
    figures: FiguresOut


class TimeseriesOut(BaseModel):
    """Steps without usage are left out."""

    range: RangeOut
    step: Step
    items: list[PointOut]
    relative_error: float = RELATIVE_ERROR


class ErrorOut(BaseModel):
    key: dict[str, str | None]
    error: str
    status: int
    attempts: int
    share: float


class ErrorsOut(BaseModel):
    """`share` is of all failures in the answer's range."""

    range: RangeOut
    items: list[ErrorOut]
    total: int


def filters(
    model: Annotated[str | None, Query()] = None,
    deployment: Annotated[str | None, Query()] = None,
    provider: Annotated[str | None, Query()] = None,
    bot_id: Annotated[UUID | None, Query()] = None,
    project_id: Annotated[UUID | None, Query()] = None,
    api_key_id: Annotated[UUID | None, Query()] = None,
    team_id: Annotated[UUID | None, Query()] = None,
) -> Filters:
    return Filters(model, deployment, provider, bot_id, project_id, api_key_id, team_id)


Filtered = Annotated[Filters, Depends(filters)]
Percents = Annotated[bool, Query(description="Without them the answer takes a fraction of the time.")]
GroupBy = Annotated[list[Dimension], Query(description="Repeat it to group by several.", max_length=4)]

router = APIRouter(prefix="/analytics", tags=["analytics"], dependencies=[requires(Permission.SPEND_READ)])


def _range(span: Span, zone: str) -> RangeOut:
    return RangeOut(since=span.starts_at, until=span.ends_at, time_zone=zone)


def _named(group_by: tuple[Dimension, ...], key: Key) -> dict[str, str | None]:
    return dict(zip(group_by, key, strict=True))


def _sum(groups: dict[Key, Figures]) -> Figures:
    total = Figures()
    for figures in groups.values():
        total.add(figures)
    return total


def _change(now: Figures, before: Figures | None) -> float | None:
    if before is None or not before.cost_nano:
        return None
    return round((now.cost_nano - before.cost_nano) / before.cost_nano, 6)


@router.get("/models")
async def models(
    cases: Cases,
    organisation_id: CurrentOrganisation,
    filtered: Filtered,
    since: Since = None,
    until: Until = None,
    tz: Zone = "UTC",
    group_by: GroupBy = ["model"],  # noqa: B006 - FastAPI copies it
    top_n: Annotated[int, Query(alias="top", ge=1, le=200)] = 20,
    sort: Annotated[Sort, Query()] = "cost",
    compare: Annotated[Literal["previous"] | None, Query()] = None,
    percentiles: Percents = True,
) -> ModelsOut:
    """Sums and percentiles per group; with `compare=previous` also those of the span just before."""
    groups = tuple(dict.fromkeys(group_by))
    asked = span_of(since, until, zone_of(tz), days=DEFAULT_DAYS)
    kept = cases.analytics.kept(await cases.analytics.now())
    span = widened(asked, kept)
    found = await cases.analytics.totals(organisation_id, Question(span, groups, filtered, percentiles))
    before = None
    if compare is not None:
        earlier = widened(asked.before(), kept)
        before = await cases.analytics.totals(
            organisation_id, Question(earlier, groups, filtered, percentiles)
        )
    ranked, rest = top(found, top_n, sort)
    return ModelsOut(
        range=_range(span, tz),
        items=[
            GroupOut(
                key=_named(groups, key),
                current=FiguresOut.of(figures),
                previous=FiguresOut.of(before.get(key, Figures())) if before is not None else None,
                cost_change=_change(figures, before.get(key)) if before is not None else None,
            )
            for key, figures in ranked
        ],
        other=FiguresOut.of(rest) if rest is not None else None,
        total=FiguresOut.of(_sum(found)),
        previous_total=FiguresOut.of(_sum(before)) if before is not None else None,
    )


def _series_span(asked: Span, step: Step, zone: str, kept: Kept) -> tuple[Span, Grain]:
    """Which rollup answers. Raises Problem 422 when too many points are asked for."""
    if asked.length.total_seconds() / _SECONDS[step] > MOST_POINTS:
        raise Problem(422, "too_many_points", f"A series has at most {MOST_POINTS} steps")
    wanted = _GRAINS.get(step, Grain.DAY if zone == "UTC" else Grain.HOUR)
    coarsest = kept_grain(asked.starts_at, kept)
    if step in _GRAINS and wanted is Grain.MINUTE and coarsest is not Grain.MINUTE:
        raise Problem(422, "no_longer_kept", "Steps of a minute are kept for the last days only")
    if wanted is Grain.HOUR and coarsest is Grain.DAY:
        if step == "hour":
            raise Problem(422, "no_longer_kept", "Steps of an hour are not kept that long")
        wanted = Grain.DAY
    return Span(floor(asked.starts_at, wanted), ceiling(asked.ends_at, wanted)), wanted


@router.get("/timeseries")
async def timeseries(
    cases: Cases,
    organisation_id: CurrentOrganisation,
    filtered: Filtered,
    since: Since = None,
    until: Until = None,
    tz: Zone = "UTC",
    step: Annotated[Step, Query()] = "day",
    group_by: GroupBy = [],  # noqa: B006 - FastAPI copies it
    top_n: Annotated[int, Query(alias="top", ge=1, le=50)] = 10,
    percentiles: Percents = True,
) -> TimeseriesOut:
    """Figures per step of the time zone's calendar, of the `top` groups by cost."""
    groups = tuple(dict.fromkeys(group_by))
    asked = span_of(since, until, zone_of(tz), days=DEFAULT_DAYS)
    kept = cases.analytics.kept(await cases.analytics.now())
    span, grain = _series_span(asked, step, tz, kept)
    question = Question(span, groups, filtered, percentiles)
    found = await cases.analytics.series(
        organisation_id, question, step=step, time_zone=tz, grain=grain, top=top_n
    )
    ordered = sorted(found.items(), key=lambda item: (item[0][0], tuple(map(str, item[0][1]))))
    points = [
        PointOut(starts_at=starts_at, key=_named(groups, key), figures=FiguresOut.of(figures))
        for (starts_at, key), figures in ordered
    ]
    return TimeseriesOut(range=_range(span, tz), step=step, items=points)


@router.get("/errors")
async def errors(
    cases: Cases,
    organisation_id: CurrentOrganisation,
    filtered: Filtered,
    since: Since = None,
    until: Until = None,
    tz: Zone = "UTC",
    group_by: GroupBy = ["model"],  # noqa: B006 - FastAPI copies it
    top_n: Annotated[int, Query(alias="top", ge=1, le=200)] = 50,
) -> ErrorsOut:
    """Failures by code, status and group, the most frequent first, in whole hours."""
    groups = tuple(dict.fromkeys(group_by))
    asked = span_of(since, until, zone_of(tz), days=DEFAULT_DAYS)
    span = Span(floor(asked.starts_at, Grain.HOUR), ceiling(asked.ends_at, Grain.HOUR))
    found = await cases.analytics.errors(organisation_id, Question(span, groups, filtered))
    total = sum(each.attempts for each in found)
    return ErrorsOut(
        range=_range(span, tz),
        items=[
            ErrorOut(
                key=_named(groups, each.key),
                error=each.error,
                status=each.status,
                attempts=each.attempts,
                share=round(each.attempts / total, 6),
            )
            for each in found[:top_n]
        ],
        total=total,
    )
