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

LINK_CHECK_S = 0.5
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


async def watch_link(
    bus: Bus, feed: LiveFeed, authenticator: RemoteAuthenticator, new_epoch: Callable[[], str]
) -> None:
    """After the link to the broker was lost, nobody knows what this replica's queue has missed.

    The check runs twice as often as the driver reconnects, so that no reconnect goes unseen.
    """
    joined = broken = False
    while True:
        await asyncio.sleep(LINK_CHECK_S)
        try:
            await bus.check()
        except Exception as error:  # noqa: BLE001 - whatever the reason, events may be missed from here on.
            if not joined:
                continue
            if not broken:
                _log.warning("live_feed_link_lost", error=type(error).__name__)
            broken = True
            continue
        joined = True
        if broken:
            broken = False
            authenticator.forget_all()
            feed.begin_epoch(new_epoch())
            _log.info("live_feed_link_back", epoch=feed.epoch)


async def sweep_streams(feed: LiveFeed) -> None:
    while True:
        await asyncio.sleep(SWEEP_S)
        feed.sweep()
