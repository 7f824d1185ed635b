"""Charge what attempts cost: the settle side of every hold. Idempotent by message and by attempt."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from kairos_budget.application.announce import announce
from kairos_budget.application.ports import Log, Meters, Money, Transaction, Usage
from kairos_budget.domain.attempt import Attempt, Outcome, ResolvedBy
from kairos_budget.domain.book import Book
from kairos_budget.domain.budget import Bounds, Budget, ScopeChain, applicable, bounds
from kairos_contracts.scopes import model_scope_id

CONSUMER = "budget-analytics.usage"


@dataclass(frozen=True, slots=True)
class RecordUsage:
    """Takes many events at once: one transaction locks each lease and period once for all of them."""

    money: Money
    meters: Meters
    log: Log

    async def __call__(self, usages: Sequence[Usage]) -> None:
        async with self.money.system() as tx:
            fresh = await tx.first_times(CONSUMER, {usage.message_id for usage in usages})
            usages = [usage for usage in usages if usage.message_id in fresh]
            if not usages:
                return
            book = Book()
            await tx.lock_leases(book, {u.message.lease_id for u in usages if u.message.lease_id})
            await tx.lock_attempts(book, {usage.message.attempt_id for usage in usages})
            uncovered = await self._uncovered(tx, book, usages)
            wanted = {each for group in uncovered for each in group}
            await tx.lock_periods(book, _held_periods(book), wanted)
            ids = {(period.budget.id, period.bounds.starts_at): period.id for period in book.periods.values()}
            new = [
                usage
                for usage, missing in zip(usages, uncovered, strict=True)
                if book.record(
                    attempt_of(usage), tuple(ids[budget.id, when.starts_at] for budget, when in missing)
                )
            ]
            announce(tx, book, {usage.organisation_id: usage for usage in usages})
            await tx.save(book)
            await tx.append_usage(new)
        if book.overspends:
            self.meters.overspent(book.overspends)
            self.log.warning("budget.overspent", times=book.overspends)

    async def _uncovered(
        self, tx: Transaction, book: Book, usages: Collection[Usage]
    ) -> list[tuple[tuple[Budget, Bounds], ...]]:
        """Per usage the periods that must bear the cost although its lease holds nothing of them.

        That is so for attempts without a lease, for leases granted before the budget was made, and for
        leases this database never heard of. The limit can't be kept then, but the truth is.
        """
        keys = {key for usage in usages for key in _chain(usage).scopes()}
        budgets = await tx.budgets_of(keys)
        return [tuple(_missing(book, usage, budgets)) for usage in usages]


def _missing(book: Book, usage: Usage, budgets: Sequence[Budget]) -> list[tuple[Budget, Bounds]]:
    owes = {"settled": usage.message.cost_nano_usd, "unknown": usage.message.hold_nano_usd}
    if not owes.get(usage.message.outcome):
        return []
    lease = book.leases.get(usage.message.lease_id) if usage.message.lease_id else None
    covered = {each.budget_id for each in lease.allocations} if lease else set()
    started: datetime = usage.message.started_at
    return [
        (budget, bounds(budget.period, started))
        for budget in applicable(budgets, _chain(usage))
        if budget.id not in covered and started >= budget.created_at
    ]


def _held_periods(book: Book) -> set[UUID]:
    leased = {each.period_id for lease in book.leases.values() for each in lease.allocations}
    return leased | {hold.period_id for attempt in book.attempts.values() for hold in attempt.holds}


def _chain(usage: Usage) -> ScopeChain:
    message = usage.message
    return ScopeChain(
        usage.organisation_id,
        message.project_id,
        message.bot_id,
        message.team_id,
        message.contact_id,
        message.api_key_id,
        model_scope_id(message.model),
    )


def attempt_of(usage: Usage) -> Attempt:
    message = usage.message
    outcome = Outcome(message.outcome)
    return Attempt(
        id=message.attempt_id,
        chain=_chain(usage),
        lease_id=message.lease_id,
        outcome=outcome,
        resolved_by=ResolvedBy.USAGE,
        hold=message.hold_nano_usd,
        cost=message.cost_nano_usd if outcome is Outcome.SETTLED else 0,
        model=message.model,
        input_tokens=message.input_tokens,
        output_tokens=message.output_tokens,
        price_version=message.price_version,
        started_at=message.started_at,
    )
