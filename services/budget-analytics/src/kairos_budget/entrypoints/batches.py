"""Handle what piles up together: while one batch is in the database, the next one collects.

A hot budget is one row. Locking it once per event caps the whole service at a few hundred events a second;
locking it once per batch does not, and an idle service still handles each event at once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from kairos_messaging import InfrastructureUnavailable
from kairos_persistence import DatabaseUnavailable

Item = TypeVar("Item")


class Batches(Generic[Item]):
    """`submit` returns when the item's batch is done, and raises what its handling raised."""

    def __init__(self, handle: Callable[[Sequence[Item]], Awaitable[None]], *, largest: int) -> None:
        self._handle = handle
        self._largest = largest
        self._waiting: asyncio.Queue[tuple[Item, asyncio.Future[None]]] = asyncio.Queue()

    async def submit(self, item: Item) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((item, done))
        await done

    async def run(self) -> None:
        """Run until cancelled; what waits then is cancelled too."""
        batch: list[tuple[Item, asyncio.Future[None]]] = []
        try:
            while True:
                batch = [await self._waiting.get()]
                while len(batch) < self._largest and not self._waiting.empty():
                    batch.append(self._waiting.get_nowait())
                await self._settle(batch)
        finally:
            while not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            for _, done in batch:
                done.cancel()

    async def _settle(self, batch: Sequence[tuple[Item, asyncio.Future[None]]]) -> None:
        try:
            await self._handle([item for item, _ in batch])
        except DatabaseUnavailable as error:
            for _, done in batch:
                _fail(done, InfrastructureUnavailable(str(error)))
        except Exception as error:  # noqa: BLE001 - each item's own fate is what its handling raises
            if len(batch) == 1:
                _fail(batch[0][1], error)
                return
            # One item spoils the batch: each gets a transaction of its own, so that only the bad one fails.
            for each in batch:
                await self._settle([each])
        else:
            for _, done in batch:
                if not done.done():
                    done.set_result(None)


def _fail(done: asyncio.Future[None], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
