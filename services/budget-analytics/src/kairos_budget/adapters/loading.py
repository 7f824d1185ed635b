"""Rows into the domain: locks and reads of one transaction."""

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncSession

from kairos_budget.adapters import windows
from kairos_budget.domain.attempt import Attempt, AttemptHold, Outcome, ResolvedBy
from kairos_budget.domain.book import Book
from kairos_budget.domain.budget import Budget, Scope, ScopeChain, ScopeKey
from kairos_budget.domain.calendar import Bounds, PeriodKind
from kairos_budget.domain.lease import Allocation, Lease, LeaseState, OpenHold
from kairos_budget.domain.ledger import Balances
from kairos_budget.domain.period import RECALL_FOR, Period
from kairos_budget.domain.priority import Priority, Reserves
from kairos_budget.domain.rolling import Window

BUDGET_COLUMNS = (
    "b.id, b.organisation_id, b.name, b.scope, b.scope_id, b.limit_nano, b.period, b.time_zone, b.thresholds,"
    " b.active, b.version, b.created_at, b.model, b.window_hours, b.reserve_normal,"
    " b.reserve_interactive"
)
_BUDGETS_OF_SCOPES = text(f"""
SELECT {BUDGET_COLUMNS} FROM budgets b
JOIN unnest(CAST(:organisations AS uuid[]), CAST(:scopes AS text[]), CAST(:scope_ids AS uuid[]))
    AS wanted (organisation_id, scope, scope_id) USING (organisation_id, scope, scope_id)
WHERE b.active ORDER BY b.id
""")  # noqa: S608 - composed of constants
_LOCK_BUDGET = text(
    f"SELECT {BUDGET_COLUMNS} FROM budgets b WHERE b.id = :id FOR UPDATE"  # noqa: S608 - composed of constants
)
# Waits for a change of the definition, and makes such a change wait until the period has its limit.
_SHARE_BUDGETS = text("SELECT id FROM budgets WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR SHARE")
_FIND_PERIODS = text("""
SELECT p.id, p.budget_id, p.starts_at FROM budget_periods p
JOIN unnest(CAST(:budgets AS uuid[]), CAST(:starts AS timestamptz[])) AS wanted (budget_id, starts_at)
    USING (budget_id, starts_at)
""")
_OPEN_PERIODS = text("""
INSERT INTO budget_periods (id, organisation_id, budget_id, starts_at, ends_at)
SELECT * FROM unnest(
    CAST(:ids AS uuid[]), CAST(:organisations AS uuid[]), CAST(:budgets AS uuid[]),
    CAST(:starts AS timestamptz[]), CAST(:ends AS timestamptz[])
)
ON CONFLICT (budget_id, starts_at) DO NOTHING
""")
_LOCK_PERIODS = text(f"""
SELECT p.id AS period_id, p.starts_at, p.ends_at, p.opened, p.limit_nano AS period_limit, p.available_nano,
    p.refused_at, clock_timestamp() AS locked_at,
    p.leased_nano, p.settled_nano, p.suspense_nano, p.excess_nano, p.overspend_nano, p.announced,
    {BUDGET_COLUMNS}
FROM budget_periods p JOIN budgets b ON b.id = p.budget_id
WHERE p.id = ANY(CAST(:ids AS uuid[])) ORDER BY p.id FOR NO KEY UPDATE OF p
""")  # noqa: S608 - composed of constants
_LEASE_COLUMNS = (
    "id, organisation_id, project_id, bot_id, team_id, contact_id, api_key_id, model_id, holder, epoch,"
    " state, granted_nano, grants, accounted_nano, expected_nano, reported_settled_nano,"
    " reported_open_nano, expires_at, suspend_after, priority, index_version, returned_nano, open_holds"
)
_LOCK_LEASES = text(
    f"SELECT {_LEASE_COLUMNS} FROM leases WHERE id = ANY(CAST(:ids AS uuid[]))"  # noqa: S608 - constants
    " ORDER BY id FOR UPDATE"
)
_LOCK_SILENT = text(
    f"SELECT {_LEASE_COLUMNS} FROM leases"  # noqa: S608 - constants
    " WHERE state IN ('open', 'closing') AND suspend_after < clock_timestamp()"
    " ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED"
)
# Allocations change only while their lease is locked, so they need no lock of their own.
_ALLOCATIONS = text("""
SELECT a.lease_id, a.period_id, p.budget_id, p.ends_at, a.leased_nano, a.suspense_nano
FROM lease_allocations a JOIN budget_periods p ON p.id = a.period_id
WHERE a.lease_id = ANY(CAST(:ids AS uuid[])) ORDER BY a.lease_id, a.period_id
""")
_ATTEMPT_COLUMNS = (
    "id, organisation_id, lease_id, project_id, bot_id, team_id, contact_id, api_key_id, model_id, outcome,"
    " resolved_by, hold_nano, cost_nano, model, input_tokens, output_tokens, price_version, started_at,"
    " series_id"
)
_LOCK_ATTEMPTS = text(
    f"SELECT {_ATTEMPT_COLUMNS} FROM attempts WHERE id = ANY(CAST(:ids AS uuid[]))"  # noqa: S608 - constants
    " ORDER BY id FOR UPDATE"
)
_HOLDS = text("""
SELECT attempt_id, period_id, amount_nano FROM attempt_holds
WHERE attempt_id = ANY(CAST(:ids AS uuid[])) ORDER BY attempt_id, period_id
""")
_UNKNOWN_OF_LEASE = text("SELECT DISTINCT attempt_id FROM attempt_holds WHERE lease_id = :lease_id")


