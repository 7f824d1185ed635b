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


def _whole(_: object) -> Sequence[Sequence[object]]:
    return ()


class Batches(Generic[Item]):
    """`submit` returns when the items are done, and raises what their handling raised.

    Items submitted together are handled together. `split` is asked when they fail on their own: the parts it
    names are then handled one by one, so that a bad one does not keep the good ones from being handled; the
    first failure is raised all the same.
    """

    def __init__(
        self,
        handle: Callable[[Sequence[Item]], Awaitable[None]],
        *,
        largest: int,
        split: Callable[[Sequence[Item]], Sequence[Sequence[Item]]] = _whole,  # type: ignore[assignment]  # no parts
    ) -> None:
        self._handle = handle
        self._largest = largest
        self._split = split
        self._waiting: asyncio.Queue[tuple[Sequence[Item], asyncio.Future[None]]] = asyncio.Queue()

    async def submit(self, *items: Item) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((items, done))
        await done

    async def run(self) -> None:
        """Run until cancelled; what waits then is cancelled too."""
        batch: list[tuple[Sequence[Item], asyncio.Future[None]]] = []
        try:
            while True:
                batch = [await self._waiting.get()]
                size = len(batch[0][0])
                while size < self._largest and not self._waiting.empty():
                    batch.append(self._waiting.get_nowait())
                    size += len(batch[-1][0])
                await self._settle(batch)
        finally:
            while not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            for _, done in batch:
                done.cancel()

    async def _settle(self, batch: Sequence[tuple[Sequence[Item], asyncio.Future[None]]]) -> None:
        try:
            await self._handle([item for items, _ in batch for item in items])
        except DatabaseUnavailable as error:
            for _, done in batch:
                _fail(done, InfrastructureUnavailable(str(error)))
        except Exception as error:  # noqa: BLE001 - each submission's own fate is what its handling raises
            if len(batch) == 1:
                await self._part(*batch[0], error)
                return
            # One submission spoils the batch: each gets a transaction of its own, so that only it fails.
            for each in batch:
                await self._settle([each])
        else:
            for _, done in batch:
                if not done.done():
                    done.set_result(None)

    async def _part(self, items: Sequence[Item], done: asyncio.Future[None], error: Exception) -> None:
        for part in self._split(items):
            alone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            await self._settle([(part, alone)])
            trouble = alone.exception()
            if isinstance(trouble, InfrastructureUnavailable):
                # The message comes back whole; what was handled of it is a duplicate then.
                error = trouble
                break
        _fail(done, error)


def _fail(done: asyncio.Future[None], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
