"""The database of one service: scopes, commits, and what happens when it is away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from uuid import UUID

from sqlalchemy import QueuePool, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from kairos_persistence import outbox
from kairos_persistence.errors import DatabaseUnavailable, lost_connection, translated
from kairos_persistence.unit_of_work import UnitOfWork
from kairos_telemetry import get_logger, metrics

DEADLINE_S = 30.0
"""Longest a unit of work may take; long work never sits in a transaction."""
NOTIFY_EVERY_S = 0.1
"""Commits that notify queue behind one another across the whole server, so each process hints seldom."""
AWAY_PAUSE_S = 5.0

_SCOPE = text(
    "SELECT set_config('kairos.organisation_id', :organisation, true),"
    " set_config('kairos.system', :system, true)"
)
_log = get_logger(__name__)


class Database:
    """One per process and service. `service` becomes the source of emitted messages."""

    def __init__(self, engine: AsyncEngine, *, service: str, deadline_s: float = DEADLINE_S) -> None:
        self.engine = engine
        self.service = service
        self.outbox_written = asyncio.Event()
        self._deadline_s = deadline_s
        self._notified_at = 0.0
        self._unavailable = metrics.counter("kairos_database_unavailable_total").labels(service=service)
        _watch_pool(engine, service)

    @asynccontextmanager
    async def unit_of_work(
        self, organisation_id: UUID | None, *, causation_id: UUID | None = None
    ) -> AsyncIterator[UnitOfWork]:
        """A transaction that sees and writes rows of this organisation only; commits on a clean exit.

        Raises DatabaseUnavailable when the database can't be used.
        """
        async with self._transaction(organisation_id, system=False, causation_id=causation_id) as unit:
            yield unit

    @asynccontextmanager
    async def system_unit_of_work(self) -> AsyncIterator[UnitOfWork]:
        """A transaction across organisations, for workers. Messages need their organisation named."""
        async with self._transaction(None, system=True, causation_id=None) as unit:
            yield unit

    async def ping(self) -> None:
        """Raise DatabaseUnavailable unless the database answers."""
        with translated():
            async with self.engine.connect() as connection:
                await connection.execute(text("SELECT 1"))

    async def ensure_partitions(self, days: int = 7) -> int:
        """Make the coming days of every partitioned table, drop what is old; how many changed.

        Call it at least daily. A row of a day without a partition goes to the default partition.
        """
        async with self.system_unit_of_work() as unit:
            answer = await unit.session.execute(text("SELECT ensure_partitions(:days)"), {"days": days})
            return int(answer.scalar_one())

    async def keep_partitions(self, *, every_s: float = 3_600.0) -> None:
        """Run `ensure_partitions` now and again until cancelled. It waits for a database that is away."""
        while True:
            try:
                changed = await self.ensure_partitions()
            except DatabaseUnavailable as error:
                _log.warning("partitions_wait_for_database", error=str(error))
                await asyncio.sleep(min(every_s, AWAY_PAUSE_S))
                continue
            if changed:
                _log.info("partitions_changed", changed=changed)
            await asyncio.sleep(every_s)

    async def dispose(self) -> None:
        await self.engine.dispose()

    @asynccontextmanager
    async def _transaction(
        self, organisation_id: UUID | None, *, system: bool, causation_id: UUID | None
    ) -> AsyncIterator[UnitOfWork]:
        committing = False
        try:
            async with (
                asyncio.timeout(self._deadline_s) as deadline,
                AsyncSession(self.engine, expire_on_commit=False) as session,
            ):
                with translated():
                    await self._open(session, organisation_id, system=system)
                unit = UnitOfWork(
                    session, service=self.service, organisation_id=organisation_id, causation_id=causation_id
                )
                with translated():
                    yield unit
                    await self._write_outbox(unit)
                committing = True
                with translated(committing=True):
                    await session.commit()
        except TimeoutError as error:
            if not deadline.expired():
                raise
            self._unavailable.inc()
            raise DatabaseUnavailable(
                f"not done within {self._deadline_s:g} s", outcome_unknown=committing
            ) from error
        except DatabaseUnavailable:
            self._unavailable.inc()
            raise
        self._committed(unit)

    async def _open(self, session: AsyncSession, organisation_id: UUID | None, *, system: bool) -> None:
        scope = {"organisation": str(organisation_id or ""), "system": "on" if system else "off"}
        try:
            await session.execute(_SCOPE, scope)
        except Exception as error:
            if not lost_connection(error):
                raise
            await session.rollback()
            await session.execute(_SCOPE, scope)

    async def _write_outbox(self, unit: UnitOfWork) -> None:
        await unit.session.flush()
        if unit.outbox:
            await outbox.write(unit.session, unit.outbox, notify=self._should_notify())

    def _should_notify(self) -> bool:
        now = monotonic()
        if now - self._notified_at < NOTIFY_EVERY_S:
            return False
        self._notified_at = now
        return True

    def _committed(self, unit: UnitOfWork) -> None:
        if unit.outbox:
            self.outbox_written.set()
        for callback in unit.callbacks:
            try:
                callback()
            except Exception:  # noqa: BLE001 - the commit stands; its caller must not take it for failed.
                _log.exception("after_commit_failed")


def _watch_pool(engine: AsyncEngine, service: str) -> None:
    pool = engine.sync_engine.pool
    if isinstance(pool, QueuePool):
        connections = metrics.gauge("kairos_database_connections")
        connections.labels(service=service, state="used").set_function(pool.checkedout)
        connections.labels(service=service, state="idle").set_function(pool.checkedin)
