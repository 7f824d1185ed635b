import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest

from kairos_web import Background, BackgroundTaskDown


async def test_a_crashed_task_is_started_again_and_seen_meanwhile(
    eventually: Callable[..., Awaitable[None]],
) -> None:
    background = Background(first_pause=0.05)
    runs: list[int] = []
    steady = asyncio.Event()

    async def work() -> None:
        runs.append(1)
        if len(runs) < 3:
            raise ConnectionError("away")
        await steady.wait()

    background.start("work", work)
    await eventually(lambda: background.states()["work"] == "waiting")
    with pytest.raises(BackgroundTaskDown, match=r"work \(ConnectionError\)"):
        await background.check()
    await eventually(lambda: len(runs) == 3 and background.states()["work"] == "running")
    await background.check()
    steady.set()
    await eventually(lambda: background.states()["work"] == "finished")
    await background.check()
    await background.stop()


async def test_pauses_grow_up_to_the_longest() -> None:
    background = Background(first_pause=0.01, longest_pause=0.04)
    loop = asyncio.get_running_loop()
    times: list[float] = []
    enough = asyncio.Event()

    async def work() -> None:
        times.append(loop.time())
        if len(times) == 6:
            enough.set()
        raise RuntimeError

    background.start("work", work)
    await asyncio.wait_for(enough.wait(), 5)
    await background.stop()
    gaps = [after - before for before, after in pairwise(times)]
    for gap, least in zip(gaps, [0.01, 0.02, 0.04, 0.04, 0.04], strict=True):
        assert gap >= least * 0.9
    assert gaps[-1] < 0.5


async def test_stopping_cancels_and_waits() -> None:
    background = Background()
    cleaned = asyncio.Event()
    begun = asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    background.start("work", work)
    await begun.wait()
    await background.stop()
    assert cleaned.is_set()
    assert background.states() == {"work": "stopped"}


async def test_stopping_does_not_wait_for_ever() -> None:
    background = Background()
    release = asyncio.Event()
    begun = asyncio.Event()

    async def stubborn() -> None:
        begun.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    background.start("stubborn", stubborn)
    await begun.wait()
    await background.stop(grace=0.01)
    release.set()


async def test_a_name_is_used_once() -> None:
    background = Background()

    async def work() -> None:
        await asyncio.Event().wait()

    background.start("work", work)
    with pytest.raises(ValueError, match="work"):
        background.start("work", work)
    await background.stop()
