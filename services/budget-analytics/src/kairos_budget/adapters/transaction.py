"""The money port on PostgreSQL."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from uuid import UUID

from sqlalchemy import text

from kairos_budget.adapters import checking, loading, rollups, saving
from kairos_budget.application.ports import Claim, Usage
from kairos_budget.application.readings import Finding
from kairos_budget.domain.book import Book
from kairos_budget.domain.budget import Bounds, Budget, ScopeKey
from kairos_contracts.message import Message
from kairos_persistence import Database, UnitOfWork

_NOW = text("SELECT clock_timestamp()")
_FIRST_TIMES = text(
    "SELECT message_id FROM unnest(CAST(:ids AS uuid[])) AS message_id"
    " WHERE inbox_first_time(CAST(:consumer AS text), message_id)"
)
_LEASES_OF_ATTEMPTS = text(
    "SELECT DISTINCT lease_id FROM attempts WHERE id = ANY(CAST(:ids AS uuid[])) AND lease_id IS NOT NULL"
)
_COUNT_HOLDERS = text("""
SELECT count(DISTINCT l.holder) FROM lease_allocations a JOIN leases l ON l.id = a.lease_id
WHERE a.period_id = ANY(CAST(:ids AS uuid[])) AND a.leased_nano > 0 AND l.state = 'open'
    AND l.holder <> :besides
""")
_INSERT_BUDGET = text("""
INSERT INTO budgets (id, organisation_id, name, scope, scope_id, limit_nano, period, time_zone, thresholds,
    active, version, created_at, model)
VALUES (:id, :organisation_id, :name, :scope, :scope_id, :limit_nano, :period, :time_zone,
    CAST(:thresholds AS smallint[]), :active, :version, :created_at, :model)
""")
_UPDATE_BUDGET = text("""
UPDATE budgets SET name = :name, limit_nano = :limit_nano, thresholds = CAST(:thresholds AS smallint[]),
    active = :active, version = :version, updated_at = clock_timestamp()
WHERE id = :id
""")


class PostgresTransaction:
    """See application.ports.Transaction."""

    def __init__(self, unit: UnitOfWork) -> None:
        self._unit = unit
        self._session = unit.session

    async def now(self) -> datetime:
        found: datetime = (await self._session.execute(_NOW)).scalar_one()
        return found

    async def first_times(self, consumer: str, message_ids: Collection[UUID]) -> set[UUID]:
        # In id order: two consumers of the same messages wait for each other, never in a circle.
        given = {"consumer": consumer, "ids": sorted(message_ids)}
        return set((await self._session.execute(_FIRST_TIMES, given)).scalars())

    async def lock_leases(self, book: Book, lease_ids: Collection[UUID]) -> None:
        await loading.lock_leases(self._session, book, lease_ids)

    async def lock_silent_leases(self, book: Book, limit: int) -> None:
        await loading.lock_silent_leases(self._session, book, limit)

    async def lease_ids_of(self, attempt_ids: Collection[UUID]) -> set[UUID]:
        rows = await self._session.execute(_LEASES_OF_ATTEMPTS, {"ids": list(attempt_ids)})
        return set(rows.scalars())

    async def lock_attempts(self, book: Book, attempt_ids: Collection[UUID]) -> None:
        await loading.lock_attempts(self._session, book, attempt_ids)

    async def lock_unknown_attempts(self, book: Book, lease_id: UUID) -> None:
        await self.lock_attempts(book, await loading.unknown_attempts_of(self._session, lease_id))

    async def budgets_of(self, keys: Collection[ScopeKey]) -> list[Budget]:
        return await loading.budgets_of_scopes(self._session, keys) if keys else []

    async def lock_budget(self, budget_id: UUID) -> Budget | None:
        return await loading.lock_budget(self._session, budget_id)

    async def lock_periods(
        self,
        book: Book,
        period_ids: Collection[UUID],
        current: Collection[tuple[Budget, Bounds]] = (),
    ) -> set[UUID]:
        found = await loading.find_periods(self._session, current) if current else {}
        missing = [(b, when) for b, when in current if (b.id, when.starts_at) not in found]
        if missing:
            await loading.open_periods(self._session, missing)
            found = await loading.find_periods(self._session, current)
        wanted = {*period_ids, *found.values()}
        if wanted:
            await loading.lock_periods(self._session, book, wanted)
        return set(found.values())

    async def lock_existing_period(self, book: Book, budget: Budget, bounds: Bounds) -> UUID | None:
        found = await loading.find_periods(self._session, [(budget, bounds)])
        await loading.lock_periods(self._session, book, found.values())
        return next(iter(found.values()), None)

    async def count_holders(self, period_ids: Collection[UUID], besides: str) -> int:
        if not period_ids:
            return 0
        given = {"ids": list(period_ids), "besides": besides}
        found: int = (await self._session.execute(_COUNT_HOLDERS, given)).scalar_one()
        return found

    async def save(self, book: Book) -> None:
        await saving.save(self._session, book)

    async def claim_attempts(self, claims: Sequence[Claim]) -> set[UUID]:
        return await saving.claim_attempts(self._session, claims)

    async def append_usage(self, counted: Sequence[Usage], told_again: Sequence[Usage]) -> None:
        await rollups.append_usage(self._session, counted, told_again)

    async def insert_budget(self, budget: Budget) -> None:
        await self._session.execute(
            _INSERT_BUDGET,
            {
                "id": budget.id,
                "organisation_id": budget.organisation_id,
                "name": budget.name,
                "scope": budget.scope.value,
                "scope_id": budget.scope_id,
                "limit_nano": budget.limit_nano,
                "period": budget.period.value,
                "time_zone": budget.time_zone,
                "thresholds": list(budget.thresholds),
                "active": budget.active,
                "version": budget.version,
                "created_at": budget.created_at,
                "model": budget.model,
            },
        )

    async def update_budget(self, budget: Budget) -> None:
        await self._session.execute(
            _UPDATE_BUDGET,
            {
                "id": budget.id,
                "name": budget.name,
                "limit_nano": budget.limit_nano,
                "thresholds": list(budget.thresholds),
                "active": budget.active,
                "version": budget.version,
            },
        )

    async def check_ledger(self, *, full: bool) -> list[Finding]:
        return await checking.check(self._session, full=full)

    def emit(
        self,
        message: Message,
        *,
        organisation_id: UUID,
        causation_id: UUID | None = None,
        traceparent: str | None = None,
    ) -> None:
        if traceparent is None:
            self._unit.emit(message, organisation_id=organisation_id, causation_id=causation_id)
        else:
            self._unit.emit(
                message,
                organisation_id=organisation_id,
                causation_id=causation_id,
                traceparent=traceparent,
            )


class PostgresMoney:
    """See application.ports.Money."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def tenant(self, organisation_id: UUID) -> AsyncIterator[PostgresTransaction]:
        async with self._database.unit_of_work(organisation_id) as unit:
            yield PostgresTransaction(unit)

    @asynccontextmanager
    async def system(self) -> AsyncIterator[PostgresTransaction]:
        async with self._database.system_unit_of_work() as unit:
            yield PostgresTransaction(unit)
