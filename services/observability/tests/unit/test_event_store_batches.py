import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, cast
from uuid import uuid4

from kairos_ops.adapters.event_store import PostgresEventStore
from kairos_ops.domain.event import FeedEvent
from kairos_persistence import Database, DatabaseUnavailable


class Writes(PostgresEventStore):
    """The batching alone: `refuse` decides what happens to each transaction."""

    def __init__(self, refuse: Callable[[list[FeedEvent]], Exception | None]) -> None:
        super().__init__(cast("Database", None), batch=10)
        self.refuse = refuse
        self.written: list[list[FeedEvent]] = []
        self.entered = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def _insert(self, events: list[FeedEvent]) -> None:
        self.entered.set()
        await self.gate.wait()
        error = self.refuse(events)
        if error:
            raise error
        self.written.append(events)


@asynccontextmanager
async def running(store: PostgresEventStore) -> Any:
    task = asyncio.create_task(store.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def event(kind: str = "good") -> FeedEvent:
    return FeedEvent(uuid4(), kind, "s", "s", datetime.now(UTC), None, None, None, {})


async def test_events_that_arrive_together_share_transactions() -> None:
    store = Writes(lambda _: None)
    async with running(store):
        await asyncio.gather(*(store.add(event()) for _ in range(25)))
    assert [len(batch) for batch in store.written] == [10, 10, 5]


async def test_one_bad_event_fails_alone() -> None:
    store = Writes(lambda events: ValueError("bad") if any(each.type == "bad" for each in events) else None)
    async with running(store):
        outcomes = await asyncio.gather(
            *(store.add(event(kind)) for kind in ("good", "bad", "good")), return_exceptions=True
        )
    assert [type(outcome) for outcome in outcomes] == [type(None), ValueError, type(None)]


async def test_a_database_that_is_away_fails_the_batch_once_and_the_next_one_succeeds() -> None:
    answers: list[Exception | None] = [DatabaseUnavailable("away"), None]
    store = Writes(lambda _: answers.pop(0))
    async with running(store):
        outcomes = await asyncio.gather(*(store.add(event()) for _ in range(3)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {DatabaseUnavailable}
        await store.add(event())
    assert answers == []


async def test_what_waits_when_the_store_stops_is_told_so() -> None:
    store = Writes(lambda _: None)
    store.gate.clear()
    async with running(store):
        adding = [asyncio.create_task(store.add(event())) for _ in range(12)]
        await store.entered.wait()
    async with asyncio.timeout(2):
        outcomes = await asyncio.gather(*adding, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {DatabaseUnavailable}
