"""The Telegram Bot API through aiogram's types and client."""

from collections import OrderedDict
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import aiohttp
from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.exceptions import (
    ClientDecodeError,
    RestartingTelegram,
    TelegramAPIError,
    TelegramBadRequest,
    TelegramEntityTooLarge,
    TelegramForbiddenError,
    TelegramMigrateToChat,
    TelegramNetworkError,
    TelegramNotFound,
    TelegramRetryAfter,
    TelegramServerError,
    TelegramUnauthorizedError,
)
from aiogram.methods import DeleteWebhook, GetUpdates, SendMessage, SetWebhook, TelegramMethod
from aiogram.types import Message, Update
from aiogram.utils.token import TokenValidationError
from pydantic import ValidationError

from kairos_bots.application.ports import (
    IncomingText,
    TelegramAwayError,
    TelegramRefusedError,
    TelegramUpdate,
)
from kairos_bots.domain.delivery import Accepted, NotTaken, Paced, Refused, SendOutcome, Unsure
from kairos_bots.domain.errors import MalformedUpdateError
from kairos_telemetry import get_logger

SUPPORTED = ["message"]
LARGEST_ID = 2**53
LONGEST_TEXT = 16_384
_CACHED_BOTS = 2_000
_log = get_logger(__name__)


class AiogramParser:
    """Reads an update; a kind we do not handle has no message."""

    def parse(self, body: object) -> TelegramUpdate:
        update_id = body.get("update_id") if isinstance(body, dict) else None
        if not isinstance(update_id, int) or isinstance(update_id, bool) or not 0 <= update_id < LARGEST_ID:
            raise MalformedUpdateError(MalformedUpdateError.__doc__)
        try:
            update = Update.model_validate(body)
        except ValidationError as error:
            # Refusing it would make Telegram repeat it for a day and hold back every update after it.
            _log.warning("telegram_update_not_understood", update_id=update_id, problems=error.error_count())
            return TelegramUpdate(update_id, None)
        return as_update(update)


def as_update(update: Update) -> TelegramUpdate:
    message = update.message
    if message is None or not message.text or not 0 <= message.message_id < LARGEST_ID:
        return TelegramUpdate(update.update_id, None)
    return TelegramUpdate(update.update_id, _incoming(message, message.text))


def _incoming(message: Message, text: str) -> IncomingText:
    sender = message.from_user
    chat_id = str(message.chat.id)
    return IncomingText(
        chat_id=chat_id,
        message_id=message.message_id,
        sender_id=str(sender.id) if sender else chat_id,
        sender_name=_storable(sender.full_name if sender else message.chat.title or ""),
        language=_storable(sender.language_code) if sender and sender.language_code else None,
        text=_storable(text)[:LONGEST_TEXT] or " ",
        sent_at=message.date,
    )


def _storable(text: str) -> str:
    """PostgreSQL's text holds every character but NUL."""
    return text.replace("\x00", "")


class AiogramTelegram:
    """Calls `api_base` (https://api.telegram.org, or a server that speaks the same).

    `send_timeout` in seconds must be below the sender's lease.
    """

    def __init__(self, api_base: str, *, send_timeout: int, connections: int = 200) -> None:
        self._session = AiohttpSession(
            api=TelegramAPIServer.from_base(api_base), timeout=send_timeout, limit=connections
        )
        self._send_timeout = send_timeout
        self._bots: OrderedDict[str, Bot] = OrderedDict()
        self._parser = AiogramParser()

    async def close(self) -> None:
        await self._session.close()

    async def send_text(self, token: str, chat_id: str, text: str) -> SendOutcome:
        try:
            sent = await self._call(token, SendMessage(chat_id=chat_id, text=text), self._send_timeout)
        except Exception as error:
            outcome = outcome_of(error)
            if outcome is None:
                raise
            return outcome
        return Accepted(str(sent.message_id))

    async def set_webhook(self, token: str, url: str, secret: str) -> None:
        await self._manage(token, SetWebhook(url=url, secret_token=secret, allowed_updates=SUPPORTED))

    async def delete_webhook(self, token: str) -> None:
        await self._manage(token, DeleteWebhook())

    async def get_updates(self, token: str, offset: int | None, wait: timedelta) -> Sequence[TelegramUpdate]:
        seconds = int(wait.total_seconds())
        method = GetUpdates(offset=offset, timeout=seconds, allowed_updates=SUPPORTED)
        try:
            updates = await self._call(token, method, seconds + self._send_timeout)
        except ClientDecodeError as error:
            # One update aiogram can't read must not hold back the others for ever.
            return self._one_by_one(error)
        except Exception as error:
            raise _as_managed(error) from error
        return [as_update(update) for update in updates]

    def _one_by_one(self, error: ClientDecodeError) -> list[TelegramUpdate]:
        document: Any = error.data
        if not isinstance(document, dict) or not isinstance(document.get("result"), list):
            raise TelegramAwayError("the answer is not JSON of the Bot API") from error
        updates = []
        for item in document["result"]:
            try:
                updates.append(self._parser.parse(item))
            except MalformedUpdateError:
                _log.warning("telegram_update_without_id")
        return updates

    async def _manage(self, token: str, method: TelegramMethod[bool]) -> None:
        try:
            await self._call(token, method, self._send_timeout)
        except Exception as error:
            raise _as_managed(error) from error

    async def _call(self, token: str, method: TelegramMethod[Any], timeout: int) -> Any:
        return await self._bot(token)(method, request_timeout=timeout)

    def _bot(self, token: str) -> Bot:
        bot = self._bots.pop(token, None) or Bot(token, session=self._session)
        self._bots[token] = bot
        while len(self._bots) > _CACHED_BOTS:
            self._bots.popitem(last=False)
        return bot


def outcome_of(error: Exception) -> SendOutcome | None:  # noqa: PLR0911 - one line per kind of answer
    """What a failed call tells about the reply; None for an error that is ours."""
    match error:
        case TelegramRetryAfter():
            return Paced(timedelta(seconds=error.retry_after))
        case TokenValidationError():
            return NotTaken("the token is malformed", credential=True)
        case TelegramUnauthorizedError() | TelegramNotFound():
            return NotTaken(error.message, credential=True)
        case (
            TelegramForbiddenError()
            | TelegramBadRequest()
            | TelegramMigrateToChat()
            | TelegramEntityTooLarge()
        ):
            return Refused(error.message)
        case RestartingTelegram():
            return NotTaken(error.message)
        case TelegramNetworkError():
            return _network(error)
        case TelegramServerError() | ClientDecodeError():
            # A gateway may answer 502 for a message that went through.
            return Unsure(type(error).__name__)
        case TelegramAPIError():
            return NotTaken(error.message)
        case _:
            return None


def _network(error: TelegramNetworkError) -> SendOutcome:
    if isinstance(error.__cause__, aiohttp.ClientConnectorError):
        return NotTaken("no connection to Telegram")
    return Unsure(error.message)


def _as_managed(error: Exception) -> Exception:
    match outcome_of(error):
        case Refused(reason):
            return TelegramRefusedError(reason, credential=False)
        case NotTaken(reason, credential=True):
            return TelegramRefusedError(reason, credential=True)
        case NotTaken(reason) | Unsure(reason):
            return TelegramAwayError(reason)
        case Paced(retry_after):
            return TelegramAwayError(f"asked for a pause of {retry_after}")
        case _:
            return error
