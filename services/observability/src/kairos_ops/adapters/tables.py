"""Rows of the schema `ops`. Migrations make the tables; these classes read and write them."""

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import BigInteger, Column, DateTime, LargeBinary, Text, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel


def _time(*, nullable: bool = False) -> Any:
    return Field(sa_column=Column(DateTime(timezone=True), nullable=nullable))


class EventRow(SQLModel, table=True):
    __tablename__: ClassVar[str] = "events"

    recorded_at: datetime = Field(
        sa_column=Column(DateTime(timezone=True), primary_key=True, server_default=func.clock_timestamp())
    )
    id: UUID = Field(primary_key=True)
    type: str
    source: str
    subject: str
    occurred_at: datetime = _time()
    organisation_id: UUID | None = None
    causation_id: UUID | None = None
    trace_id: str | None = None
    data: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))


class DeadLetterRow(SQLModel, table=True):
    __tablename__: ClassVar[str] = "dead_letters"

    id: UUID = Field(primary_key=True)
    message_id: str
    queue: str
    type: str
    organisation_id: UUID | None = None
    reason: str
    error: str = Field(sa_column=Column(Text, nullable=False))
    attempts: int
    deaths: int = Field(sa_column=Column(BigInteger, nullable=False))
    trace_id: str | None = None
    payload_sha256: str
    headers: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    body: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    status: str
    first_died_at: datetime = _time()
    last_died_at: datetime = _time()
    replayed_at: datetime | None = _time(nullable=True)
    replayed_by: str | None = None


class ServiceHealthRow(SQLModel, table=True):
    __tablename__: ClassVar[str] = "service_health"

    service: str = Field(primary_key=True)
    health: str
    detail: str
    changed_at: datetime = _time()
