"""/accounting: the ledger as an accountant reads it."""

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from kairos_budget.application.accounting import Selection
from kairos_budget.application.analytics import Question
from kairos_budget.domain.calendar import PeriodKind
from kairos_budget.domain.journal import (
    CSV_HEADER,
    Balance,
    Entry,
    Rate,
    converted,
    csv_line,
    journal_entry,
    journal_head,
    journal_opening,
    rate_on,
)
from kairos_budget.domain.ledger import Account
from kairos_budget.domain.span import Span, widened
from kairos_budget.entrypoints.amounts import Amount
from kairos_budget.entrypoints.budget_status import filters_of
from kairos_budget.entrypoints.moments import Since, Until, Zone, span_of, zone_of
from kairos_budget.entrypoints.paging import page_of
from kairos_budget.entrypoints.use_cases import Cases, UseCases
from kairos_contracts.permissions import Permission
from kairos_web import CurrentContext, CurrentOrganisation, Page, Paged, Problem, requires

Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
AskedCurrency = Annotated[
    str | None, Query(pattern=r"^[A-Z]{3}$", description="Also in this currency, by the rate of the day.")
]
AsOf = Annotated[datetime | None, Query(description="Exclusive; otherwise now.")]
DEFAULT_DAYS = 31


class RateOut(BaseModel):
    """`per_usd` units of the currency are one USD, from `day` until the next rate given."""

    currency: str
    day: date
    per_usd: Decimal
    source: str

    @classmethod
    def of(cls, rate: Rate) -> Self:
        return cls(currency=rate.currency, day=rate.day, per_usd=rate.per_usd, source=rate.source)


