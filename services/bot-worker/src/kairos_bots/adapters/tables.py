"""The tables of schema `bots`; the migrations make them."""

from datetime import datetime
from typing import Any, cast
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, LargeBinary, Table
from sqlmodel import Field, SQLModel


def _time(**options: Any) -> Any:
    return Field(sa_type=DateTime(timezone=True), **options)


class BotRow(SQLModel, table=True):
    __tablename__ = "bots"

    id: UUID = Field(primary_key=True)
    organisation_id: UUID
    project_id: UUID | None = None
    name: str
    mode: str
    model: str
    system_prompt: str
    fallback_text: str
    max_tokens: int
    web_enabled: bool
    telegram_updates: str
    telegram_token_key_id: str | None = None
    telegram_token_ciphertext: bytes | None = Field(default=None, sa_type=LargeBinary)
    webhook_secret_key_id: str | None = None
    webhook_secret_ciphertext: bytes | None = Field(default=None, sa_type=LargeBinary)
    desired_state: str
    observed_state: str
    observed_reason: str
    observed_at: datetime = _time()
    version: int
    applied_version: int
    webhook_base: str | None = None
    apply_after: datetime = _time()
    created_at: datetime = _time()
    updated_at: datetime = _time()
    deleted_at: datetime | None = _time(default=None)


class ConversationRow(SQLModel, table=True):
    __tablename__ = "conversations"

    id: UUID = Field(primary_key=True)
    organisation_id: UUID
    bot_id: UUID
    contact_id: UUID
    channel: str
    external_chat_id: str
    last_sequence: int = Field(sa_type=BigInteger)
    epoch: int = Field(sa_type=BigInteger)
    created_at: datetime = _time()
    last_message_at: datetime = _time()


class MessageRow(SQLModel, table=True):
    __tablename__ = "messages"

    id: UUID = Field(primary_key=True)
    organisation_id: UUID
    conversation_id: UUID
    bot_id: UUID
    turn_id: UUID
    direction: str
    sequence: int = Field(sa_type=BigInteger)
    order: int = Field(sa_type=BigInteger)
    text: str
    source: str | None = None
    external_message_id: str | None = None
    delivery: str
    attempts: int
    ambiguous: int
    error: str | None = None
    traceparent: str | None = None
    created_at: datetime = _time(primary_key=True)
    sent_at: datetime | None = _time(default=None)


class TurnRow(SQLModel, table=True):
    __tablename__ = "turns"

    id: UUID = Field(primary_key=True)
    organisation_id: UUID
    conversation_id: UUID
    bot_id: UUID
    channel: str
    state: str
    epoch: int = Field(sa_type=BigInteger)
    message_count: int
    mode: str | None = None
    source: str | None = None
    completion_id: UUID | None = None
    traceparent: str | None = None
    created_at: datetime = _time()
    due_at: datetime = _time()
    opened_at: datetime | None = _time(default=None)
    deadline_at: datetime | None = _time(default=None)
    answered_at: datetime | None = _time(default=None)


class ReplyRow(SQLModel, table=True):
    __tablename__ = "replies"

    id: UUID = Field(primary_key=True)
    organisation_id: UUID
    conversation_id: UUID
    bot_id: UUID
    turn_id: UUID
    channel: str
    external_chat_id: str
    sequence: int = Field(sa_type=BigInteger)
    text: str
    state: str
    attempts: int
    ambiguous: int
    last_error: str | None = None
    not_before: datetime = _time()
    claim_token: UUID | None = None
    claimed_until: datetime | None = _time(default=None)
    traceparent: str | None = None
    created_at: datetime = _time()


class PollerRow(SQLModel, table=True):
    __tablename__ = "telegram_pollers"

    bot_id: UUID = Field(primary_key=True)
    organisation_id: UUID
    holder: str
    held_until: datetime = _time()
    next_offset: int | None = Field(default=None, sa_type=BigInteger)


def _table(row: type[SQLModel]) -> Table:
    return cast("Table", row.__table__)  # type: ignore[attr-defined]  # set by table=True


bots = _table(BotRow)
conversations = _table(ConversationRow)
messages = _table(MessageRow)
turns = _table(TurnRow)
replies = _table(ReplyRow)
pollers = _table(PollerRow)
