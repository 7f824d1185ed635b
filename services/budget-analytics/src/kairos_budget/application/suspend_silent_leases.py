"""Count the unreported rest of silent holders as spent, until somebody knows better."""

from dataclasses import dataclass

from kairos_budget.application.ports import Log, Money
from kairos_budget.domain.book import Book
from kairos_contracts.budget.v1 import LeaseSuspendedV1

BATCH = 200


@dataclass(frozen=True, slots=True)
class SuspendSilentLeases:
    money: Money
    log: Log

    async def __call__(self) -> int:
        """Returns how many leases were ended; call again at once when it is BATCH."""
        async with self.money.system() as tx:
            book = Book()
            await tx.lock_silent_leases(book, BATCH)
            silent = list(book.leases.values())
            await tx.lock_periods(book, {each.period_id for lease in silent for each in lease.allocations})
            for lease in silent:
                suspended = book.suspend(lease)
                if suspended:
                    event = LeaseSuspendedV1(
                        lease_id=lease.id, holder=lease.holder, suspense_nano_usd=suspended
                    )
                    tx.emit(event, organisation_id=lease.chain.organisation_id)
                    self.log.warning(
                        "lease.suspended", lease_id=str(lease.id), holder=lease.holder, nano_usd=suspended
                    )
            await tx.save(book)
        return len(silent)
