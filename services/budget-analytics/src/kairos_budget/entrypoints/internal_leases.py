"""/internal/leases: money for router processes."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Self
from uuid import UUID, uuid4

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, model_validator

from kairos_budget.application.grant_lease import LeaseWish
from kairos_budget.application.renew_leases import Heartbeat
from kairos_budget.domain.book import BudgetExceeded
from kairos_budget.domain.budget import Scope, ScopeChain
from kairos_budget.domain.lease import LeaseState, OpenHold, Report, StaleEpoch, UnknownLease
from kairos_budget.domain.money import MAX_NANO
from kairos_budget.domain.priority import Priority
from kairos_budget.entrypoints.amounts import NanoAmount
from kairos_budget.entrypoints.use_cases import Cases
from kairos_contracts.permissions import Permission
from kairos_faults import apoint
from kairos_web import Problem, requires

Holder = Annotated[str, Field(min_length=1, max_length=200)]
MAX_HEARTBEATS = 2_000
MAX_HOLDS = 100
MAX_AGE_MS = 7 * 24 * 3_600_000


class In(BaseModel):
    """A router one version ahead may say more than we know."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class LeaseIn(In):
    """At least `need_nano`, at best `want_nano`. A `lease_id` of the caller's own makes asking twice safe."""

    holder: Holder
    organisation_id: UUID
    project_id: UUID | None = None
    bot_id: UUID | None = None
    team_id: UUID | None = None
    contact_id: UUID | None = None
    api_key_id: UUID | None = None
    model_id: UUID | None = None
    want_nano: Annotated[int, Field(ge=1, le=MAX_NANO)]
    need_nano: Annotated[int, Field(ge=1, le=MAX_NANO)]
    lease_id: UUID | None = None
    priority: Priority = Priority.NORMAL

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.need_nano > self.want_nano:
            raise ValueError("need_nano is at most want_nano")
        return self

    def chain(self) -> ScopeChain:
        return ScopeChain(
            self.organisation_id,
            self.project_id,
            self.bot_id,
            self.team_id,
            self.contact_id,
            self.api_key_id,
            self.model_id,
        )


class LeaseOut(BaseModel):
    """`expires_in_ms` counts from the moment the request was sent, not from when the answer arrived.

    The lease is for the scopes named here: those of the asked that have a budget. A `priority` is set when
    one of the budgets keeps reserves. Whoever knows an older index than `index_version` reads it anew.
    """

    lease_id: UUID
    epoch: int
    granted_nano: int
    unlimited: bool
    expires_in_ms: int
    project_id: UUID | None
    bot_id: UUID | None
    team_id: UUID | None
    contact_id: UUID | None
    api_key_id: UUID | None
    model_id: UUID | None
    priority: Priority | None
    index_version: int


class OpenHoldIn(In):
    attempt_id: UUID
    amount_nano: NanoAmount
    age_ms: Annotated[int, Field(ge=0, le=MAX_AGE_MS)]
    model: Annotated[str, Field(max_length=200)] = ""


class HeartbeatIn(In):
    """`returned_nano` is the sum of all ever given back of the lease, `holds` its oldest open holds."""

    lease_id: UUID
    epoch: int
    settled_nano: NanoAmount
    open_nano: NanoAmount
    want_more_nano: NanoAmount = 0
    returned_nano: NanoAmount = 0
    holds: Annotated[list[OpenHoldIn], Field(max_length=MAX_HOLDS)] = []

    def heartbeat(self, now: datetime) -> Heartbeat:
        holds = (
            OpenHold(each.attempt_id, each.amount_nano, now - timedelta(milliseconds=each.age_ms), each.model)
            for each in self.holds
        )
        report = Report(self.settled_nano, self.open_nano, self.returned_nano, tuple(holds))
        return Heartbeat(self.lease_id, self.epoch, report, self.want_more_nano)


class RenewIn(In):
    holder: Holder
    leases: Annotated[list[HeartbeatIn], Field(max_length=MAX_HEARTBEATS)]


