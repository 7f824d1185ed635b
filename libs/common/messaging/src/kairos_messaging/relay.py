"""Moves outbox rows to the broker: at least once, in order per aggregate.

Several relays of one service may run, one per process. Claiming is one short transaction; the
publishing is outside of any; marking is by claim token, so a relay that slept past its lease marks
nothing. A crash between confirm and mark publishes the row again with the same id: inboxes absorb it.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text

from kairos_faults import apoint
from kairos_messaging.bus import Bus
from kairos_messaging.errors import PublishFailed
from kairos_persistence import Database, DatabaseUnavailable
from kairos_telemetry import get_logger, metrics

log = get_logger(__name__)

LEASE_S = 30
"""Longer than a publish may take, so that a relay normally marks what it claimed."""
BACKOFF_LONGEST_S = 30
MEASURE_EVERY_S = 2.0
FINISH_S = 12.0
"""How long a cancelled relay may take to publish and mark the batch it holds."""

# Without this lock two relays could split one aggregate between them: SKIP LOCKED passes over a row
# the other is claiming at this moment, and takes the younger one behind it.
_LOCK = text("SELECT pg_try_advisory_xact_lock(hashtextextended(current_schema() || '.outbox.claim', 0))")
_CLAIM = text(
    """
WITH free AS (
    SELECT id, created_at FROM outbox AS row
    WHERE published_at IS NULL AND (claimed_until IS NULL OR claimed_until < now())
      AND NOT EXISTS (
        SELECT 1 FROM outbox AS sibling
        WHERE sibling.published_at IS NULL AND sibling.aggregate = row.aggregate
          AND sibling.claimed_until >= now()
      )
    ORDER BY sequence LIMIT :batch FOR UPDATE SKIP LOCKED
)
UPDATE outbox AS row
SET claimed_until = now() + make_interval(secs => :lease), claim_token = :token, attempts = row.attempts + 1
FROM free WHERE row.id = free.id AND row.created_at = free.created_at
RETURNING row.id, row.sequence, row.aggregate, row.headers, row.body, row.created_at, row.attempts
"""
)
_MARK = text(
    """
UPDATE outbox SET published_at = now(), claimed_until = NULL, claim_token = NULL
WHERE id = ANY(CAST(:ids AS uuid[])) AND created_at >= :oldest AND claim_token = :token
"""
)
# A row that could not be published keeps its claim time as its backoff: nothing of its aggregate
# is claimed before that, so it is not overtaken.
_RELEASE = text(
    """
UPDATE outbox SET claim_token = NULL, claimed_until = now()
    + make_interval(secs => least(:longest, 0.25 * power(2, least(attempts, 10))))
WHERE id = ANY(CAST(:ids AS uuid[])) AND created_at >= :oldest AND claim_token = :token
"""
)
_MEASURE = text(
    "SELECT count(*), coalesce(extract(epoch FROM now() - min(created_at)), 0) FROM outbox"
    " WHERE published_at IS NULL"
)


@dataclass(frozen=True)
class _Row:
    id: UUID
    sequence: int
    aggregate: str
    headers: Mapping[str, Any]
    body: bytes
    created_at: datetime
    attempts: int


class OutboxRelay:
    """Publishes the rows of one service's outbox. `batch` rows are claimed and confirmed together."""

    def __init__(self, database: Database, bus: Bus, *, batch: int = 200, poll: float = 0.25) -> None:
        self._database = database
        self._bus = bus
        self._batch = batch
        self._poll = poll
        self._measured_at = 0.0

    async def run(self) -> None:
        """Run until cancelled; the batch in hand is finished first."""
        while True:
            self._database.outbox_written.clear()
            full = await self._finished(asyncio.create_task(self._guarded_round()))
            if not full:
                await self._wait()

    async def _finished(self, round_: asyncio.Task[bool]) -> bool:
        try:
            return await asyncio.shield(round_)
        except asyncio.CancelledError:
            _, late = await asyncio.wait({round_}, timeout=FINISH_S)
            for task in late:
                task.cancel()
            raise

    async def _guarded_round(self) -> bool:
        try:
            await self._measure()
            return await self.relay_once() == self._batch
        except DatabaseUnavailable as error:
            log.warning("relay_waits_for_database", error=str(error))
        except Exception:
            # The relay must outlive anything: without it the service's messages stay in the table.
            log.exception("relay_round_failed")
        return False

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._poll):
                await self._database.outbox_written.wait()
        except TimeoutError:
            return

    async def relay_once(self) -> int:
        """Claim, publish and mark one batch. Returns how many rows were published."""
        token = uuid4()
        rows = await self._claim(token)
        if not rows:
            return 0
        await apoint("outbox.claimed")
        published = await self._publish(rows)
        await apoint("outbox.published")
        await self._settle(rows, published, token)
        return len(published)

    async def _claim(self, token: UUID) -> list[_Row]:
        async with self._database.system_unit_of_work() as unit:
            if not (await unit.session.execute(_LOCK)).scalar_one():
                return []
            claimed = await unit.session.execute(
                _CLAIM, {"batch": self._batch, "lease": LEASE_S, "token": token}
            )
            rows = [_Row(**row) for row in claimed.mappings()]
        return sorted(rows, key=lambda row: row.sequence)

    async def _publish(self, rows: Sequence[_Row]) -> set[UUID]:
        """Aggregates side by side, the rows of one aggregate one after another up to its first failure."""
        by_aggregate: dict[str, list[_Row]] = {}
        for row in rows:
            by_aggregate.setdefault(row.aggregate, []).append(row)
        published: set[UUID] = set()
        await asyncio.gather(*(self._publish_in_order(each, published) for each in by_aggregate.values()))
        return published

    async def _publish_in_order(self, rows: Sequence[_Row], published: set[UUID]) -> None:
        for row in rows:
            try:
                await self._bus.publish_prepared(headers=row.headers, body=row.body)
            except Exception as error:  # noqa: BLE001 - whatever a row raises, only its aggregate may wait for it.
                level = log.warning if isinstance(error, PublishFailed) else log.error
                level(
                    "outbox_row_not_published",
                    message_id=str(row.id),
                    attempts=row.attempts,
                    error=str(error),
                    error_class=type(error).__name__,
                )
                return
            published.add(row.id)

    async def _settle(self, rows: Sequence[_Row], published: set[UUID], token: UUID) -> None:
        common = {"oldest": min(row.created_at for row in rows), "token": token}
        failed = [row.id for row in rows if row.id not in published]
        async with self._database.system_unit_of_work() as unit:
            if published:
                await unit.session.execute(_MARK, {**common, "ids": list(published)})
            if failed:
                await unit.session.execute(_RELEASE, {**common, "ids": failed, "longest": BACKOFF_LONGEST_S})

    async def _measure(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._measured_at < MEASURE_EVERY_S:
            return
        self._measured_at = now
        async with self._database.system_unit_of_work() as unit:
            pending, age = (await unit.session.execute(_MEASURE)).one()
        metrics.gauge("kairos_outbox_pending").set(pending)
        metrics.gauge("kairos_outbox_oldest_age_seconds").set(float(age))
