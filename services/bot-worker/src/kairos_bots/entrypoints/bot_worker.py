"""Keeps the registry true and the channels in step with the bots' settings."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic
from typing import Protocol

from kairos_bots.application.apply_bot import apply_to_channel, record_observation
from kairos_bots.application.ports import Cipher, Telegram, WakeUps, Works
from kairos_bots.entrypoints.rest import rest
from kairos_persistence import DatabaseUnavailable
from kairos_telemetry import get_logger, log_context

APPLY_LEASE = timedelta(seconds=15)
POLL_S = 2.0
AGAIN_S = 0.5
MOVED_S = 60.0
_log = get_logger(__name__)


class RefreshableRegistry(Protocol):
    async def refresh(self) -> None: ...

    async def refresh_changed(self) -> None: ...

    async def wait(self) -> bool: ...


async def follow_registry(registry: RefreshableRegistry) -> None:
    """Read every bot, then follow the events, until cancelled."""
    everything = True
    while True:
        try:
            await (registry.refresh() if everything else registry.refresh_changed())
        except DatabaseUnavailable:
            # What is known keeps serving; after the outage everything is read again.
            _log.warning("registry_waits_for_database")
            everything = True
            await asyncio.sleep(AGAIN_S)
        else:
            everything = not await registry.wait()


@dataclass(frozen=True)
class BotApplier:
    """Applies settings to channels; any number of replicas may run one."""

    works: Works
    telegram: Telegram
    cipher: Cipher
    wakes: WakeUps
    wake: asyncio.Event
    public_url: str | None

    async def run(self) -> None:
        look_at = 0.0
        while True:
            self.wake.clear()
            try:
                if monotonic() >= look_at:
                    await self.apply_moved()
                    look_at = monotonic() + MOVED_S
                found = await self.apply_one()
            except DatabaseUnavailable:
                found = False
            if not found:
                await rest(self.wake, POLL_S)

    async def apply_moved(self) -> None:
        """The public address may be another one since the webhooks were set.

        Once at the start is not enough: a replica that still has the old address may take the work.
        """
        if self.public_url is not None:
            async with self.works.system() as work:
                await work.bots.apply_moved(self.public_url)

    async def apply_one(self) -> bool:
        async with self.works.system() as work:
            bot = await work.bots.claim_unapplied(APPLY_LEASE)
        if bot is None:
            return False
        with log_context(bot_id=str(bot.id)):
            seen = await apply_to_channel(
                bot, telegram=self.telegram, cipher=self.cipher, public_url=self.public_url
            )
            async with self.works.system() as work:
                stored = await record_observation(work, bot, seen, wakes=self.wakes)
            _log.info("bot_observed", state=seen.state.value, reason=seen.reason, stored=stored)
        return True
