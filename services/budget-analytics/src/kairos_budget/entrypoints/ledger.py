"""/ledger, /reconciliations, /spend: what was spent, and the proof that it adds up."""

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator

from kairos_budget.application.readings import Finding, GroupBy, SpendReading, TransferReading
from kairos_budget.application.reconcile_attempts import ProviderRecord, Result
from kairos_budget.domain.money import MAX_NANO, price_of
from kairos_budget.entrypoints.amounts import Amount, NanoAmount
from kairos_budget.entrypoints.paging import page_of
from kairos_budget.entrypoints.use_cases import Cases
from kairos_contracts.permissions import Permission
from kairos_web import CurrentContext, CurrentOrganisation, Page, Paged, Problem, requires

MAX_RECORDS = 1_000
DEFAULT_DAYS = 30


class TransferOut(BaseModel):
    """`posting_id`: it moved the cost of several attempts; each of them names the posting."""

    sequence: int
    kind: str
    budget_id: UUID
    period_id: UUID
    source: str
    target: str
    amount: Amount
    lease_id: UUID | None
    attempt_id: UUID | None
    posting_id: UUID | None
    created_at: datetime

    @classmethod
    def of(cls, row: TransferReading) -> Self:
        return cls(
            sequence=row.sequence,
            kind=row.kind,
            budget_id=row.budget_id,
            period_id=row.period_id,
            source=row.source,
            target=row.target,
            amount=Amount.of(row.amount_nano),
            lease_id=row.lease_id,
            attempt_id=row.attempt_id,
            posting_id=row.posting_id,
            created_at=row.created_at,
        )


class FindingOut(BaseModel):
    rule: str
    subject: UUID
    stored_nano_usd: int
    recomputed_nano_usd: int

    @classmethod
    def of(cls, finding: Finding) -> Self:
        return cls(
            rule=finding.rule,
            subject=finding.subject,
            stored_nano_usd=finding.stored,
            recomputed_nano_usd=finding.recomputed,
        )


class CheckOut(BaseModel):
    balanced: bool
    imbalance: Amount
    findings: list[FindingOut]


class SpendOut(BaseModel):
    """`key` is None for spend that has no bot or project."""

    key: str | None
    cost: Amount
    attempts: int
    unknown_attempts: int
    input_tokens: int
    output_tokens: int

    @classmethod
    def of(cls, row: SpendReading) -> Self:
        return cls(
            key=row.key,
            cost=Amount.of(row.cost_nano),
            attempts=row.attempts,
            unknown_attempts=row.unknown_attempts,
            input_tokens=row.input_tokens,
            output_tokens=row.output_tokens,
        )


Tokens = Annotated[int, Field(ge=0, le=1_000_000_000)]
Price = Annotated[int, Field(ge=0, le=MAX_NANO)]


class RecordIn(BaseModel):
    """One line of the provider's record: a cost, or tokens with the prices that apply to them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempt_id: UUID
    lease_id: UUID | None = None
    cost_nano_usd: NanoAmount | None = None
    input_tokens: Tokens = 0
    output_tokens: Tokens = 0
    input_nano_usd_per_million: Price | None = None
    output_nano_usd_per_million: Price | None = None

    @model_validator(mode="after")
    def _priced(self) -> Self:
        prices = (self.input_nano_usd_per_million, self.output_nano_usd_per_million)
        if (self.cost_nano_usd is None) == (None in prices):
            raise ValueError("name a cost, or both prices per million tokens")
        return self

    def parsed(self) -> ProviderRecord:
        cost = self.cost_nano_usd
        if cost is None:
            cost = price_of(self.input_tokens, self.input_nano_usd_per_million or 0)
            cost += price_of(self.output_tokens, self.output_nano_usd_per_million or 0)
        return ProviderRecord(
            attempt_id=self.attempt_id,
            cost=cost,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            lease_id=self.lease_id,
        )


class ReconcileIn(BaseModel):
    """`complete_leases`: the records hold all attempts of these leases, so the rest was never spent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    records: Annotated[list[RecordIn], Field(max_length=MAX_RECORDS)] = []
    complete_leases: Annotated[list[UUID], Field(max_length=MAX_RECORDS)] = []


class RecordResult(BaseModel):
    attempt_id: UUID
    result: Result


class ReconcileOut(BaseModel):
    results: list[RecordResult]
    returned: Amount


router = APIRouter(tags=["ledger"])
read = requires(Permission.LEDGER_READ)


@router.get("/ledger/transfers", dependencies=[read])
async def transfers(
    cases: Cases,
    organisation_id: CurrentOrganisation,
    page: Paged,
    budget_id: Annotated[UUID | None, Query()] = None,
    lease_id: Annotated[UUID | None, Query()] = None,
    attempt_id: Annotated[UUID | None, Query()] = None,
) -> Page[TransferOut]:
    """Newest first."""
    return await page_of(
        page,
        lambda part: cases.readings.transfers(
            organisation_id, part, budget_id=budget_id, lease_id=lease_id, attempt_id=attempt_id
        ),
        TransferOut.of,
    )


@router.get("/ledger/check", dependencies=[read])
async def check(
    cases: Cases, organisation_id: CurrentOrganisation, full: Annotated[bool, Query()] = True
) -> CheckOut:
    """Recompute the organisation's balances from its transfers and compare; read-only."""
    findings = await cases.check_ledger(organisation_id, full=full)
    return CheckOut(
        balanced=not findings,
        imbalance=Amount.of(sum(abs(each.stored - each.recomputed) for each in findings)),
        findings=[FindingOut.of(each) for each in findings],
    )


@router.post("/reconciliations", dependencies=[requires(Permission.LEDGER_RECONCILE)])
async def reconcile(
    cases: Cases, body: ReconcileIn, organisation_id: CurrentOrganisation, context: CurrentContext
) -> ReconcileOut:
    """Resolve unknown attempts with the provider's own record."""
    reconciled = await cases.reconcile_attempts(
        organisation_id,
        [record.parsed() for record in body.records],
        complete_leases=body.complete_leases,
        context=context,
    )
    return ReconcileOut(
        results=[RecordResult(attempt_id=each, result=result) for each, result in reconciled.results],
        returned=Amount.of(reconciled.returned),
    )


@router.get("/spend", dependencies=[requires(Permission.SPEND_READ)])
async def spend(
    cases: Cases,
    organisation_id: CurrentOrganisation,
    page: Paged,
    group_by: Annotated[Literal["model", "bot", "project", "day"], Query()] = "day",
    since: Annotated[date | None, Query(alias="from")] = None,
    until: Annotated[date | None, Query(alias="to", description="Exclusive.")] = None,
) -> Page[SpendOut]:
    """By UTC calendar days of when attempts started; without dates the last 30 days."""
    today = datetime.now(UTC).date()
    last = until or today + timedelta(days=1)
    first = since or last - timedelta(days=DEFAULT_DAYS)
    if first >= last:
        raise Problem(422, "empty_range", "`from` lies before `to`")
    grouped: GroupBy = group_by
    return await page_of(
        page,
        lambda part: cases.readings.spend(organisation_id, part, group_by=grouped, since=first, until=last),
        SpendOut.of,
    )
