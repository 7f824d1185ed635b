"""Long polling for bots without a webhook: one leader per bot among all replicas."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol
from uuid import UUID

from kairos_bots.application.poll_updates import poll_once
from kairos_bots.application.ports import (
    PollerLease,
    Publisher,
    RegisteredBot,
    Telegram,
    TelegramAwayError,
    TelegramRefusedError,
    Works,
)
from kairos_bots.entrypoints.rest import rest
from kairos_messaging import PublishFailed
from kairos_persistence import DatabaseUnavailable
from kairos_telemetry import get_logger

LOOK_S = 1.0
AGAIN_S = 1.0
REFUSED_S = 30.0
_log = get_logger(__name__)


class PollableBots(Protocol):
    updated: asyncio.Event

    def everything(self) -> Sequence[RegisteredBot]: ...


@dataclass
class _Polling:
    token: str
    task: asyncio.Task[None]


@dataclass(frozen=True)
class Pollers:
    """`wait` is one long poll and must be well below `lease`, which a live leader renews before each."""

    works: Works
    telegram: Telegram
    publisher: Publisher
    bots: PollableBots
    holder: str
    lease: timedelta
    wait: timedelta
    running: dict[UUID, _Polling] = field(default_factory=dict)

    async def run(self) -> None:
        """Poll for every polling bot this replica leads, until cancelled; leads are given back then."""
        try:
            while True:
                self.bots.updated.clear()
                self._match(self.bots.everything())
                await rest(self.bots.updated, LOOK_S)
        finally:
            tasks = [polling.task for polling in self.running.values()]
            self.running.clear()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if tasks:
                await self._release()

    def _match(self, bots: Sequence[RegisteredBot]) -> None:
        wanted = {bot.id: bot for bot in bots if bot.polling and bot.running and bot.telegram_token}
        for bot_id, polling in list(self.running.items()):
            bot = wanted.get(bot_id)
            if bot is None or bot.telegram_token != polling.token or polling.task.done():
                polling.task.cancel()
                del self.running[bot_id]
        for bot_id, bot in wanted.items():
            if bot_id not in self.running and bot.telegram_token:
                task = asyncio.create_task(self.poll(bot, bot.telegram_token), name=f"poll {bot_id}")
                self.running[bot_id] = _Polling(bot.telegram_token, task)

    async def poll(self, bot: RegisteredBot, token: str) -> None:
        offset: int | None = None
        leading = False
        while True:
            lease = await self._lead(bot, leading=leading, offset=offset)
            leading = lease is not None
            if lease is None:
                offset = None
                await asyncio.sleep(AGAIN_S)
                continue
            if offset is None:
                offset = lease.next_offset
            offset = await self._poll_once(bot, token, offset)

    async def _lead(self, bot: RegisteredBot, *, leading: bool, offset: int | None) -> PollerLease | None:
        try:
            async with self.works.tenant(bot.organisation_id) as work:
                if leading and offset is not None:
                    await work.pollers.advance(bot.id, self.holder, offset)
                return await work.pollers.lead(bot.id, bot.organisation_id, self.holder, self.lease)
        except DatabaseUnavailable:
            # Nobody can take the lead while the database is away, so a leader goes on.
            return PollerLease(bot.id, offset) if leading else None

    async def _poll_once(self, bot: RegisteredBot, token: str, offset: int | None) -> int | None:
        try:
            return await poll_once(
                bot, token, offset, telegram=self.telegram, publisher=self.publisher, wait=self.wait
            )
        except (TelegramAwayError, PublishFailed) as error:
            _log.warning("poll_failed", bot_id=str(bot.id), error=type(error).__name__, reason=str(error))
            await asyncio.sleep(AGAIN_S)
        except TelegramRefusedError as error:
            _log.warning("poll_refused", bot_id=str(bot.id), reason=error.reason)
            await asyncio.sleep(REFUSED_S)
        return offset

    async def _release(self) -> None:
        try:
            async with self.works.system() as work:
                await work.pollers.release(self.holder)
        except DatabaseUnavailable:
            _log.info("leads_run_out_by_themselves", holder=self.holder)
