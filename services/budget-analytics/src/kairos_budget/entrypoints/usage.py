"""/usage: attempts as their routers reported them, page by page."""

from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel

from kairos_budget.application.analytics import UsageFilters, UsageReading
from kairos_budget.entrypoints.amounts import Amount
from kairos_budget.entrypoints.analytics import Filtered
from kairos_budget.entrypoints.moments import Since, Until, Zone, span_of, zone_of
from kairos_budget.entrypoints.paging import page_of
from kairos_budget.entrypoints.use_cases import Cases
from kairos_contracts.permissions import Permission
from kairos_web import CurrentOrganisation, Page, Paged, requires


class UsageOut(BaseModel):
    attempt_id: UUID
    completion_id: UUID
    lease_id: UUID | None
    project_id: UUID | None
    bot_id: UUID | None
    api_key_id: UUID | None
    team_id: UUID | None
    contact_id: UUID | None
    model: str
    deployment: str
    provider: str
    route: str | None
    operation: str
    priority: str
    outcome: str
    input_tokens: int
    output_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    audio_input_tokens: int
    audio_output_tokens: int
    estimated: bool
    cache: str | None
    error: str | None
    hold: Amount
    cost: Amount
    price_version: str
    status: int
    streaming: bool
    latency_ms: int
    time_to_first_token_ms: int | None
    started_at: datetime
    recorded_at: datetime

    @classmethod
    def of(cls, row: UsageReading) -> Self:
        facts = dict(row.facts)
        hold, cost = Amount.of(facts.pop("hold_nano")), Amount.of(facts.pop("cost_nano"))
        return cls(hold=hold, cost=cost, **facts)


router = APIRouter(tags=["analytics"], dependencies=[requires(Permission.SPEND_READ)])


@router.get("/usage")
async def usage(
    cases: Cases,
    organisation_id: CurrentOrganisation,
    page: Paged,
    filtered: Filtered,
    since: Since = None,
    until: Until = None,
    tz: Zone = "UTC",
    contact_id: Annotated[UUID | None, Query()] = None,
    completion_id: Annotated[UUID | None, Query()] = None,
    route: Annotated[str | None, Query()] = None,
    outcome: Annotated[Literal["settled", "released", "unknown"] | None, Query()] = None,
    error: Annotated[str | None, Query()] = None,
) -> Page[UsageOut]:
    """The newest record first; without dates the last 7 days. An attempt resolved later is there twice."""
    wanted = UsageFilters(
        filters=filtered,
        span=span_of(since, until, zone_of(tz), days=7),
        contact_id=contact_id,
        completion_id=completion_id,
        route=route,
        outcome=outcome,
        error=error,
    )
    return await page_of(page, lambda part: cases.analytics.usage(organisation_id, part, wanted), UsageOut.of)
