"""The tables of schema `router`. Their constraints live in the migrations."""

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import BigInteger, Column, DateTime
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel


def _time(*, nullable: bool = True) -> Any:
    return Column(DateTime(timezone=True), nullable=nullable)


class CompletionRow(SQLModel, table=True):
    __tablename__: ClassVar[str] = "completions"

    completion_id: UUID = Field(primary_key=True)
    organisation_id: UUID
    message_id: UUID
    traceparent: str | None = None
    model: str
    request: dict[str, Any] | None = Field(sa_column=Column(JSONB(none_as_null=True)))
    state: str = "pending"
    outcome: str | None = None
    due_at: datetime = Field(sa_column=_time(nullable=False))
    deadline: datetime = Field(sa_column=_time(nullable=False))
    claim_token: UUID | None = None
    claim_epoch: int = 0
    claimed_until: datetime | None = Field(default=None, sa_column=_time())
    created_at: datetime = Field(sa_column=_time(nullable=False))
    ended_at: datetime | None = Field(default=None, sa_column=_time())


class AttemptRow(SQLModel, table=True):
    __tablename__: ClassVar[str] = "attempts"

    attempt_id: UUID = Field(primary_key=True)
    organisation_id: UUID
    completion_id: UUID
    claim_epoch: int
    state: str = "dispatched"
    deployment: str
    provider: str
    model: str
    price_version: str
    max_tokens: int
    lease_id: UUID | None = None
    project_id: UUID | None = None
    bot_id: UUID | None = None
    hold_nano_usd: int = Field(sa_column=Column(BigInteger, nullable=False))
    cost_nano_usd: int | None = Field(default=None, sa_column=Column(BigInteger))
    input_tokens: int | None = Field(default=None, sa_column=Column(BigInteger))
    output_tokens: int | None = Field(default=None, sa_column=Column(BigInteger))
    estimated: bool = False
    status: int | None = None
    started_at: datetime = Field(sa_column=_time(nullable=False))
    ended_at: datetime | None = Field(default=None, sa_column=_time())


class DecisionRow(SQLModel, table=True):
    __tablename__: ClassVar[str] = "decisions"

    decision_id: UUID = Field(primary_key=True)
    organisation_id: UUID
    project_id: UUID | None = None
    bot_id: UUID | None = None
    api_key_id: UUID | None = None
    completion_id: UUID
    model: str
    code: str
    steps: list[dict[str, Any]] = Field(sa_column=Column(JSONB, nullable=False))
    decided_at: datetime = Field(sa_column=_time(nullable=False))