class RenewalOut(BaseModel):
    """expired: take no new hold, close it when the last open one is settled; `reason` says why.

    `keep_nano`: give all unused money above it back, with the next heartbeat; null: keep it.
    """

    lease_id: UUID
    status: Literal["ok", "expired", "unknown"]
    reason: str | None
    granted_more_nano: int
    expires_in_ms: int
    index_version: int
    keep_nano: int | None


class IndexOut(BaseModel):
    """`scopes` is null when the caller knows this version already."""

    version: int
    scopes: list[tuple[Scope, UUID, bool]] | None


class CloseIn(In):
    """`settled_nano`: all that is owed, costs of settled attempts and whole holds of unknown ones."""

    epoch: int
    settled_nano: NanoAmount


class CloseOut(BaseModel):
    """`owed_nano` stays reserved until its usage events have arrived."""

    lease_id: UUID
    state: LeaseState
    returned_nano: int
    owed_nano: int


def _exceeded(error: BudgetExceeded) -> Problem:
    period = error.period
    figures: dict[str, Any] = {
        # The router keeps the record of the decision under this id; see docs/money.md.
        "decision_id": str(uuid4()),
        "budget_id": str(period.budget.id),
        "scope": period.budget.scope.value,
        "remaining_nano": error.remaining,
        "limit_nano": period.balances.limit,
    }
    return Problem(402, "budget_exceeded", "A budget has too little left for this", **figures)


def _unknown() -> Problem:
    return Problem(404, "lease_not_found", "There is no such lease")


router = APIRouter(
    prefix="/internal/leases", tags=["internal"], dependencies=[requires(Permission.LEASES_MANAGE)]
)


@router.post("", status_code=201)
async def grant(cases: Cases, body: LeaseIn) -> LeaseOut:
    wish = LeaseWish(
        holder=body.holder,
        chain=body.chain(),
        want=body.want_nano,
        need=body.need_nano,
        lease_id=body.lease_id,
        priority=body.priority,
    )
    try:
        granted = await cases.grant_lease(wish)
    except BudgetExceeded as error:
        raise _exceeded(error) from error
    except UnknownLease as error:
        raise Problem(409, "lease_id_taken", "A lease of this id exists and is not yours to open") from error
    await apoint("budget.lease.granted")
    lease = granted.lease
    return LeaseOut(
        lease_id=lease.id,
        epoch=lease.epoch,
        granted_nano=lease.granted,
        unlimited=lease.unlimited,
        expires_in_ms=granted.expires_in_ms,
        priority=lease.priority,
        index_version=lease.index_version,
        **{f"{scope.value}_id": found for scope, found in lease.chain.members()},
    )


@router.post("/renew")
async def renew(cases: Cases, body: RenewIn) -> list[RenewalOut]:
    now = datetime.now(UTC)
    renewals = await cases.renew_leases(body.holder, [each.heartbeat(now) for each in body.leases])
    return [
        RenewalOut(
            lease_id=each.lease_id,
            status=each.status,
            reason=each.reason,
            granted_more_nano=each.granted_more,
            expires_in_ms=each.expires_in_ms,
            index_version=each.index_version,
            keep_nano=each.keep,
        )
        for each in renewals
    ]


@router.get("/scopes/{organisation_id}")
async def scopes(cases: Cases, organisation_id: UUID, known: int | None = None) -> IndexOut:
    """The scopes with an active budget, each with whether one of its budgets keeps reserves."""
    index = await cases.readings.scope_index(organisation_id)
    return IndexOut(version=index.version, scopes=None if known == index.version else list(index.scopes))


@router.post("/{lease_id}/close")
async def close(cases: Cases, lease_id: UUID, body: CloseIn) -> CloseOut:
    try:
        closed = await cases.close_lease(lease_id, epoch=body.epoch, settled=body.settled_nano)
    except UnknownLease as error:
        raise _unknown() from error
    except StaleEpoch as error:
        raise Problem(409, "stale_epoch", "The lease was taken back; its figures no longer count") from error
    return CloseOut(
        lease_id=lease_id, state=closed.lease.state, returned_nano=closed.returned, owed_nano=closed.owed
    )
