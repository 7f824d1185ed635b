"""Holding messages while a server their handler needs is away."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from kairos_messaging.tuning import Tuning
from kairos_telemetry import get_logger

log = get_logger(__name__)

STRIKES = 3
"""How often work may meet trouble that others do not meet before it counts as failed."""


class HeldTooLong(Exception):  # noqa: N818 - reads as the fact it states
    """Held as long as the broker allows: the message is parked in a retry queue with the same attempt."""


class Stopping(Exception):  # noqa: N818 - reads as the fact it states
    """The process is stopping: give the message back unhandled."""


class PauseGate:
    """Runs work; when it meets infrastructure trouble, holds it and everything behind it.

    While paused, one message at a time is the probe and tries again with a growing delay; the others
    wait in memory, unacknowledged and bounded by the prefetch, so the broker hands out no more. The
    first probe that meets no trouble opens the gate for all.
    """

    def __init__(
        self, queue: str, trouble: tuple[type[Exception], ...], stopping: asyncio.Event, tuning: Tuning
    ) -> None:
        self._queue = queue
        self._trouble = trouble
        self._stopping = stopping
        self._tuning = tuning
        self._failures = 0
        self._successes = 0
        self._probe = asyncio.Lock()

    @property
    def paused(self) -> bool:
        return self._failures > 0

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work, however long its servers are away.

        Raises what the work raises, HeldTooLong or Stopping.

        Work that meets trouble again and again while other work succeeds has trouble of its own
        (a statement that always times out, for one): then its error is raised like any other.
        """
        until = asyncio.get_running_loop().time() + self._tuning.hold_longest
        strikes, seen = 0, self._successes
        while True:
            held = self.paused
            if held:
                await self._turn(until)
            try:
                if held and not self.paused:
                    continue
                if held:
                    await self._wait(until)
                trouble = await self._attempt(work, probing=held)
            finally:
                if held:
                    self._probe.release()
            if trouble is None:
                return
            strikes, seen = strikes + (self._successes > seen), self._successes
            if strikes > STRIKES:
                raise trouble

    async def _attempt(self, work: Callable[[], Awaitable[None]], *, probing: bool) -> Exception | None:
        try:
            await work()
        except self._trouble as error:
            if not self.paused:
                log.warning("consumer_paused", queue=self._queue, error=type(error).__name__)
            # A burst of messages that fail together counts once; each failed probe counts.
            self._failures = self._failures + 1 if probing else max(self._failures, 1)
            return error
        except Exception:
            self._worked()
            raise
        self._worked()
        return None

    def _worked(self) -> None:
        self._successes += 1
        if self.paused:
            log.info("consumer_resumed", queue=self._queue, probes=self._failures)
            self._failures = 0

    async def _turn(self, until: float) -> None:
        try:
            async with asyncio.timeout_at(until):
                await self._probe.acquire()
        except TimeoutError:
            raise HeldTooLong from None

    async def _wait(self, until: float) -> None:
        exponent = min(self._failures - 1, 16)
        delay = min(self._tuning.pause_longest, self._tuning.pause_first * 2**exponent)
        now = asyncio.get_running_loop().time()
        if now >= until:
            raise HeldTooLong
        try:
            async with asyncio.timeout_at(min(until, now + delay * random.uniform(0.8, 1.2))):
                await self._stopping.wait()
        except TimeoutError:
            return
        raise Stopping