def budget_of(row: Any) -> Budget:
    return Budget(
        id=row.id,
        organisation_id=row.organisation_id,
        name=row.name,
        scope=Scope(row.scope),
        scope_id=row.scope_id,
        limit_nano=row.limit_nano,
        period=PeriodKind(row.period),
        time_zone=row.time_zone,
        thresholds=tuple(row.thresholds),
        active=row.active,
        version=row.version,
        created_at=row.created_at,
        model=row.model,
        window_hours=row.window_hours,
        reserves=Reserves(row.reserve_normal, row.reserve_interactive),
    )


def chain_of(row: Any) -> ScopeChain:
    return ScopeChain(
        row.organisation_id,
        row.project_id,
        row.bot_id,
        row.team_id,
        row.contact_id,
        row.api_key_id,
        row.model_id,
    )


def hold_of(entry: dict[str, Any]) -> OpenHold:
    return OpenHold(
        UUID(entry["attempt_id"]), entry["amount"], datetime.fromisoformat(entry["since"]), entry["model"]
    )


async def budgets_of_scopes(session: AsyncSession, keys: Collection[ScopeKey]) -> list[Budget]:
    wanted = sorted(set(keys))
    rows = await session.execute(
        _BUDGETS_OF_SCOPES,
        {
            "organisations": [key.organisation_id for key in wanted],
            "scopes": [key.scope.value for key in wanted],
            "scope_ids": [key.scope_id for key in wanted],
        },
    )
    return [budget_of(row) for row in rows]


async def lock_budget(session: AsyncSession, budget_id: UUID) -> Budget | None:
    row = (await session.execute(_LOCK_BUDGET, {"id": budget_id})).one_or_none()
    return budget_of(row) if row else None


async def lock_leases(session: AsyncSession, book: Book, lease_ids: Collection[UUID]) -> None:
    if lease_ids:
        await _load_leases(session, book, _LOCK_LEASES, {"ids": sorted(lease_ids)})


async def lock_silent_leases(session: AsyncSession, book: Book, limit: int) -> None:
    await _load_leases(session, book, _LOCK_SILENT, {"limit": limit})


async def _load_leases(
    session: AsyncSession, book: Book, statement: TextClause, parameters: dict[str, Any]
) -> None:
    rows = (await session.execute(statement, parameters)).all()
    if not rows:
        return
    allocations: dict[UUID, list[Allocation]] = {row.id: [] for row in rows}
    for row in await session.execute(_ALLOCATIONS, {"ids": list(allocations)}):
        allocations[row.lease_id].append(
            Allocation(row.period_id, row.budget_id, row.ends_at, row.leased_nano, row.suspense_nano)
        )
    for row in rows:
        book.leases[row.id] = Lease(
            id=row.id,
            chain=chain_of(row),
            holder=row.holder,
            epoch=row.epoch,
            state=LeaseState(row.state),
            granted=row.granted_nano,
            grants=row.grants,
            accounted=row.accounted_nano,
            expected=row.expected_nano,
            expires_at=row.expires_at,
            suspend_after=row.suspend_after,
            allocations=tuple(allocations[row.id]),
            reported_settled=row.reported_settled_nano,
            reported_open=row.reported_open_nano,
            priority=Priority(row.priority) if row.priority else None,
            index_version=row.index_version,
            returned=row.returned_nano,
            open_holds=tuple(map(hold_of, row.open_holds)),
        )


