"""Replace what we do not know with the provider's own record."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from kairos_budget.application.announce import announce
from kairos_budget.application.ports import Meters, Money, Transaction
from kairos_budget.domain.attempt import Attempt, Outcome, ResolvedBy
from kairos_budget.domain.book import Book
from kairos_contracts.audit import AuditContext

Result = Literal["resolved", "recorded", "matches", "differs", "unmatched"]
# What a provider's record does not tell about an attempt whose usage event was lost.
UNNAMED_MODEL = "unknown"


@dataclass(frozen=True, slots=True)
class ProviderRecord:
    """What the provider says one attempt cost; with `lease_id` even an attempt nobody reported is charged."""

    attempt_id: UUID
    cost: int
    input_tokens: int = 0
    output_tokens: int = 0
    lease_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What became of each record, and what complete leases gave back.

    resolved: an unknown attempt now has its true cost. recorded: an attempt we had not heard of was charged.
    matches/differs: the attempt was settled already; a different figure is reported, never overwritten.
    unmatched: neither the attempt nor its lease is known.
    """

    results: tuple[tuple[UUID, Result], ...]
    returned: int


@dataclass(frozen=True, slots=True)
class ReconcileAttempts:
    money: Money
    meters: Meters

    async def __call__(
        self,
        organisation_id: UUID,
        records: Sequence[ProviderRecord],
        *,
        complete_leases: Collection[UUID],
        context: AuditContext,
    ) -> Reconciled:
        """`complete_leases`: the records hold all their attempts, so the rest of their suspense goes back."""
        async with self.money.tenant(organisation_id) as tx:
            book = await _lock(tx, records, complete_leases)
            now = await tx.now()
            results = tuple((record.attempt_id, _apply(book, record, now)) for record in records)
            returned = sum(
                book.settle_rest(lease_id, f"reconcile:{lease_id}")
                for lease_id in sorted(set(complete_leases))
                if lease_id in book.leases
            )
            announce(tx, book)
            counts: dict[str, int] = {
                name: sum(1 for _, each in results if each == name) for _, name in results
            }
            entry = context.entry(
                "ledger.reconciled",
                f"organisation:{organisation_id}",
                after={"records": len(records), "returned_nano_usd": returned, **counts},
            )
            tx.emit(entry, organisation_id=organisation_id)
            await tx.save(book)
        if book.overspends:
            self.meters.overspent(book.overspends)
        return Reconciled(results, returned)


async def _lock(tx: Transaction, records: Sequence[ProviderRecord], complete: Collection[UUID]) -> Book:
    book = Book()
    attempt_ids = {record.attempt_id for record in records}
    lease_ids = await tx.lease_ids_of(attempt_ids)
    lease_ids |= set(complete) | {record.lease_id for record in records if record.lease_id}
    await tx.lock_leases(book, lease_ids)
    await tx.lock_attempts(book, attempt_ids)
    held = {each.period_id for lease in book.leases.values() for each in lease.allocations}
    held |= {hold.period_id for attempt in book.attempts.values() for hold in attempt.holds}
    await tx.lock_periods(book, held)
    return book


def _apply(book: Book, record: ProviderRecord, now: datetime) -> Result:
    known = book.attempts.get(record.attempt_id)
    if known is None:
        return _record(book, record, now)
    if known.outcome is not Outcome.UNKNOWN:
        return "matches" if known.cost == record.cost else "differs"
    book.resolve(known, cost=record.cost, by=ResolvedBy.RECONCILIATION)
    return "resolved"


def _record(book: Book, record: ProviderRecord, now: datetime) -> Result:
    lease = book.leases.get(record.lease_id) if record.lease_id else None
    if lease is None:
        return "unmatched"
    attempt = Attempt(
        id=record.attempt_id,
        chain=lease.chain,
        lease_id=lease.id,
        outcome=Outcome.SETTLED,
        resolved_by=ResolvedBy.RECONCILIATION,
        hold=record.cost,
        cost=record.cost,
        model=UNNAMED_MODEL,
        input_tokens=record.input_tokens,
        output_tokens=record.output_tokens,
        price_version="provider",
        started_at=now,
    )
    book.record(attempt)
    book.count(attempt, 1)
    return "recorded"
