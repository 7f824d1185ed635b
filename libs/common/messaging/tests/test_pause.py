import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from kairos_messaging import InfrastructureUnavailable, Tuning
from kairos_messaging.pause import STRIKES, HeldTooLong, PauseGate, Stopping

QUICK = Tuning(pause_first=0.001, pause_longest=0.004, hold_longest=30)


def gate(tuning: Tuning = QUICK, stopping: asyncio.Event | None = None) -> PauseGate:
    return PauseGate("q", (InfrastructureUnavailable,), stopping or asyncio.Event(), tuning)


class Server:
    """Work that needs a server which is away for its first `away` calls."""

    def __init__(self, away: int) -> None:
        self.away = away
        self.calls = 0
        self.at_once = 0
        self.widest = 0

    async def work(self) -> None:
        self.calls += 1
        self.at_once += 1
        self.widest = max(self.widest, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if self.calls <= self.away:
            raise InfrastructureUnavailable


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - the gate has no event to wait for; the loop ends with the deadline.
            await asyncio.sleep(0)


async def test_work_is_tried_until_its_server_is_back() -> None:
    server, closed = Server(away=5), gate()
    await closed.run(server.work)
    assert server.calls == 6
    assert not closed.paused


async def test_one_probe_at_a_time_while_paused_and_all_together_after() -> None:
    closed, server = gate(), Server(away=1)
    await asyncio.gather(closed.run(server.work), return_exceptions=True)
    server.away, server.calls, server.widest = 10, 0, 0
    first = asyncio.create_task(closed.run(server.work))
    await until(lambda: closed.paused)
    rest = [asyncio.create_task(closed.run(server.work)) for _ in range(5)]
    while server.calls <= 10:
        assert server.widest == 1
        await asyncio.sleep(0)
    await asyncio.gather(first, *rest)
    assert server.calls == 16


async def test_an_ordinary_error_passes_and_opens_the_gate() -> None:
    closed, calls = gate(), []

    async def work() -> None:
        calls.append(1)
        raise InfrastructureUnavailable if len(calls) == 1 else LookupError

    with pytest.raises(LookupError):
        await closed.run(work)
    assert not closed.paused


async def test_held_too_long_is_told() -> None:
    closed = gate(replace(QUICK, hold_longest=0.02))
    with pytest.raises(HeldTooLong):
        await closed.run(Server(away=10**6).work)
    assert closed.paused


async def test_waiters_behind_the_probe_are_held_no_longer_than_it() -> None:
    closed = gate(replace(QUICK, hold_longest=0.03, pause_first=10, pause_longest=10))
    results = await asyncio.gather(
        *(closed.run(Server(away=10**6).work) for _ in range(3)), return_exceptions=True
    )
    assert [type(result) for result in results] == [HeldTooLong] * 3


async def test_stopping_ends_the_wait() -> None:
    stopping = asyncio.Event()
    closed = gate(replace(QUICK, pause_first=10, pause_longest=10), stopping)
    held = asyncio.create_task(closed.run(Server(away=10**6).work))
    await until(lambda: closed.paused)
    stopping.set()
    with pytest.raises(Stopping):
        await held


async def test_work_whose_trouble_nobody_shares_counts_as_failed() -> None:
    closed, well, ill = gate(), Server(away=0), Server(away=10**6)
    alone = asyncio.create_task(closed.run(ill.work))
    while not alone.done():
        await closed.run(well.work)
        await asyncio.sleep(0)
    assert isinstance(alone.exception(), InfrastructureUnavailable)
    assert ill.calls >= STRIKES
