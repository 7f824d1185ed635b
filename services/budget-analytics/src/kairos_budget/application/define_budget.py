"""Create, change and close budgets."""

from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID, uuid4

from kairos_budget.application.announce import announce
from kairos_budget.application.ports import Money, Transaction
from kairos_budget.domain.book import Book
from kairos_budget.domain.budget import Budget, Scope
from kairos_budget.domain.calendar import PeriodKind
from kairos_budget.domain.priority import NO_RESERVES, Reserves
from kairos_contracts.audit import AuditContext
from kairos_contracts.budget.v1 import BudgetChangedV1


class UnknownBudget(LookupError):  # noqa: N818 - reads as the fact it states
    """No such budget exists, or it is another tenant's; the request is refused."""


class BudgetClosed(Exception):  # noqa: N818 - reads as the fact it states
    """A closed budget does not change any more; make a new one."""


@dataclass(frozen=True, slots=True)
class NewBudget:
    name: str
    scope: Scope
    scope_id: UUID
    limit_nano: int
    period: PeriodKind
    time_zone: str
    thresholds: tuple[int, ...]
    model: str | None = None
    window_hours: int | None = None
    reserves: Reserves = NO_RESERVES


@dataclass(frozen=True, slots=True)
class BudgetChange:
    """None leaves a field as it is."""

    name: str | None = None
    limit_nano: int | None = None
    thresholds: tuple[int, ...] | None = None
    reserves: Reserves | None = None


@dataclass(frozen=True, slots=True)
class CreateBudget:
    money: Money

    async def __call__(self, organisation_id: UUID, wish: NewBudget, context: AuditContext) -> Budget:
        async with self.money.tenant(organisation_id) as tx:
            budget = Budget(
                id=uuid4(),
                organisation_id=organisation_id,
                name=wish.name,
                scope=wish.scope,
                scope_id=wish.scope_id,
                limit_nano=wish.limit_nano,
                period=wish.period,
                time_zone=wish.time_zone,
                thresholds=wish.thresholds,
                active=True,
                version=1,
                created_at=await tx.now(),
                model=wish.model,
                window_hours=wish.window_hours,
                reserves=wish.reserves,
            )
            await tx.insert_budget(budget)
            await tx.index_budget(budget)
            _publish(tx, "budget.created", None, budget, context)
        return budget


@dataclass(frozen=True, slots=True)
class ChangeBudget:
    money: Money

    async def __call__(
        self, organisation_id: UUID, budget_id: UUID, change: BudgetChange, context: AuditContext
    ) -> Budget:
        """The current period takes the new limit at once, earlier periods keep theirs.

        Raises UnknownBudget, BudgetClosed.
        """
        async with self.money.tenant(organisation_id) as tx:
            before = await _active(tx, budget_id)
            after = replace(
                before,
                name=before.name if change.name is None else change.name,
                limit_nano=before.limit_nano if change.limit_nano is None else change.limit_nano,
                thresholds=before.thresholds if change.thresholds is None else change.thresholds,
                reserves=before.reserves if change.reserves is None else change.reserves,
                version=before.version + 1,
            )
            await tx.update_budget(after)
            if after.reserves != before.reserves:
                await tx.index_budget(after)
            book = Book()
            period_id = await tx.lock_existing_period(book, after, after.bounds_at(await tx.now()))
            if period_id is not None:
                book.set_limit(period_id, after.limit_nano, f"limit:{after.version}")
                announce(tx, book)
                await tx.save(book)
            _publish(tx, "budget.updated", before, after, context)
        return after


@dataclass(frozen=True, slots=True)
class CloseBudget:
    money: Money

    async def __call__(self, organisation_id: UUID, budget_id: UUID, context: AuditContext) -> Budget:
        """No new lease counts against it; what is open settles into its period.

        Raises UnknownBudget, BudgetClosed.
        """
        async with self.money.tenant(organisation_id) as tx:
            before = await _active(tx, budget_id)
            after = replace(before, active=False, version=before.version + 1)
            await tx.update_budget(after)
            await tx.index_budget(after)
            _publish(tx, "budget.closed", before, after, context)
        return after


async def _active(tx: Transaction, budget_id: UUID) -> Budget:
    budget = await tx.lock_budget(budget_id)
    if budget is None:
        raise UnknownBudget(str(budget_id))
    if not budget.active:
        raise BudgetClosed(str(budget_id))
    return budget


def _publish(
    tx: Transaction, action: str, before: Budget | None, after: Budget, context: AuditContext
) -> None:
    event = BudgetChangedV1(
        budget_id=after.id,
        scope=after.scope.value,
        scope_id=after.scope_id,
        limit_nano_usd=after.limit_nano,
        active=after.active,
    )
    tx.emit(event, organisation_id=after.organisation_id)
    entry = context.entry(
        action, f"budget:{after.id}", before=_facts(before) if before else None, after=_facts(after)
    )
    tx.emit(entry, organisation_id=after.organisation_id)


def _facts(budget: Budget) -> dict[str, Any]:
    return {
        "name": budget.name,
        "scope": budget.scope.value,
        "scope_id": str(budget.scope_id),
        "model": budget.model,
        "limit_nano_usd": budget.limit_nano,
        "period": budget.period.value,
        "time_zone": budget.time_zone,
        "window_hours": budget.window_hours,
        "reserves": {"normal": budget.reserves.normal, "interactive": budget.reserves.interactive},
        "thresholds": list(budget.thresholds),
        "active": budget.active,
    }