async def lock_attempts(session: AsyncSession, book: Book, attempt_ids: Collection[UUID]) -> None:
    if not attempt_ids:
        return
    rows = (await session.execute(_LOCK_ATTEMPTS, {"ids": sorted(attempt_ids)})).all()
    if not rows:
        return
    holds: dict[UUID, list[AttemptHold]] = {row.id: [] for row in rows}
    for row in await session.execute(_HOLDS, {"ids": list(holds)}):
        holds[row.attempt_id].append(AttemptHold(row.period_id, row.amount_nano))
    for row in rows:
        book.attempts[row.id] = Attempt(
            id=row.id,
            chain=chain_of(row),
            lease_id=row.lease_id,
            outcome=Outcome(row.outcome),
            resolved_by=ResolvedBy(row.resolved_by),
            hold=row.hold_nano,
            cost=row.cost_nano,
            model=row.model,
            input_tokens=row.input_tokens,
            output_tokens=row.output_tokens,
            price_version=row.price_version,
            started_at=row.started_at,
            series_id=row.series_id,
            holds=tuple(holds[row.id]),
        )


async def unknown_attempts_of(session: AsyncSession, lease_id: UUID) -> set[UUID]:
    return set((await session.execute(_UNKNOWN_OF_LEASE, {"lease_id": lease_id})).scalars())


async def find_periods(
    session: AsyncSession, current: Collection[tuple[Budget, Bounds]]
) -> dict[tuple[UUID, Any], UUID]:
    """Ids of the periods that exist, by budget and start."""
    pairs = list(current)
    rows = await session.execute(
        _FIND_PERIODS,
        {
            "budgets": [budget.id for budget, _ in pairs],
            "starts": [bounds.starts_at for _, bounds in pairs],
        },
    )
    return {(row.budget_id, row.starts_at): row.id for row in rows}


async def open_periods(session: AsyncSession, missing: Iterable[tuple[Budget, Bounds]]) -> None:
    """Insert rows for periods nobody used yet; their limit is set when they are locked."""
    pairs = sorted(missing, key=lambda pair: (pair[0].id, pair[1].starts_at))
    await session.execute(_SHARE_BUDGETS, {"ids": [budget.id for budget, _ in pairs]})
    await session.execute(
        _OPEN_PERIODS,
        {
            "ids": [uuid4() for _ in pairs],
            "organisations": [budget.organisation_id for budget, _ in pairs],
            "budgets": [budget.id for budget, _ in pairs],
            "starts": [bounds.starts_at for _, bounds in pairs],
            "ends": [bounds.ends_at for _, bounds in pairs],
        },
    )


async def lock_periods(session: AsyncSession, book: Book, period_ids: Collection[UUID]) -> None:
    rolling: dict[UUID, Window] = {}
    for row in await session.execute(_LOCK_PERIODS, {"ids": sorted(period_ids)}):
        book.periods[row.period_id] = Period(
            id=row.period_id,
            budget=budget_of(row),
            bounds=Bounds(row.starts_at, row.ends_at),
            balances=Balances(
                limit=row.period_limit,
                available=row.available_nano,
                leased=row.leased_nano,
                settled=row.settled_nano,
                suspense=row.suspense_nano,
                excess=row.excess_nano,
                overspend=row.overspend_nano,
            ),
            announced=tuple(row.announced),
            recalling=row.refused_at is not None and row.locked_at - row.refused_at < RECALL_FOR,
        )
        if row.window_hours is not None:
            rolling[row.period_id] = Window(row.window_hours, row.locked_at)
        if not row.opened:
            book.set_limit(row.period_id, row.limit_nano, "open")
    if rolling:
        await windows.load(session, book, rolling)
