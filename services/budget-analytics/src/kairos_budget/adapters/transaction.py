"""The money port on PostgreSQL."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from uuid import UUID

from sqlalchemy import text

from kairos_budget.adapters import checking, forecasts, loading, rollups, saving
from kairos_budget.application.ports import Claim, Outlook, Pressure, Usage
from kairos_budget.application.readings import Finding
from kairos_budget.domain.book import Book
from kairos_budget.domain.budget import Budget, Scope, ScopeKey
from kairos_budget.domain.calendar import Bounds
from kairos_budget.domain.period import RECALL_FOR, SCARCE_PART, Period
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
_CHARGED_PERIODS = text("""
SELECT period_id, min(created_at) AS charged_at FROM transfers WHERE target = 'settled'
    AND (attempt_id = :id OR posting_id = (SELECT posting_id FROM attempts WHERE id = :id))
GROUP BY period_id
""")
_REVERSED = text("SELECT EXISTS (SELECT FROM adjustments WHERE attempt_id = :id)")
_INSERT_ADJUSTMENT = text("""
INSERT INTO adjustments (id, organisation_id, kind, attempt_id, period_ids, amount_nano, reason, actor)
VALUES (:id, :organisation_id, :kind, :attempt_id, CAST(:period_ids AS uuid[]), :amount, :reason, :actor)
""")
_INSERT_BUDGET = text("""
INSERT INTO budgets (id, organisation_id, name, scope, scope_id, limit_nano, period, time_zone, thresholds,
    active, version, created_at, model, window_hours, reserve_normal, reserve_interactive)
VALUES (:id, :organisation_id, :name, :scope, :scope_id, :limit_nano, :period, :time_zone,
    CAST(:thresholds AS smallint[]), :active, :version, :created_at, :model, :window_hours,
    :reserve_normal, :reserve_interactive)
""")
_UPDATE_BUDGET = text("""
UPDATE budgets SET name = :name, limit_nano = :limit_nano, thresholds = CAST(:thresholds AS smallint[]),
    active = :active, version = :version, reserve_normal = :reserve_normal,
    reserve_interactive = :reserve_interactive, updated_at = clock_timestamp()
WHERE id = :id
""")
_INDEX_BUDGET = text("""
WITH next AS (
    INSERT INTO scope_indexes (organisation_id, version) VALUES (:organisation_id, 1)
    ON CONFLICT (organisation_id) DO UPDATE SET version = scope_indexes.version + 1 RETURNING version
)
UPDATE budgets SET index_version = next.version FROM next WHERE id = :id
""")
_INDEX_VERSIONS = text(
    "SELECT organisation_id, version FROM scope_indexes WHERE organisation_id = ANY(CAST(:ids AS uuid[]))"
)
_SCOPES_SINCE = text("""
SELECT b.organisation_id, b.scope, b.scope_id, b.index_version FROM budgets b
JOIN unnest(CAST(:ids AS uuid[]), CAST(:versions AS bigint[])) AS known (organisation_id, version)
    USING (organisation_id)
WHERE b.active AND b.index_version > known.version
""")
_PRESSURE = text("""
SELECT p.id, p.available_nano, p.limit_nano, p.excess_nano,
    p.refused_at > clock_timestamp() - make_interval(secs => :seconds) AS recalling,
    CASE WHEN p.available_nano * :part < p.limit_nano THEN (
        SELECT count(DISTINCT l.holder) FROM lease_allocations a JOIN leases l ON l.id = a.lease_id
        WHERE a.period_id = p.id AND a.leased_nano > 0 AND l.state = 'open'
    ) ELSE 1 END AS holders
FROM budget_periods p WHERE p.id = ANY(CAST(:ids AS uuid[]))
""")
# At most once a second: an exhausted budget must not turn every refusal into a write.
_NOTE_REFUSAL = text("""
UPDATE budget_periods SET refused_at = clock_timestamp()
WHERE id = :id AND (refused_at IS NULL OR refused_at < clock_timestamp() - interval '1 s')
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

    async def take_samples(self) -> list[Outlook]:
        return await forecasts.take_samples(self._session)

    async def keep_forecast(
        self, period: Period, *, over: bool, exceeds_at: datetime | None, crossing: bool
    ) -> None:
        await forecasts.keep_forecast(
            self._session, period, over=over, exceeds_at=exceeds_at, crossing=crossing
        )

    async def periods_charged_by(self, attempt_id: UUID) -> dict[UUID, datetime]:
        rows = await self._session.execute(_CHARGED_PERIODS, {"id": attempt_id})
        return {row.period_id: row.charged_at for row in rows}

    async def is_reversed(self, attempt_id: UUID) -> bool:
        return bool((await self._session.execute(_REVERSED, {"id": attempt_id})).scalar_one())

    async def insert_adjustment(
        self,
        *,
        adjustment_id: UUID,
        organisation_id: UUID,
        kind: str,
        attempt_id: UUID | None,
        period_ids: Collection[UUID],
        amount: int,
        reason: str,
        actor: str,
    ) -> None:
        await self._session.execute(
            _INSERT_ADJUSTMENT,
            {
                "id": adjustment_id,
                "organisation_id": organisation_id,
                "kind": kind,
                "attempt_id": attempt_id,
                "period_ids": list(period_ids),
                "amount": amount,
                "reason": reason,
                "actor": actor,
            },
        )

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
                "window_hours": budget.window_hours,
                "reserve_normal": budget.reserves.normal,
                "reserve_interactive": budget.reserves.interactive,
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
                "reserve_normal": budget.reserves.normal,
                "reserve_interactive": budget.reserves.interactive,
            },
        )

    async def index_budget(self, budget: Budget) -> None:
        given = {"organisation_id": budget.organisation_id, "id": budget.id}
        await self._session.execute(_INDEX_BUDGET, given)

    async def index_versions(self, organisation_ids: Collection[UUID]) -> dict[UUID, int]:
        rows = await self._session.execute(_INDEX_VERSIONS, {"ids": list(organisation_ids)})
        return dict.fromkeys(organisation_ids, 0) | {row.organisation_id: row.version for row in rows}

    async def scopes_since(self, versions: Mapping[UUID, int]) -> list[tuple[ScopeKey, int]]:
        given = {"ids": list(versions), "versions": list(versions.values())}
        rows = await self._session.execute(_SCOPES_SINCE, given)
        return [
            (ScopeKey(row.organisation_id, Scope(row.scope), row.scope_id), row.index_version) for row in rows
        ]

    async def pressure_on(self, period_ids: Collection[UUID]) -> dict[UUID, Pressure]:
        given = {"ids": list(period_ids), "seconds": RECALL_FOR.total_seconds(), "part": SCARCE_PART}
        rows = await self._session.execute(_PRESSURE, given)
        return {
            row.id: Pressure(
                row.available_nano, row.limit_nano, row.excess_nano, bool(row.recalling), max(row.holders, 1)
            )
            for row in rows
        }

    async def note_refusal(self, period_id: UUID) -> None:
        await self._session.execute(_NOTE_REFUSAL, {"id": period_id})

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
