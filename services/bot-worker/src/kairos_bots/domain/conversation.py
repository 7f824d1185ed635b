"""A conversation is one contact with one bot on one channel; its messages are numbered without gaps."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from kairos_bots.domain.bot import Bot
from kairos_bots.domain.turn import Turn


class Direction(StrEnum):
    IN = "in"
    OUT = "out"


@dataclass(frozen=True)
class Conversation:
    """`last_sequence` numbers its latest message, `epoch` is the last one given to a turn."""

    id: UUID
    organisation_id: UUID
    bot_id: UUID
    channel: str
    external_chat_id: str
    contact_id: UUID
    last_sequence: int
    epoch: int
    created_at: datetime


@dataclass(frozen=True)
class StoredMessage:
    """`order` sorts the contact's messages inside one turn; `sequence` numbers both directions.

    `delivery` is received for a contact's message and pending, sent or failed for a reply.
    `ambiguous` counts tries of which nobody knows whether the channel took them.
    """

    id: UUID
    organisation_id: UUID
    conversation_id: UUID
    bot_id: UUID
    turn_id: UUID
    direction: Direction
    sequence: int
    order: int
    text: str
    created_at: datetime
    external_message_id: str | None = None
    source: str | None = None
    delivery: str = "received"
    attempts: int = 0
    ambiguous: int = 0
    sent_at: datetime | None = None
    error: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True)
class HeldTurn:
    """A turn whose conversation this transaction holds; `now` is the database's clock."""

    turn: Turn
    conversation: Conversation
    bot: Bot
    now: datetime


@dataclass(frozen=True)
class Reply:
    """A reply part on its way to a channel that is not ours. `attempts` counts the tries so far."""

    id: UUID
    organisation_id: UUID
    conversation_id: UUID
    bot_id: UUID
    turn_id: UUID
    channel: str
    external_chat_id: str
    sequence: int
    text: str
    created_at: datetime
    attempts: int = 0
    ambiguous: int = 0
    claim_token: UUID | None = None
    was_sending: bool = False
    traceparent: str | None = None
