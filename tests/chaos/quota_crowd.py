"""Callers of one key at every router at once, who count how often they are let in."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import aiohttp

OK, TOO_MANY = 200, 429
AT_ONCE = 4
# A router that refused this often in a row has nothing left for this key.
REFUSALS = 15
# What routers kept back, or may not give before all have told what they used, comes within seconds; on a
# machine so loaded that Redis counts as away for moments, it takes longer.
PATIENCE_S, QUIET_S = 30.0, 1.5


@dataclass(frozen=True, slots=True)
class Admitted:
    """`by_router` are the requests each has let in, until nobody let any in."""

    by_router: tuple[int, ...]
    seconds: float
    others: tuple[str, ...]

    @property
    def total(self) -> int:
        return sum(self.by_router)


class Callers:
    """Requests of one key for a model that costs nothing."""

    def __init__(self, gateways: Sequence[str], api_key: str, model: str) -> None:
        self._gateways = tuple(gateways)
        self._headers = {"Authorization": f"Bearer {api_key}"}
        self._body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
        self._admitted = [0] * len(self._gateways)
        self._others: set[str] = set()
        self._halfway: Callable[[], None] | None = None
        self._half = 0
        self._deadline = 0.0

    def use_up(self, limit: int, least: int, halfway: Callable[[], None] | None = None) -> Admitted:
        """Ask until `least` are let in, and on until all routers refuse for a while.

        `halfway` is called once, when half of the limit is used.
        """
        return asyncio.run(self._use_up(limit, least, halfway))

    def seconds_until(self, status: int, gateway: int) -> float:
        """How long until a router answers so; gives up after ten seconds."""
        return asyncio.run(self._seconds_until(status, gateway))

    async def _use_up(self, limit: int, least: int, halfway: Callable[[], None] | None) -> Admitted:
        started = time.monotonic()
        async with aiohttp.ClientSession(headers=self._headers) as session:
            self._halfway, self._half = halfway, limit // 2
            self._deadline = started + PATIENCE_S
            await self._everywhere(lambda number: self._until_refused(session, number, REFUSALS))
            quiet = time.monotonic()
            while time.monotonic() < self._deadline and (
                sum(self._admitted) < least or time.monotonic() < quiet + QUIET_S
            ):
                before = sum(self._admitted)
                await self._everywhere(lambda number: self._until_refused(session, number, 3))
                quiet = time.monotonic() if sum(self._admitted) > before else quiet
        return Admitted(tuple(self._admitted), time.monotonic() - started, tuple(sorted(self._others)))

    async def _everywhere(self, work: Callable[[int], Awaitable[object]]) -> None:
        await asyncio.gather(*(work(number) for number in range(len(self._gateways)) for _ in range(AT_ONCE)))

    async def _until_refused(self, session: aiohttp.ClientSession, number: int, times: int) -> None:
        in_a_row = 0
        while in_a_row < times and time.monotonic() < self._deadline:
            refused = await self._ask(session, number) == TOO_MANY
            in_a_row = in_a_row + 1 if refused else 0
            # A refusal is believed for a quarter of a second.
            await asyncio.sleep(0.1 if refused else 0)

    async def _ask(self, session: aiohttp.ClientSession, number: int) -> int:
        url = f"{self._gateways[number]}/v1/chat/completions"
        async with session.post(url, json=self._body) as answer:
            content = await answer.text()
        if answer.status == OK:
            self._admitted[number] += 1
            if self._halfway is not None and sum(self._admitted) >= self._half:
                happens, self._halfway = self._halfway, None
                happens()
        elif answer.status != TOO_MANY:
            self._others.add(f"{answer.status} {content[:200]}")
        return answer.status

    async def _seconds_until(self, status: int, gateway: int) -> float:
        started = time.monotonic()
        async with aiohttp.ClientSession(headers=self._headers) as session:
            while await self._ask(session, gateway) != status and time.monotonic() < started + 10:  # noqa: ASYNC110 - only a router can tell
                await asyncio.sleep(0.02)
        return time.monotonic() - started
