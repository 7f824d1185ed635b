"""A bounded queue in memory whose items leave in the background and are not lost to a short outage."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Generic, TypeVar

from kairos_telemetry import get_logger

T = TypeVar("T")
_log = get_logger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
FLUSHERS = 16


class Buffer(Generic[T]):
    """`send` is tried until it succeeds; an item leaves the buffer only then.

    `add` never waits and never refuses: who must not overfill it asks `full` before the work that fills it.
    """

    def __init__(self, name: str, send: Callable[[T], Awaitable[None]], capacity: int) -> None:
        self._name = name
        self._send = send
        self._capacity = capacity
        self._items: deque[T] = deque()
        self._sending = 0
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._items) + self._sending

    @property
    def full(self) -> bool:
        return len(self) >= self._capacity

    def add(self, item: T) -> None:
        self._items.append(item)
        self._filled.set()

    async def run(self) -> None:
        """Send until cancelled. Several of these may run at once."""
        pause = FIRST_PAUSE_S
        while True:
            if not self._items:
                self._filled.clear()
                await self._filled.wait()
                continue
            try:
                await self._next()
            except Exception as error:  # noqa: BLE001 - whatever is wrong, the item is kept and tried again
                _log.warning(
                    "buffer_send_failed", buffer=self._name, waiting=len(self), error=type(error).__name__
                )
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_S)
            else:
                pause = FIRST_PAUSE_S

    async def flush(self, grace: float) -> int:
        """Send what is left for up to `grace` seconds; returns how many items remain."""
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await asyncio.gather(*(self._drain() for _ in range(FLUSHERS)))
        if len(self):
            _log.error("buffer_not_flushed", buffer=self._name, left=len(self))
        return len(self)

    async def _drain(self) -> None:
        while self._items:
            try:
                await self._next()
            except Exception:  # noqa: BLE001 - tried again until the grace is over
                await asyncio.sleep(FIRST_PAUSE_S)

    async def _next(self) -> None:
        item = self._items.popleft()
        self._sending += 1
        try:
            await self._send(item)
        except BaseException:
            # To the end: one item nobody accepts must not hold up the others.
            self._items.append(item)
            raise
        finally:
            self._sending -= 1
