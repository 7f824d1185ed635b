"""Every bot in memory, so that ingress needs no database."""

import asyncio
from collections.abc import Iterable
from uuid import UUID

from kairos_bots.application.ports import Cipher, RegisteredBot, Works
from kairos_bots.application.secrets import token_of, webhook_secret_of
from kairos_bots.domain.bot import Bot, TelegramUpdates
from kairos_bots.domain.errors import BotUnknownError, NotReadyError, UnreadableSecretError
from kairos_telemetry import get_logger

_log = get_logger(__name__)


class MemoryRegistry:
    """Follows lifecycle events within a moment; a full read every `poll` seconds finds missed ones."""

    def __init__(self, works: Works, cipher: Cipher, *, poll: float) -> None:
        self._works = works
        self._cipher = cipher
        self._poll = poll
        self._bots: dict[UUID, RegisteredBot] | None = None
        self._changed: set[UUID] = set()
        self._wake = asyncio.Event()
        self.updated = asyncio.Event()

    def find(self, bot_id: UUID) -> RegisteredBot:
        if self._bots is None:
            raise NotReadyError(NotReadyError.__doc__)
        try:
            return self._bots[bot_id]
        except KeyError as error:
            raise BotUnknownError(bot_id) from error

    async def check(self) -> None:
        """Health probe: raises NotReadyError before the first load."""
        if self._bots is None:
            raise NotReadyError(NotReadyError.__doc__)

    def everything(self) -> list[RegisteredBot]:
        return list((self._bots or {}).values())

    def changed(self, bot_id: UUID) -> None:
        self._changed.add(bot_id)
        self._wake.set()

    async def refresh(self) -> None:
        """Read every bot. Raises when the database is away; what is known stays."""
        self._changed.clear()
        async with self._works.system() as work:
            bots = await work.bots.everything()
        self._bots = {bot.id: self._registered(bot) for bot in bots}
        self.updated.set()

    async def refresh_changed(self) -> None:
        """Read the bots that events named since the last time."""
        bot_ids = list(self._changed)
        if self._bots is None or not bot_ids:
            return
        async with self._works.system() as work:
            found = await work.bots.some(bot_ids)
        self._changed.difference_update(bot_ids)
        self._replace(bot_ids, found)

    async def wait(self) -> bool:
        """Until an event names a bot (True) or it is time to read everything (False)."""
        try:
            async with asyncio.timeout(self._poll):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        return True

    def _replace(self, bot_ids: Iterable[UUID], found: Iterable[Bot]) -> None:
        bots = dict(self._bots or {})
        for bot_id in bot_ids:
            bots.pop(bot_id, None)
        bots |= {bot.id: self._registered(bot) for bot in found}
        self._bots = bots
        self.updated.set()

    def _registered(self, bot: Bot) -> RegisteredBot:
        token = secret = None
        try:
            token, secret = token_of(bot, self._cipher), webhook_secret_of(bot, self._cipher)
        except UnreadableSecretError:
            _log.exception("bot_secret_unreadable", bot_id=str(bot.id))
        return RegisteredBot(
            id=bot.id,
            organisation_id=bot.organisation_id,
            web_enabled=bot.web_enabled,
            running=bot.wants_to_run(),
            polling=token is not None and bot.telegram_updates is TelegramUpdates.POLLING,
            observed_state=bot.observed_state,
            webhook_secret=secret,
            telegram_token=token,
        )
