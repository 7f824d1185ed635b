"""Web chat: a page holds a signed session, sends messages, and reads its conversation by sequence."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from kairos_bots.application.ports import Publisher, Registry
from kairos_bots.domain.errors import ChannelClosedError
from kairos_bots.domain.identity import conversation_id, message_event_id
from kairos_contracts.conversation.v1 import MessageReceivedV1

SESSION_LIFE = timedelta(days=7)


@dataclass(frozen=True)
class WebSession:
    bot_id: UUID
    chat_id: str
    expires_at: datetime

    @property
    def conversation_id(self) -> UUID:
        return conversation_id(self.bot_id, "web", self.chat_id)


class SessionSigner(Protocol):
    def sign(self, session: WebSession) -> str: ...

    def read(self, token: str, now: datetime) -> WebSession | None:
        """None for a token that is forged, malformed or past its time."""


def open_session(registry: Registry, bot_id: UUID, *, chat_id: str, now: datetime) -> WebSession:
    """`chat_id` is unguessable; the caller makes it.

    Raises BotUnknownError, NotReadyError or ChannelClosedError.
    """
    if not registry.find(bot_id).web_enabled:
        raise ChannelClosedError(bot_id)
    return WebSession(bot_id=bot_id, chat_id=chat_id, expires_at=now + SESSION_LIFE)


async def accept_web_message(
    session: WebSession, *, sequence: int, text: str, now: datetime, registry: Registry, publisher: Publisher
) -> UUID:
    """The message's id, once the broker has it. The page's `sequence` makes a retry harmless.

    Raises BotUnknownError, NotReadyError, ChannelClosedError, and the publisher's error.
    """
    bot = registry.find(session.bot_id)
    if not bot.web_enabled:
        raise ChannelClosedError(session.bot_id)
    external_update_id = f"{session.chat_id}:{sequence}"
    event_id = message_event_id(bot.id, "web", external_update_id)
    await publisher.publish(
        MessageReceivedV1(
            bot_id=bot.id,
            channel="web",
            external_update_id=external_update_id,
            external_chat_id=session.chat_id,
            external_message_id=str(sequence),
            order=sequence,
            contact_external_id=session.chat_id,
            text=text,
            sent_at=now,
        ),
        organisation_id=bot.organisation_id,
        message_id=event_id,
    )
    return event_id
