"""/leases, /suspense: what router processes hold, for people."""

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from kairos_budget.application.readings import HoldReading, LeaseReading, SuspenseReading
from kairos_budget.domain.lease import LeaseState, NothingSuspended, UnknownLease
from kairos_budget.entrypoints.amounts import Amount
from kairos_budget.entrypoints.paging import page_of
from kairos_budget.entrypoints.use_cases import Cases
from kairos_contracts.permissions import Permission
from kairos_web import CurrentContext, CurrentOrganisation, Page, Paged, Problem, requires


class LeaseListed(BaseModel):
    lease_id: UUID
    holder: str
    state: LeaseState
    epoch: int
    project_id: UUID | None
    bot_id: UUID | None
    team_id: UUID | None
    contact_id: UUID | None
    api_key_id: UUID | None
    model_id: UUID | None
    priority: str | None
    unlimited: bool
    granted: Amount
    returned: Amount
    held: Amount
    settled: Amount
    open: Amount
    created_at: datetime
    expires_at: datetime

    @classmethod
    def of(cls, row: LeaseReading) -> Self:
        return cls(
            lease_id=row.lease_id,
            holder=row.holder,
            state=LeaseState(row.state),
            epoch=row.epoch,
            project_id=row.chain.project_id,
            bot_id=row.chain.bot_id,
            team_id=row.chain.team_id,
            contact_id=row.chain.contact_id,
            api_key_id=row.chain.api_key_id,
            model_id=row.chain.model_id,
            priority=row.priority,
            unlimited=row.unlimited,
            granted=Amount.of(row.granted_nano),
            returned=Amount.of(row.returned_nano),
            held=Amount.of(row.held_nano),
            settled=Amount.of(max(row.accounted_nano, row.reported_settled_nano)),
            open=Amount.of(row.reported_open_nano),
            created_at=row.created_at,
            expires_at=row.expires_at,
        )


class HoldListed(BaseModel):
    """An attempt that was open for long when its router last told of it.

    After `expires_at` without a heartbeat the lease is suspended, and the hold counts as spent.
    """

    attempt_id: UUID
    lease_id: UUID
    holder: str
    lease_state: LeaseState
    model: str
    amount: Amount
    since: datetime
    age_s: float
    reported_at: datetime
    expires_at: datetime

    @classmethod
    def of(cls, row: HoldReading) -> Self:
        return cls(
            attempt_id=row.attempt_id,
            lease_id=row.lease_id,
            holder=row.holder,
            lease_state=LeaseState(row.lease_state),
            model=row.model,
            amount=Amount.of(row.amount_nano),
            since=row.since,
            age_s=(row.reported_at - row.since).total_seconds(),
            reported_at=row.reported_at,
            expires_at=row.expires_at,
        )


class SuspenseListed(BaseModel):
    """`unreported`: the rest of a silent holder's lease. `unknown`: holds of attempts without a known end."""

    lease_id: UUID
    holder: str
    unreported: Amount
    unknown: Amount
    unknown_attempts: list[UUID]
    since: datetime

    @classmethod
    def of(cls, row: SuspenseReading) -> Self:
        return cls(
            lease_id=row.lease_id,
            holder=row.holder,
            unreported=Amount.of(row.unreported_nano),
            unknown=Amount.of(row.unknown_nano),
            unknown_attempts=list(row.unknown_attempts),
            since=row.since,
        )


class ReleaseIn(BaseModel):
    """The reason goes into the audit log."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: Annotated[str, Field(min_length=3, max_length=500)]
    include_unknown: bool = False


class ReleaseOut(BaseModel):
    unreported: Amount
    unknown: Amount
    unknown_attempts: list[UUID]


def _unknown() -> Problem:
    return Problem(404, "lease_not_found", "There is no such lease")


router = APIRouter(tags=["leases"])
read = requires(Permission.LEDGER_READ)


@router.get("/leases", dependencies=[read])
async def leases(
    cases: Cases,
    organisation_id: CurrentOrganisation,
    page: Paged,
    state: Annotated[LeaseState | None, Query()] = None,
) -> Page[LeaseListed]:
    return await page_of(
        page,
        lambda part: cases.readings.leases(organisation_id, part, state=state),
        LeaseListed.of,
    )


@router.get("/leases/holds", dependencies=[read])
async def holds(cases: Cases, organisation_id: CurrentOrganisation, page: Paged) -> Page[HoldListed]:
    """Holds that stay open for long, of every router process. A page holds those of up to `limit` leases."""
    return await page_of(page, lambda part: cases.readings.open_holds(organisation_id, part), HoldListed.of)


@router.get("/suspense", dependencies=[read])
async def suspense(cases: Cases, organisation_id: CurrentOrganisation, page: Paged) -> Page[SuspenseListed]:
    return await page_of(page, lambda part: cases.readings.suspense(organisation_id, part), SuspenseListed.of)


@router.post("/suspense/{lease_id}/release", dependencies=[requires(Permission.LEDGER_RECONCILE)])
async def release(
    cases: Cases,
    lease_id: UUID,
    body: ReleaseIn,
    organisation_id: CurrentOrganisation,
    context: CurrentContext,
) -> ReleaseOut:
    """Count a lease's suspense as never spent. Without `include_unknown` its unknown attempts stay."""
    try:
        released = await cases.release_suspense(
            organisation_id,
            lease_id,
            include_unknown=body.include_unknown,
            reason=body.reason,
            context=context,
        )
    except UnknownLease as error:
        raise _unknown() from error
    except NothingSuspended as error:
        raise Problem(409, "nothing_suspended", "The lease holds nothing in suspense") from error
    return ReleaseOut(
        unreported=Amount.of(released.unreported),
        unknown=Amount.of(released.unknown),
        unknown_attempts=list(released.attempts),
    )
