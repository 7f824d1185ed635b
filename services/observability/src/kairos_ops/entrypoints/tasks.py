"""What runs for the life of the process besides requests and deliveries."""

import asyncio
from collections.abc import Callable

from kairos_messaging import Bus
from kairos_ops.application.live_feed import LiveFeed
from kairos_ops.application.watch_services import WatchServices
from kairos_persistence import DatabaseUnavailable
from kairos_telemetry import get_logger
from kairos_web import RemoteAuthenticator

_log = get_logger(__name__)

SWEEP_S = 60.0


async def watch_services(watch: WatchServices, every_s: float) -> None:
    """Look at the services on a fixed beat. A round that can't be written is written by a later one."""
    loop = asyncio.get_running_loop()
    while True:
        started = loop.time()
        try:
            await watch.look()
        except DatabaseUnavailable:
            _log.warning("health_not_recorded")
        await asyncio.sleep(max(0.05, every_s - (loop.time() - started)))


def follow_link(
    bus: Bus, feed: LiveFeed, authenticator: RemoteAuthenticator, new_epoch: Callable[[], str]
) -> None:
    """After the link to the broker was lost, nobody knows what this replica's queue has missed."""

    def begin_again() -> None:
        authenticator.forget_all()
        feed.begin_epoch(new_epoch())
        _log.warning("live_feed_begins_again", epoch=feed.epoch)

    bus.on_gap(begin_again)


async def sweep_streams(feed: LiveFeed) -> None:
    while True:
        await asyncio.sleep(SWEEP_S)
        feed.sweep()
