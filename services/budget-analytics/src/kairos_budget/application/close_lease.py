"""Take a lease's final figures and give the rest back."""

from dataclasses import dataclass
from uuid import UUID

from kairos_budget.application.ports import LeasePolicy, Money
from kairos_budget.domain.book import Book
from kairos_budget.domain.lease import Lease


@dataclass(frozen=True, slots=True)
class ClosedLease:
    """`owed` stays reserved until the usage events of what the holder settled have arrived."""

    lease: Lease
    returned: int
    owed: int


@dataclass(frozen=True, slots=True)
class CloseLease:
    money: Money
    policy: LeasePolicy

    async def __call__(self, lease_id: UUID, *, epoch: int, settled: int) -> ClosedLease:
        """Raises UnknownLease, StaleEpoch."""
        async with self.money.system() as tx:
            book = Book()
            await tx.lock_leases(book, [lease_id])
            lease = book.lease(lease_id)
            await tx.lock_periods(book, [each.period_id for each in lease.allocations])
            wait_until = await tx.now() + self.policy.close_grace
            lease, returned = book.close(lease_id, epoch=epoch, settled=settled, suspend_after=wait_until)
            await tx.save(book)
        return ClosedLease(lease, returned, max((lease.expected or 0) - lease.accounted, 0))
