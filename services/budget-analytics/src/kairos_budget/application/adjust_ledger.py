"""Correct the books by new entries: nothing that was written is ever changed."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

from kairos_budget.application.announce import announce
from kairos_budget.application.define_budget import UnknownBudget
from kairos_budget.application.ports import Money, Transaction
from kairos_budget.domain.attempt import Charge, Outcome
from kairos_budget.domain.book import Book
from kairos_budget.domain.ledger import ImpossibleBalances, Kind
from kairos_contracts.audit import AuditContext


class UnknownPeriod(LookupError):  # noqa: N818 - reads as the fact it states
    """The budget has no period that holds the moment, or nothing moved in it; the request is refused."""


class UnknownAttempt(LookupError):  # noqa: N818 - reads as the fact it states
    """No such attempt exists, or it is another tenant's; the request is refused."""


class NotReversible(Exception):  # noqa: N818 - reads as the fact it states
    """The attempt is not settled, cost nothing, counts nowhere any more, or is reversed; nothing moves."""


class MoreThanSettled(Exception):  # noqa: N818 - reads as the fact it states
    """The correction would take back more than the period has settled; nothing is moved."""


@dataclass(frozen=True, slots=True)
class Adjustment:
    """`amount` is signed nano-USD, in each of the periods."""

    id: UUID
    organisation_id: UUID
    kind: Kind
    amount: int
    period_ids: tuple[UUID, ...]
    reason: str
    actor: str
    attempt_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class CorrectSettled:
    """Charges or gives back what no attempt explains: a discount, a fee, a provider's credit."""

    money: Money

    async def __call__(
        self,
        organisation_id: UUID,
        budget_id: UUID,
        *,
        amount: int,
        moment: datetime | None,
        reason: str,
        context: AuditContext,
    ) -> Adjustment:
        """In the period that holds `moment`, else the current one.

        Raises UnknownBudget, UnknownPeriod, MoreThanSettled.
        """
        async with self.money.tenant(organisation_id) as tx:
            budget = await tx.lock_budget(budget_id)
            if budget is None:
                raise UnknownBudget(str(budget_id))
            book = Book()
            when = budget.bounds_at(moment or await tx.now())
            period_id = await tx.lock_existing_period(book, budget, when)
            if period_id is None:
                raise UnknownPeriod(str(budget_id))
            actor = context.actor.id
            made = Adjustment(uuid4(), organisation_id, Kind.CORRECTION, amount, (period_id,), reason, actor)
            before = book.periods[period_id].balances.settled
            _apply(book, made)
            announce(tx, book)
            await _keep(tx, made)
            await tx.save(book)
            tx.emit(
                context.entry(
                    "ledger.adjusted",
                    f"budget:{budget_id}",
                    reason=reason,
                    before={"settled_nano_usd": before},
                    after={"settled_nano_usd": before + amount, "adjustment_id": str(made.id)},
                ),
                organisation_id=organisation_id,
            )
        return made


@dataclass(frozen=True, slots=True)
class ReverseAttempt:
    """Takes back what one attempt cost, from every budget that bore it, once.

    Not from a rolling window it has left: that money is available again, and would be given back twice.
    """

    money: Money

    async def __call__(
        self, organisation_id: UUID, attempt_id: UUID, *, reason: str, context: AuditContext
    ) -> Adjustment:
        """The attempt stays as it was. Raises UnknownAttempt, NotReversible, MoreThanSettled."""
        async with self.money.tenant(organisation_id) as tx:
            book = Book()
            await tx.lock_attempts(book, [attempt_id])
            attempt = book.attempts.get(attempt_id)
            if attempt is None:
                raise UnknownAttempt(str(attempt_id))
            periods = await tx.periods_charged_by(attempt_id)
            settled = attempt.outcome is Outcome.SETTLED and attempt.cost
            if not settled or not periods or await tx.is_reversed(attempt_id):
                raise NotReversible(str(attempt_id))
            await tx.lock_periods(book, periods)
            bearing = sorted(each for each, charged_at in periods.items() if _counts(book, each, charged_at))
            if not bearing:
                raise NotReversible(str(attempt_id))
            made = Adjustment(
                uuid4(),
                organisation_id,
                Kind.REVERSAL,
                -attempt.cost,
                tuple(bearing),
                reason,
                context.actor.id,
                attempt_id,
            )
            _apply(book, made)
            await _keep(tx, made)
            await tx.save(book)
            tx.emit(
                context.entry(
                    "ledger.reversed",
                    f"attempt:{attempt_id}",
                    reason=reason,
                    before={"cost_nano_usd": attempt.cost},
                    after={"cost_nano_usd": 0, "adjustment_id": str(made.id)},
                ),
                organisation_id=organisation_id,
            )
        return made


def _counts(book: Book, period_id: UUID, charged_at: datetime) -> bool:
    window = book.windows.get(period_id)
    return window is None or window.holds(charged_at)


async def _keep(tx: Transaction, made: Adjustment) -> None:
    await tx.insert_adjustment(
        adjustment_id=made.id,
        organisation_id=made.organisation_id,
        kind=made.kind.value,
        attempt_id=made.attempt_id,
        period_ids=made.period_ids,
        amount=made.amount,
        reason=made.reason,
        actor=made.actor,
    )


def _apply(book: Book, made: Adjustment) -> None:
    charge = Charge(str(made.id), None, attempt_id=made.attempt_id, adjustment_id=made.id)
    try:
        for period_id in made.period_ids:
            book.adjust(period_id, made.amount, made.kind, charge)
    except ImpossibleBalances as error:
        raise MoreThanSettled(str(made.id)) from error
