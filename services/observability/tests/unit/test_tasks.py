import asyncio
from itertools import count
from typing import Any, cast

import pytest

from kairos_messaging import Bus
from kairos_ops.application.live_feed import LiveFeed
from kairos_ops.application.watch_services import WatchServices
from kairos_ops.entrypoints import tasks
from kairos_persistence import DatabaseUnavailable
from kairos_web import RemoteAuthenticator


class Link:
    """A bus whose connection fails while `states` says so, one state per check."""

    def __init__(self, *states: bool) -> None:
        self._states = list(states)
        self.done = asyncio.Event()

    async def check(self) -> None:
        if not self._states:
            self.done.set()
            return
        if not self._states.pop(0):
            raise ConnectionError


class Forgetful:
    forgotten = 0

    def forget_all(self) -> None:
        self.forgotten += 1


class Nobody:
    def connections(self, count: int) -> None: ...

    def published(self, count: int) -> None: ...


async def run_until(done: asyncio.Event, coroutine: Any) -> None:
    task = asyncio.create_task(coroutine)
    async with asyncio.timeout(5):
        await done.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(
    ("states", "breaks"),
    [((True, True), 0), ((True, False, False, True), 1), ((True, False, True, False), 2), ((False, True), 0)],
)
async def test_each_break_of_the_link_begins_one_new_epoch(
    states: tuple[bool, ...], breaks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "LINK_CHECK_S", 0.0)
    feed = LiveFeed(epoch="e0", observer=Nobody(), monotonic=lambda: 0.0)
    link, remote, numbers = Link(*states), Forgetful(), count(1)
    watching = tasks.watch_link(
        cast("Bus", link), feed, cast("RemoteAuthenticator", remote), lambda: f"e{next(numbers)}"
    )
    await run_until(link.done, watching)
    assert feed.epoch == f"e{breaks}"
    assert remote.forgotten == breaks


async def test_looking_at_services_goes_on_while_the_database_is_away() -> None:
    class Watch:
        rounds = 0
        done = asyncio.Event()

        async def look(self) -> None:
            self.rounds += 1
            if self.rounds == 3:
                self.done.set()
            raise DatabaseUnavailable("away")

    watch = Watch()
    await run_until(watch.done, tasks.watch_services(cast("WatchServices", watch), 0.01))
    assert watch.rounds >= 3
