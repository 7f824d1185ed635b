"""Contacts, conversations and messages in PostgreSQL."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Select, Table, bindparam, func, insert, select, text, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from kairos_bots.adapters import tables
from kairos_bots.adapters.postgres.clock import DatabaseClock
from kairos_bots.adapters.postgres.rows import conversation_of, message_of, message_values
from kairos_bots.domain.conversation import Conversation, Direction, StoredMessage
from kairos_bots.domain.errors import BotUnknownError
from kairos_bots.domain.identity import contact_id, conversation_id
from kairos_bots.domain.turn import Turn
from kairos_contracts.conversation.v1 import MessageReceivedV1

HISTORY_REACHES_BACK = timedelta(days=30)
"""Older messages are no history for a model; the bound also keeps old partitions unread."""
CLOCKS_DIFFER_BY = timedelta(hours=1)
"""A partition bound only: a turn's messages are stored within this of the turn's own start."""

# One round trip: the insert-or-update of the conversation is also the lock that numbers its messages.
_TAKE_SEQUENCE = text("""
WITH known AS (
    SELECT id FROM bots WHERE id = :bot_id AND organisation_id = :organisation_id
), contact AS (
    INSERT INTO contacts (
        id, organisation_id, bot_id, channel, external_id, display_name, language, created_at, last_seen_at
    )
    SELECT :contact_id, :organisation_id, known.id, :channel, :contact_external_id,
           :display_name, CAST(:language AS text), clock_timestamp(), clock_timestamp()
    FROM known
    ON CONFLICT (id) DO UPDATE SET
        display_name = coalesce(nullif(excluded.display_name, ''), contacts.display_name),
        language = coalesce(excluded.language, contacts.language),
        last_seen_at = excluded.last_seen_at
    RETURNING id
)
INSERT INTO conversations (
    id, organisation_id, bot_id, contact_id, channel, external_chat_id,
    last_sequence, created_at, last_message_at
)
SELECT :conversation_id, :organisation_id, :bot_id, contact.id, :channel, :external_chat_id,
       1, clock_timestamp(), clock_timestamp()
FROM contact
ON CONFLICT (id) DO UPDATE SET
    last_sequence = conversations.last_sequence + 1, last_message_at = excluded.last_message_at
RETURNING id, organisation_id, bot_id, contact_id, channel, external_chat_id,
          last_sequence, epoch, created_at, clock_timestamp() AS now
""")
_conversations: Table = tables.conversations
_messages: Table = tables.messages
_c = _conversations.c
_m = _messages.c

# Statements of the hot path are built once: building them costs more than running them.
_SAVE_CONVERSATION = (
    update(_conversations)
    .where(_c.id == bindparam("key"))
    .values(last_sequence=bindparam("last"), epoch=bindparam("latest"))
)
_ADD_MESSAGE = insert(_messages)
_OF_TURN = (
    select(_messages)
    .where(
        _m.turn_id == bindparam("turn"),
        _m.direction == Direction.IN.value,
        _m.created_at >= bindparam("earliest"),
    )
    .order_by(_m.order, _m.sequence)
)
_BEFORE = (
    select(_messages)
    .where(
        _m.conversation_id == bindparam("conversation"),
        _m.sequence < bindparam("bound"),
        _m.created_at >= func.now() - HISTORY_REACHES_BACK,
    )
    .order_by(_m.sequence.desc())
    .limit(bindparam("most"))
)
_AFTER = (
    select(_messages)
    .where(_m.conversation_id == bindparam("conversation"), _m.sequence > bindparam("bound"))
    .order_by(_m.sequence)
    .limit(bindparam("most"))
)


@dataclass(frozen=True)
class PostgresConversations:
    session: AsyncSession
    clock: DatabaseClock

    async def take_sequence(self, message: MessageReceivedV1, organisation_id: UUID) -> Conversation:
        values = {
            "bot_id": message.bot_id,
            "organisation_id": organisation_id,
            "contact_id": contact_id(message.bot_id, message.channel, message.contact_external_id),
            "conversation_id": conversation_id(message.bot_id, message.channel, message.external_chat_id),
            "channel": message.channel,
            "contact_external_id": message.contact_external_id,
            "external_chat_id": message.external_chat_id,
            "display_name": message.contact_display_name,
            "language": message.language,
        }
        row = (await self.session.execute(_TAKE_SEQUENCE, values)).mappings().one_or_none()
        if row is None:
            raise BotUnknownError(message.bot_id)
        self.clock.seen = row["now"]
        return conversation_of(row)

    async def save(self, conversation: Conversation) -> None:
        await self.session.execute(
            _SAVE_CONVERSATION,
            {"key": conversation.id, "last": conversation.last_sequence, "latest": conversation.epoch},
        )

    async def get(self, conversation_id: UUID) -> Conversation | None:
        query = select(_conversations).where(_conversations.c.id == conversation_id)
        row = (await self.session.execute(query)).mappings().one_or_none()
        return None if row is None else conversation_of(row)

    async def of_bot(
        self, bot_id: UUID, after: tuple[datetime, UUID] | None, limit: int
    ) -> Sequence[Conversation]:
        columns = _conversations.c
        query = select(_conversations).where(columns.bot_id == bot_id)
        if after is not None:
            query = query.where(tuple_(columns.created_at, columns.id) < tuple_(*after))
        query = query.order_by(columns.created_at.desc(), columns.id.desc()).limit(limit)
        return [conversation_of(row) for row in (await self.session.execute(query)).mappings()]


@dataclass(frozen=True)
class PostgresMessages:
    session: AsyncSession

    async def add(self, message: StoredMessage) -> None:
        await self.session.execute(_ADD_MESSAGE, message_values(message))

    async def of_turn(self, turn: Turn) -> Sequence[StoredMessage]:
        return await self._read(_OF_TURN, {"turn": turn.id, "earliest": turn.created_at - CLOCKS_DIFFER_BY})

    async def before(self, conversation_id: UUID, sequence: int, limit: int) -> Sequence[StoredMessage]:
        values = {"conversation": conversation_id, "bound": sequence, "most": limit}
        return (await self._read(_BEFORE, values))[::-1]

    async def after(self, conversation_id: UUID, sequence: int, limit: int) -> Sequence[StoredMessage]:
        values = {"conversation": conversation_id, "bound": sequence, "most": limit}
        return await self._read(_AFTER, values)

    async def _read(self, query: Select[Any], values: dict[str, Any]) -> list[StoredMessage]:
        rows = (await self.session.execute(query, values)).mappings()
        return [message_of(row) for row in rows]
