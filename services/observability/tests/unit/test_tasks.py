import asyncio
from itertools import count
from typing import Any, cast

from kairos_messaging import Bus
from kairos_ops.application.live_feed import LiveFeed
from kairos_ops.application.watch_services import WatchServices
from kairos_ops.entrypoints import tasks
from kairos_persistence import DatabaseUnavailable
from kairos_web import RemoteAuthenticator


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


def test_each_gap_of_the_link_begins_one_new_epoch() -> None:
    feed = LiveFeed(epoch="e0", observer=Nobody(), monotonic=lambda: 0.0)
    bus, remote, numbers = Bus("amqp://nowhere", service="observability"), Forgetful(), count(1)
    tasks.follow_link(bus, feed, cast("RemoteAuthenticator", remote), lambda: f"e{next(numbers)}")
    (gap,) = bus._gap_listeners
    assert feed.epoch == "e0"
    for number in (1, 2):
        gap()
        assert feed.epoch == f"e{number}"
        assert remote.forgotten == number


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
