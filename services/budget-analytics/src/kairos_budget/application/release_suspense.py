"""An administrator decides that what is in suspense was never spent."""

from dataclasses import dataclass
from uuid import UUID

from kairos_budget.application.ports import Money
from kairos_budget.domain.attempt import ResolvedBy
from kairos_budget.domain.book import Book
from kairos_budget.domain.lease import NothingSuspended
from kairos_contracts.audit import AuditContext


@dataclass(frozen=True, slots=True)
class Released:
    """Nano-USD given back: the lease's unreported rest, and the holds of its unknown attempts."""

    unreported: int
    unknown: int
    attempts: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class ReleaseSuspense:
    money: Money

    async def __call__(
        self,
        organisation_id: UUID,
        lease_id: UUID,
        *,
        include_unknown: bool,
        reason: str,
        context: AuditContext,
    ) -> Released:
        """Raises UnknownLease, NothingSuspended."""
        async with self.money.tenant(organisation_id) as tx:
            book = Book()
            await tx.lock_leases(book, [lease_id])
            lease = book.lease(lease_id)
            if include_unknown:
                await tx.lock_unknown_attempts(book, lease_id)
            unknown = tuple(book.attempts.values())
            periods = {each.period_id for each in lease.allocations}
            periods |= {hold.period_id for attempt in unknown for hold in attempt.holds}
            await tx.lock_periods(book, periods)
            for attempt in unknown:
                book.resolve(attempt, cost=0, by=ResolvedBy.RELEASE)
            released = Released(
                unreported=_release_rest(book, lease_id, required=not unknown),
                unknown=sum(attempt.hold for attempt in unknown),
                attempts=tuple(attempt.id for attempt in unknown),
            )
            entry = context.entry(
                "suspense.released",
                f"lease:{lease_id}",
                reason=reason,
                before={"unreported_nano_usd": released.unreported, "unknown_nano_usd": released.unknown},
                after={"unreported_nano_usd": 0, "unknown_nano_usd": 0},
            )
            tx.emit(entry, organisation_id=organisation_id)
            await tx.save(book)
        return released


def _release_rest(book: Book, lease_id: UUID, *, required: bool) -> int:
    try:
        return book.release(lease_id)
    except NothingSuspended:
        if required:
            raise
        return 0
