"""Charge what attempts cost: the settle side of every hold. Idempotent by message and by attempt.

Settled attempts, which are nearly all, are posted together: one posting per lease and set of budgets. An
attempt is claimed by inserting it before anything moves, so whoever claims it charges it, once. Attempts of
unknown outcome, and what is reported a second time, are charged one by one.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from kairos_budget.application.announce import announce
from kairos_budget.application.ports import Claim, Log, Meters, Money, Transaction, Usage
from kairos_budget.application.rollup import Rollup
from kairos_budget.domain.attempt import Attempt, Outcome, ResolvedBy
from kairos_budget.domain.book import Book
from kairos_budget.domain.budget import Budget, ScopeChain, applicable
from kairos_budget.domain.calendar import Bounds
from kairos_budget.domain.posting import Posting, posting_id
from kairos_contracts.scopes import model_scope_id

CONSUMER = "budget-analytics.usage"
Uncovered = tuple[tuple[Budget, Bounds], ...]


@dataclass(frozen=True, slots=True)
class Report:
    """One usage event, the attempt it tells of, and the budgets that bear it although its lease does not."""

    usage: Usage
    attempt: Attempt
    uncovered: Uncovered


@dataclass(slots=True)
class Group:
    """Reports that one posting can charge."""

    lease_id: UUID | None
    uncovered: Uncovered
    reports: list[Report] = field(default_factory=list)

    def posting(
        self, claimed: Collection[UUID], name: UUID, periods: dict[tuple[UUID, datetime], UUID]
    ) -> Posting:
        charged = [each.attempt for each in self.reports if each.attempt.id in claimed]
        return Posting(
            id=name,
            organisation_id=self.reports[0].usage.organisation_id,
            lease_id=self.lease_id,
            uncovered=_ids(self.uncovered, periods),
            costs=tuple(attempt.cost for attempt in charged),
        )


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
            reports = await _reports(tx, book, usages)
            firsts, repeats = _by_attempt(reports)
            groups = _groups(firsts)
            names = {id(report): name for name, group in groups.items() for report in group.reports}
            claimed = await tx.claim_attempts([Claim(each.attempt, names.get(id(each))) for each in firsts])
            repeats += [each for each in firsts if each.attempt.id not in claimed]
            await tx.lock_attempts(book, {each.attempt.id for each in repeats} - claimed)
            periods = await _lock_periods(tx, book, reports)
            for name, group in groups.items():
                posting = group.posting(claimed, name, periods)
                if posting.costs:
                    book.post(posting)
            kept = [each for each in firsts if each.attempt.id in claimed]
            singles = [each for each in kept if each.attempt.outcome is Outcome.UNKNOWN]
            settled = claimed - {each.attempt.id for each in singles}
            again = [each for each in repeats if each.attempt.id not in settled]
            for each in singles:
                book.record(each.attempt, _ids(each.uncovered, periods))
            resolved = [each for each in again if book.record(each.attempt, _ids(each.uncovered, periods))]
            announce(tx, book, {usage.organisation_id: usage for usage in usages})
            await tx.save(book)
            await tx.append_usage([each.usage for each in kept], [each.usage for each in resolved])
        self._above_hold([each.attempt for each in kept])
        if book.overspends:
            self.meters.overspent(book.overspends)
            self.log.warning("budget.overspent", times=book.overspends)

    def _above_hold(self, attempts: Sequence[Attempt]) -> None:
        """A provider that charges more than the worst case we told it breaks what the hard cap rests on."""
        for attempt in (each for each in attempts if each.cost > each.hold):
            self.meters.above_hold()
            self.log.warning(
                "attempt.above_hold",
                attempt_id=str(attempt.id),
                model=attempt.model,
                hold_nano_usd=attempt.hold,
                cost_nano_usd=attempt.cost,
            )


def _ids(uncovered: Uncovered, periods: dict[tuple[UUID, datetime], UUID]) -> tuple[UUID, ...]:
    return tuple(periods[budget.id, when.starts_at] for budget, when in uncovered)


def _by_attempt(reports: Sequence[Report]) -> tuple[list[Report], list[Report]]:
    """The first report of each attempt, and the further ones."""
    firsts: dict[UUID, Report] = {}
    repeats = [each for each in reports if firsts.setdefault(each.attempt.id, each) is not each]
    return list(firsts.values()), repeats


def _groups(reports: Sequence[Report]) -> dict[UUID, Group]:
    """Settled attempts that cost something, by the posting that will charge them."""
    found: dict[tuple[UUID, UUID | None, Uncovered], Group] = {}
    for report in reports:
        attempt = report.attempt
        if attempt.outcome is Outcome.SETTLED and attempt.cost:
            key = (report.usage.organisation_id, attempt.lease_id, report.uncovered)
            group = found.get(key)
            if group is None:
                group = found[key] = Group(attempt.lease_id, report.uncovered)
            group.reports.append(report)
    return {posting_id(report.attempt.id for report in group.reports): group for group in found.values()}


async def _lock_periods(
    tx: Transaction, book: Book, reports: Sequence[Report]
) -> dict[tuple[UUID, datetime], UUID]:
    wanted = {each for report in reports for each in report.uncovered}
    await tx.lock_periods(book, _held_periods(book), wanted)
    return {(period.budget.id, period.bounds.starts_at): period.id for period in book.periods.values()}


async def _reports(tx: Transaction, book: Book, usages: Sequence[Usage]) -> list[Report]:
    """Reads the budgets of all scopes once; attempts of the same scopes share what is found for them."""
    series = Rollup()
    chains: dict[tuple[UUID | str | None, ...], ScopeChain] = {}
    placed = [(usage, _chain(usage, chains)) for usage in usages]
    budgets = await tx.budgets_of({key for chain in chains.values() for key in chain.scopes()})
    found: dict[tuple[int, UUID | None], tuple[Budget, ...]] = {}
    reports = []
    for usage, chain in placed:
        key = (id(chain), usage.message.lease_id)
        if key not in found:
            found[key] = _not_covered(book, usage.message.lease_id, applicable(budgets, chain))
        uncovered = _missing(usage, found[key]) if found[key] else ()
        reports.append(Report(usage, attempt_of(usage, chain, series.series_of(usage)), uncovered))
    return reports


def _not_covered(book: Book, lease_id: UUID | None, budgets: Sequence[Budget]) -> tuple[Budget, ...]:
    lease = book.leases.get(lease_id) if lease_id else None
    covered = {each.budget_id for each in lease.allocations} if lease else set()
    return tuple(budget for budget in budgets if budget.id not in covered)


def _missing(usage: Usage, budgets: Sequence[Budget]) -> Uncovered:
    """The periods that must bear the cost although the attempt's lease holds nothing of them.

    That is so for attempts without a lease, for leases granted before the budget was made, and for leases
    this database never heard of. The limit can't be kept then, but the truth is.
    """
    owes = {"settled": usage.message.cost_nano_usd, "unknown": usage.message.hold_nano_usd}
    if not owes.get(usage.message.outcome):
        return ()
    started: datetime = usage.message.started_at
    return tuple((budget, budget.bounds_at(started)) for budget in budgets if started >= budget.created_at)


def _held_periods(book: Book) -> set[UUID]:
    leased = {each.period_id for lease in book.leases.values() for each in lease.allocations}
    return leased | {hold.period_id for attempt in book.attempts.values() for hold in attempt.holds}


def _chain(usage: Usage, known: dict[tuple[UUID | str | None, ...], ScopeChain]) -> ScopeChain:
    message = usage.message
    key = (
        usage.organisation_id,
        message.project_id,
        message.bot_id,
        message.team_id,
        message.contact_id,
        message.api_key_id,
        message.model,
    )
    chain = known.get(key)
    if chain is None:
        chain = known[key] = ScopeChain(
            usage.organisation_id,
            message.project_id,
            message.bot_id,
            message.team_id,
            message.contact_id,
            message.api_key_id,
            model_scope_id(message.model),
        )
    return chain


def attempt_of(usage: Usage, chain: ScopeChain, series_id: UUID) -> Attempt:
    message = usage.message
    outcome = Outcome(message.outcome)
    return Attempt(
        id=message.attempt_id,
        chain=chain,
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
        series_id=series_id,
    )
