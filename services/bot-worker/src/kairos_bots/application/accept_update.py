"""A Telegram update becomes a durable message before Telegram hears 200. No database is asked."""

import hmac
from typing import Literal
from uuid import UUID

from kairos_bots.application.ports import Publisher, RegisteredBot, Registry, TelegramParser, TelegramUpdate
from kairos_bots.domain.errors import BotUnknownError, WrongSecretError
from kairos_bots.domain.identity import message_event_id
from kairos_contracts.conversation.v1 import MessageReceivedV1

Accepted = Literal["accepted", "unsupported"]


def admit_webhook(registry: Registry, bot_id: UUID, secret: str | None) -> RegisteredBot:
    """The bot, once the caller proved to be Telegram.

    Raises BotUnknownError, WrongSecretError or NotReadyError.
    """
    bot = registry.find(bot_id)
    if bot.webhook_secret is None:
        raise BotUnknownError(bot_id)
    if not hmac.compare_digest(bot.webhook_secret.encode(), (secret or "").encode()):
        raise WrongSecretError(bot_id)
    return bot


async def accept_update(
    bot: RegisteredBot, body: object, *, parser: TelegramParser, publisher: Publisher
) -> Accepted:
    """Raises MalformedUpdateError, and the publisher's error when the broker may not have the message."""
    return await publish_update(bot, parser.parse(body), publisher=publisher)


async def publish_update(bot: RegisteredBot, update: TelegramUpdate, *, publisher: Publisher) -> Accepted:
    incoming = update.message
    if incoming is None:
        return "unsupported"
    external_update_id = str(update.update_id)
    await publisher.publish(
        MessageReceivedV1(
            bot_id=bot.id,
            channel="telegram",
            external_update_id=external_update_id,
            external_chat_id=incoming.chat_id,
            external_message_id=str(incoming.message_id),
            order=incoming.message_id,
            contact_external_id=incoming.sender_id,
            contact_display_name=incoming.sender_name,
            language=incoming.language,
            text=incoming.text,
            sent_at=incoming.sent_at,
        ),
        organisation_id=bot.organisation_id,
        message_id=message_event_id(bot.id, "telegram", external_update_id),
    )
    return "accepted"