class RateIn(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    currency: Currency
    day: date
    per_usd: Annotated[Decimal, Field(gt=0, max_digits=20, decimal_places=10)]
    source: Annotated[str, Field(min_length=1, max_length=200)]


class RatesIn(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    rates: Annotated[list[RateIn], Field(min_length=1, max_length=1_000)]


class AccountOut(BaseModel):
    """`balance` is what the account holds; of `limit` and `excess`, what they gave, below zero."""

    budget_id: UUID
    budget: str
    account: Account
    balance: Amount
    converted: str | None


class AccountsOut(BaseModel):
    """`rate` says how `converted` was made: balance times the latest rate on or before the day."""

    as_of: datetime
    rate: RateOut | None
    items: list[AccountOut]


class TrialLine(BaseModel):
    account: Account
    debit: Amount
    credit: Amount


class TrialBalanceOut(BaseModel):
    """Over all budgets; in balance when debits are credits."""

    as_of: datetime
    lines: list[TrialLine]
    debits: Amount
    credits: Amount
    balanced: bool


class EntryOut(BaseModel):
    """`debit` is the account the amount entered, `credit` the one it left."""

    sequence: int
    at: datetime
    kind: str
    budget_id: UUID
    budget: str
    period_start: datetime
    debit: Account
    credit: Account
    amount: Amount
    lease_id: UUID | None
    attempt_id: UUID | None
    posting_id: UUID | None
    adjustment_id: UUID | None

    @classmethod
    def of(cls, entry: Entry) -> Self:
        return cls(
            sequence=entry.sequence,
            at=entry.at,
            kind=entry.kind,
            budget_id=entry.budget_id,
            budget=entry.budget,
            period_start=entry.period_start,
            debit=entry.target,
            credit=entry.source,
            amount=Amount.of(entry.amount),
            lease_id=entry.lease_id,
            attempt_id=entry.attempt_id,
            posting_id=entry.posting_id,
            adjustment_id=entry.adjustment_id,
        )


class ReconciledPeriod(BaseModel):
    """`difference` is what the ledger charged for attempts, less what usage says they cost.

    It is 0 unless usage of the budget's first minute started before the budget did, or the ends of the
    period are older than the minutes and hours that are kept.
    """

    budget_id: UUID
    budget: str
    starts_at: datetime
    ends_at: datetime | None
    ledger: Amount
    usage: Amount
    adjusted: Amount
    difference: Amount


class ReconciliationOut(BaseModel):
    """Rolling budgets and those of contacts are left out: rollups do not tell what counts in them."""

    items: list[ReconciledPeriod]
    differences: int


router = APIRouter(prefix="/accounting", tags=["accounting"])
read, adjust = requires(Permission.LEDGER_READ), requires(Permission.LEDGER_ADJUST)


async def _balances(
    cases: UseCases, organisation_id: UUID, as_of: datetime | None
) -> tuple[datetime, list[Balance]]:
    moment = as_of or await cases.analytics.now()
    if moment.tzinfo is None:
        raise Problem(422, "invalid_moment", "A moment carries its offset")
    return moment, list(await cases.accounting.balances(organisation_id, Selection(until=moment)))


@router.get("/accounts", dependencies=[read])
async def accounts(
    cases: Cases,
    organisation_id: CurrentOrganisation,
    as_of: AsOf = None,
    currency: AskedCurrency = None,
) -> AccountsOut:
    """Every account's balance as of a moment, recomputed from the entries before it."""
    moment, balances = await _balances(cases, organisation_id, as_of)
    rate = None
    if currency is not None:
        rate = rate_on(await cases.accounting.rates(organisation_id, currency), moment.date())
        if rate is None:
            raise Problem(409, "no_rate", "There is no rate of this currency on or before the day")
    return AccountsOut(
        as_of=moment,
        rate=RateOut.of(rate) if rate else None,
        items=[
            AccountOut(
                budget_id=each.budget_id,
                budget=each.budget,
                account=each.account,
                balance=Amount.of(each.nano),
                converted=converted(each.nano, rate) if rate else None,
            )
            for each in balances
        ],
    )


@router.get("/trial-balance", dependencies=[read])
async def trial_balance(
    cases: Cases, organisation_id: CurrentOrganisation, as_of: AsOf = None
) -> TrialBalanceOut:
    """Debit and credit balances of each kind of account, and that they are equal."""
    moment, balances = await _balances(cases, organisation_id, as_of)
    lines = []
    for account in Account:
        held = [each.nano for each in balances if each.account is account]
        debit, credit = sum(max(nano, 0) for nano in held), -sum(min(nano, 0) for nano in held)
        lines.append(TrialLine(account=account, debit=Amount.of(debit), credit=Amount.of(credit)))
    debits, credits_ = sum(x.debit.nano_usd for x in lines), sum(x.credit.nano_usd for x in lines)
    return TrialBalanceOut(
        as_of=moment,
        lines=lines,
        debits=Amount.of(debits),
        credits=Amount.of(credits_),
        balanced=debits == credits_,
    )


@router.get("/entries", dependencies=[read])
async def entries(
    cases: Cases,
    organisation_id: CurrentOrganisation,
    page: Paged,
    since: Since = None,
    until: Until = None,
    tz: Zone = "UTC",
    budget_id: Annotated[UUID | None, Query()] = None,
) -> Page[EntryOut]:
    """The oldest first."""
    span = span_of(since, until, zone_of(tz), days=DEFAULT_DAYS)
    chosen = Selection(span.starts_at, span.ends_at, budget_id)
    return await page_of(
        page, lambda part: cases.accounting.entries(organisation_id, part, chosen), EntryOut.of
    )


@router.get("/reconciliation", dependencies=[read])
async def reconciliation(
    cases: Cases,
    organisation_id: CurrentOrganisation,
    since: Since = None,
    until: Until = None,
    tz: Zone = "UTC",
    budget_id: Annotated[UUID | None, Query()] = None,
) -> ReconciliationOut:
    """What each period's ledger charged, beside what usage says it cost."""
    asked = span_of(since, until, zone_of(tz), days=DEFAULT_DAYS)
    now = await cases.analytics.now()
    kept = cases.analytics.kept(now)
    items = []
    chosen = Selection(asked.starts_at, asked.ends_at, budget_id)
    for period in await cases.accounting.settled_periods(organisation_id, chosen):
        filters = filters_of(period.budget)
        if filters is None or period.budget.period is PeriodKind.ROLLING:
            continue
        starts_at = max(period.bounds.starts_at, period.budget.created_at)
        ends_at = max(period.bounds.ends_at or now, starts_at + timedelta(minutes=1))
        span = widened(Span(starts_at, ends_at), kept)
        usage = (await cases.analytics.totals(organisation_id, Question(span, (), filters))).get(())
        cost = usage.cost_nano if usage else 0
        items.append(
            ReconciledPeriod(
                budget_id=period.budget.id,
                budget=period.budget.name,
                starts_at=period.bounds.starts_at,
                ends_at=period.bounds.ends_at,
                ledger=Amount.of(period.attempts),
                usage=Amount.of(cost),
                adjusted=Amount.of(period.adjusted),
                difference=Amount.of(period.attempts - cost),
            )
        )
    return ReconciliationOut(items=items, differences=sum(each.difference.nano_usd != 0 for each in items))


@router.get("/export", dependencies=[read], response_class=StreamingResponse)
async def export(
    cases: Cases,
    organisation_id: CurrentOrganisation,
    context: CurrentContext,
    since: Since = None,
    until: Until = None,
    tz: Zone = "UTC",
    budget_id: Annotated[UUID | None, Query()] = None,
    form: Annotated[Literal["csv", "beancount"], Query(alias="format")] = "csv",
    currency: AskedCurrency = None,
) -> StreamingResponse:
    """The entries of a span, streamed: CSV, or a double-entry journal in beancount's format.

    The journal opens with what the accounts held before. CSV has each amount in `currency` too, by the rate
    of the entry's day.
    """
    span = span_of(since, until, zone_of(tz), days=DEFAULT_DAYS)
    chosen = Selection(span.starts_at, span.ends_at, budget_id)
    await cases.note_export(organisation_id, form, span, context)
    lines = (
        _csv(cases, organisation_id, chosen, currency)
        if form == "csv"
        else _journal(cases, organisation_id, chosen)
    )
    media = "text/csv; charset=utf-8" if form == "csv" else "text/plain; charset=utf-8"
    name = f"ledger-{span.starts_at:%Y%m%d}-{span.ends_at:%Y%m%d}.{form}"
    return StreamingResponse(
        _chunks(lines), media_type=media, headers={"Content-Disposition": f'attachment; filename="{name}"'}
    )


async def _chunks(lines: AsyncIterator[str], size: int = 200) -> AsyncIterator[str]:
    some: list[str] = []
    async for line in lines:
        some.append(line + "\n")
        if len(some) == size:
            yield "".join(some)
            some.clear()
    yield "".join(some)


async def _csv(
    cases: UseCases, organisation_id: UUID, chosen: Selection, currency: str | None
) -> AsyncIterator[str]:
    rates = await cases.accounting.rates(organisation_id, currency) if currency else ()
    yield CSV_HEADER
    async for entry in cases.accounting.every_entry(organisation_id, chosen):
        yield csv_line(entry, rates)


async def _journal(cases: UseCases, organisation_id: UUID, chosen: Selection) -> AsyncIterator[str]:
    before = Selection(until=chosen.since, budget_id=chosen.budget_id)
    known = await cases.accounting.balances(
        organisation_id, Selection(until=chosen.until, budget_id=chosen.budget_id)
    )
    first = (chosen.since or datetime.now(UTC)).date()
    for line in journal_head(dict.fromkeys((each.budget_id, each.budget) for each in known), first):
        yield line
    for line in journal_opening(await cases.accounting.balances(organisation_id, before), first):
        yield line
    async for entry in cases.accounting.every_entry(organisation_id, chosen):
        for line in journal_entry(entry):
            yield line


@router.get("/rates", dependencies=[read])
async def rates(
    cases: Cases, organisation_id: CurrentOrganisation, currency: AskedCurrency = None
) -> list[RateOut]:
    """Rates for display, the oldest first. The ledger counts in USD whatever they say."""
    return [RateOut.of(rate) for rate in await cases.accounting.rates(organisation_id, currency)]


@router.put("/rates", dependencies=[adjust])
async def keep_rates(cases: Cases, body: RatesIn, organisation_id: CurrentOrganisation) -> list[RateOut]:
    """Give rates by day; a rate of a day that has one replaces it."""
    given = [Rate(each.currency, each.day, each.per_usd, each.source) for each in body.rates]
    if any(rate.currency == "USD" for rate in given):
        raise Problem(422, "own_currency", "The ledger's own currency needs no rate")
    await cases.accounting.keep_rates(organisation_id, given)
    return [RateOut.of(rate) for rate in given]
