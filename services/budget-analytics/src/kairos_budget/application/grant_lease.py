"""Reserve money for a router process, from every budget that applies or from none."""

from dataclasses import dataclass
from uuid import UUID, uuid4

from kairos_budget.application.ports import LeasePolicy, Log, Meters, Money
from kairos_budget.domain.book import Book, BudgetExceeded
from kairos_budget.domain.budget import ScopeChain
from kairos_budget.domain.lease import Lease, LeaseState, UnknownLease
from kairos_budget.domain.priority import Priority


@dataclass(frozen=True, slots=True)
class LeaseWish:
    """At least `need`, at best `want`, nano-USD. With a `lease_id` it is safe to ask twice.

    `chain` names every scope of the request. The lease is for those that have a budget: which ones, the
    answer says, so that it does not matter what the asker believes.
    """

    holder: str
    chain: ScopeChain
    want: int
    need: int
    lease_id: UUID | None = None
    priority: Priority = Priority.NORMAL


@dataclass(frozen=True, slots=True)
class GrantedLease:
    lease: Lease
    expires_in_ms: int


@dataclass(frozen=True, slots=True)
class GrantLease:
    money: Money
    policy: LeasePolicy
    meters: Meters
    log: Log

    async def __call__(self, wish: LeaseWish) -> GrantedLease:
        """Raises BudgetExceeded, and UnknownLease when the wished id is somebody else's or already over."""
        try:
            return await self._grant(wish)
        except BudgetExceeded as refusal:
            self.meters.refused()
            if refusal.recallable:
                async with self.money.tenant(wish.chain.organisation_id) as tx:
                    await tx.note_refusal(refusal.period.id)
            self.log.info(
                "lease.refused",
                budget_id=str(refusal.period.budget.id),
                need_nano_usd=wish.need,
                remaining_nano_usd=refusal.remaining,
            )
            raise

    async def _grant(self, wish: LeaseWish) -> GrantedLease:
        async with self.money.tenant(wish.chain.organisation_id) as tx:
            book = Book()
            if wish.lease_id is not None:
                await tx.lock_leases(book, [wish.lease_id])
                if book.leases:
                    return _again(book.leases[wish.lease_id], wish, (await tx.now()).timestamp())
            organisation_id = wish.chain.organisation_id
            version = (await tx.index_versions([organisation_id]))[organisation_id]
            budgets = await tx.budgets_of(wish.chain.scopes())
            opened = await tx.now()
            current = [(budget, budget.bounds_at(opened)) for budget in budgets]
            ids = await tx.lock_periods(book, [], current)
            holders = 1 + await tx.count_holders(ids, besides=wish.holder)
            # Locks may have been waited for; a lease counts from now, and never past its periods' end.
            now = await tx.now()
            lease = book.grant(
                wish.lease_id or uuid4(),
                chain=wish.chain.reduced({budget.key for budget in budgets}),
                holder=wish.holder,
                want=wish.want,
                need=wish.need,
                holders=holders,
                timing=self.policy.timing(now, [each.bounds.ends_at for each in book.periods.values()]),
                priority=wish.priority if any(budget.reserves for budget in budgets) else None,
                index_version=version,
            )
            await tx.save(book)
        return GrantedLease(lease, milliseconds(lease.expires_at.timestamp() - now.timestamp()))


def _again(lease: Lease, wish: LeaseWish, now: float) -> GrantedLease:
    fits = lease.chain.within(wish.chain) and lease.priority in {None, wish.priority}
    if lease.holder != wish.holder or not fits or lease.state is not LeaseState.OPEN:
        raise UnknownLease(str(lease.id))
    return GrantedLease(lease, milliseconds(lease.expires_at.timestamp() - now))


def milliseconds(seconds: float) -> int:
    """Whole milliseconds, rounded down: a holder must not believe in more time than it has."""
    return max(int(seconds * 1000), 0)
