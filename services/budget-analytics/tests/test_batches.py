"""How single messages become batches and get their own fate back."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from kairos_budget.entrypoints.batches import Batches
from kairos_messaging import InfrastructureUnavailable
from kairos_persistence import DatabaseUnavailable


class Spoiled(Exception):  # noqa: N818 - a test's own
    """The item can't be handled."""


class Handler:
    def __init__(self) -> None:
        self.handled: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.away = False

    async def __call__(self, items: Sequence[str]) -> None:
        await self.gate.wait()
        if self.away:
            raise DatabaseUnavailable("no connection")
        if "bad" in items:
            raise Spoiled
        self.handled.append(list(items))


@asynccontextmanager
async def running(handler: Handler, largest: int = 4) -> AsyncIterator[Batches[str]]:
    batches = Batches(handler, largest=largest)
    task = asyncio.create_task(batches.run())
    yield batches
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_waits_together_is_handled_together() -> None:
    handler = Handler()
    async with running(handler) as batches:
        handler.gate.clear()
        waiting = [asyncio.create_task(batches.submit(str(n))) for n in range(7)]
        await asyncio.sleep(0)
        handler.gate.set()
        await asyncio.gather(*waiting)
    assert [len(batch) for batch in handler.handled] == [4, 3]


async def test_a_spoiled_item_fails_alone() -> None:
    handler = Handler()
    async with running(handler) as batches:
        results = await asyncio.gather(
            *(batches.submit(item) for item in ("a", "bad", "b")), return_exceptions=True
        )
    assert [type(result) for result in results] == [type(None), Spoiled, type(None)]
    assert sorted(item for batch in handler.handled for item in batch) == ["a", "b"]


async def test_a_database_that_is_away_is_told_as_such_to_everyone() -> None:
    handler = Handler()
    handler.away = True
    async with running(handler) as batches:
        results = await asyncio.gather(*(batches.submit(str(n)) for n in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [InfrastructureUnavailable] * 3


async def test_what_still_waits_at_the_end_is_cancelled() -> None:
    handler = Handler()
    handler.gate.clear()
    async with running(handler) as batches:
        waiting = [asyncio.create_task(batches.submit(str(n))) for n in range(6)]
        await asyncio.sleep(0)
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(result) for result in results} == {asyncio.CancelledError}


@pytest.mark.parametrize("largest", [1, 2, 50])
async def test_every_item_is_handled_once_whatever_the_size(largest: int) -> None:
    handler = Handler()
    async with running(handler, largest) as batches:
        await asyncio.gather(*(batches.submit(str(n)) for n in range(50)))
    assert sorted(int(item) for batch in handler.handled for item in batch) == list(range(50))


async def test_a_spoiled_submission_is_handled_part_by_part_and_still_fails() -> None:
    handler = Handler()
    batches = Batches(handler, largest=10, split=lambda items: [[item] for item in items if len(items) > 1])
    task = asyncio.create_task(batches.run())
    results = await asyncio.gather(
        batches.submit("a", "bad", "b"), batches.submit("c"), return_exceptions=True
    )
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [type(result) for result in results] == [Spoiled, type(None)]
    assert sorted(item for batch in handler.handled for item in batch) == ["a", "b", "c"]


async def test_what_is_submitted_together_is_handled_together_whatever_the_size() -> None:
    handler = Handler()
    async with running(handler, largest=2) as batches:
        await asyncio.gather(batches.submit("a", "b", "c"), batches.submit("d"))
    assert handler.handled == [["a", "b", "c"], ["d"]]
