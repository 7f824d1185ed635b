"""The event store on PostgreSQL."""

import asyncio
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import insert, or_, text, tuple_
from sqlmodel import col, select
from sqlmodel.sql.expression import SelectOfScalar

from kairos_ops.adapters.scope import scoped
from kairos_ops.adapters.tables import EventRow
from kairos_ops.domain.event import FeedEvent, Position, StoredEvent
from kairos_ops.domain.feed import Audience
from kairos_persistence import Database, DatabaseUnavailable, UnitOfWork

CONSUMER = "observability.events"
_NEW_ONES = text(
    "SELECT id FROM unnest(CAST(:ids AS uuid[])) AS given (id) WHERE inbox_first_time(:consumer, id)"
)


@dataclass(eq=False)
class _Waiting:
    event: FeedEvent
    done: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class PostgresEventStore:
    """Implements EventStore.

    Events that arrive while a transaction is under way share the next one, so that the rate is not
    bound to one commit per message; `run` must be running for `add` to return.
    """

    def __init__(self, database: Database, *, batch: int = 200) -> None:
        self._database = database
        self._batch = batch
        self._waiting: list[_Waiting] = []
        self._arrived = asyncio.Event()

    async def add(self, event: FeedEvent) -> None:
        waiting = _Waiting(event)
        self._waiting.append(waiting)
        self._arrived.set()
        await waiting.done

    async def run(self) -> None:
        """Write batches until cancelled."""
        while True:
            await self._arrived.wait()
            batch, self._waiting = self._waiting[: self._batch], self._waiting[self._batch :]
            if not self._waiting:
                self._arrived.clear()
            try:
                await self._write(batch)
            except asyncio.CancelledError:
                stopping = DatabaseUnavailable("the event store stops")
                self._settle([*batch, *self._waiting], stopping)
                raise

    async def _write(self, batch: list[_Waiting]) -> None:
        try:
            await self._insert([waiting.event for waiting in batch])
        except DatabaseUnavailable as error:
            self._settle(batch, error)
        except Exception as error:  # noqa: BLE001 - any one event may be the bad one: each gets its own verdict.
            if len(batch) == 1:
                self._settle(batch, error)
                return
            for waiting in batch:
                await self._write([waiting])
        else:
            self._settle(batch, None)

    def _settle(self, batch: list[_Waiting], error: Exception | None) -> None:
        for waiting in batch:
            if waiting.done.done():
                continue
            if error is None:
                waiting.done.set_result(None)
            else:
                waiting.done.set_exception(error)

    async def _insert(self, events: list[FeedEvent]) -> None:
        async with self._database.system_unit_of_work() as unit:
            new = await self._first_times(unit, [event.id for event in events])
            # A message may be twice in one batch; it is new once.
            rows = {event.id: _row(event) for event in events if event.id in new}
            if rows:
                await unit.session.execute(insert(EventRow), list(rows.values()))

    async def _first_times(self, unit: UnitOfWork, ids: list[UUID]) -> set[UUID]:
        # Sorted, so that two replicas that share messages wait for one another in one direction only.
        given = {"ids": sorted(set(ids)), "consumer": CONSUMER}
        return set((await unit.session.execute(_NEW_ONES, given)).scalars())

    async def older(
        self, audience: Audience, *, type_prefix: str, before: Position | None, limit: int
    ) -> list[StoredEvent]:
        query = _visible(audience, type_prefix).order_by(
            col(EventRow.recorded_at).desc(), col(EventRow.id).desc()
        )
        if before:
            query = query.where(_place() < tuple_(before.recorded_at, before.id))
        return await self._read(audience, query.limit(limit))

    async def newer(
        self, audience: Audience, *, type_prefix: str, after: Position, limit: int
    ) -> list[StoredEvent]:
        query = _visible(audience, type_prefix).order_by(col(EventRow.recorded_at), col(EventRow.id))
        query = query.where(_place() > tuple_(after.recorded_at, after.id))
        return await self._read(audience, query.limit(limit))

    async def _read(self, audience: Audience, query: SelectOfScalar[EventRow]) -> list[StoredEvent]:
        async with scoped(self._database, audience) as unit:
            return [_stored(row) for row in (await unit.session.execute(query)).scalars()]


def _place() -> Any:
    return tuple_(col(EventRow.recorded_at), col(EventRow.id))


def _visible(audience: Audience, type_prefix: str) -> SelectOfScalar[EventRow]:
    own = col(EventRow.organisation_id) == audience.organisation_id
    # The condition repeats the row policy, because admins read the installation's rows in system scope.
    query = select(EventRow).where(
        or_(own, col(EventRow.organisation_id).is_(None)) if audience.installation else own
    )
    return query.where(col(EventRow.type).startswith(type_prefix, autoescape=True)) if type_prefix else query


def _row(event: FeedEvent) -> dict[str, object]:
    return {
        "id": event.id,
        "type": event.type,
        "source": event.source,
        "subject": event.subject,
        "occurred_at": event.time,
        "organisation_id": event.organisation_id,
        "causation_id": event.causation_id,
        "trace_id": event.trace_id,
        "data": event.data,
    }


def _stored(row: EventRow) -> StoredEvent:
    event = FeedEvent(
        id=row.id,
        type=row.type,
        source=row.source,
        subject=row.subject,
        time=row.occurred_at,
        organisation_id=row.organisation_id,
        causation_id=row.causation_id,
        trace_id=row.trace_id,
        data=row.data,
    )
    return StoredEvent(event, Position(row.recorded_at, row.id))
