"""The tables as SQLModel sees them, for reading. The migrations define them; a test compares both."""

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import BigInteger, Column, DateTime, MetaData, SmallInteger
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, SQLModel

_Instant = DateTime(timezone=True)


class Row(SQLModel):
    """Tables of this service only: one of another may have the same name in the same process."""

    metadata: ClassVar[MetaData] = MetaData()


class BudgetRow(Row, table=True):
    __tablename__: ClassVar[str] = "budgets"

    id: UUID = Field(primary_key=True)
    organisation_id: UUID
    name: str
    scope: str
    scope_id: UUID
    limit_nano: int = Field(sa_type=BigInteger)
    period: str
    time_zone: str
    thresholds: list[int] = Field(sa_column=Column(ARRAY(SmallInteger), nullable=False))
    active: bool
    version: int
    created_at: datetime = Field(sa_type=_Instant)
    updated_at: datetime = Field(sa_type=_Instant)
    model: str | None
    window_hours: int | None
    reserve_normal: int = Field(sa_type=SmallInteger)
    reserve_interactive: int = Field(sa_type=SmallInteger)
    index_version: int = Field(sa_type=BigInteger)


class PeriodRow(Row, table=True):
    __tablename__: ClassVar[str] = "budget_periods"

    id: UUID = Field(primary_key=True)
    organisation_id: UUID
    budget_id: UUID
    starts_at: datetime = Field(sa_type=_Instant)
    ends_at: datetime | None = Field(sa_type=_Instant)
    opened: bool
    limit_nano: int = Field(sa_type=BigInteger)
    available_nano: int = Field(sa_type=BigInteger)
    leased_nano: int = Field(sa_type=BigInteger)
    settled_nano: int = Field(sa_type=BigInteger)
    suspense_nano: int = Field(sa_type=BigInteger)
    excess_nano: int = Field(sa_type=BigInteger)
    overspend_nano: int = Field(sa_type=BigInteger)
    announced: list[int] = Field(sa_column=Column(ARRAY(SmallInteger), nullable=False))
    version: int = Field(sa_type=BigInteger)
    updated_at: datetime = Field(sa_type=_Instant)
    refused_at: datetime | None = Field(sa_type=_Instant)


class BucketRow(Row, table=True):
    __tablename__: ClassVar[str] = "period_buckets"

    period_id: UUID = Field(primary_key=True)
    starts_at: datetime = Field(primary_key=True, sa_type=_Instant)
    organisation_id: UUID
    settled_nano: int = Field(sa_type=BigInteger)


class LeaseRow(Row, table=True):
    __tablename__: ClassVar[str] = "leases"

    id: UUID = Field(primary_key=True)
    organisation_id: UUID
    project_id: UUID | None
    bot_id: UUID | None
    team_id: UUID | None
    contact_id: UUID | None
    api_key_id: UUID | None
    model_id: UUID | None
    holder: str
    epoch: int
    state: str
    granted_nano: int = Field(sa_type=BigInteger)
    grants: int
    accounted_nano: int = Field(sa_type=BigInteger)
    expected_nano: int | None = Field(sa_type=BigInteger)
    reported_settled_nano: int = Field(sa_type=BigInteger)
    reported_open_nano: int = Field(sa_type=BigInteger)
    expires_at: datetime = Field(sa_type=_Instant)
    suspend_after: datetime = Field(sa_type=_Instant)
    created_at: datetime = Field(sa_type=_Instant)
    updated_at: datetime = Field(sa_type=_Instant)
    priority: str | None
    index_version: int = Field(sa_type=BigInteger)
    returned_nano: int = Field(sa_type=BigInteger)
    open_holds: list[dict[str, Any]] = Field(sa_column=Column(JSONB, nullable=False))


class AllocationRow(Row, table=True):
    __tablename__: ClassVar[str] = "lease_allocations"

    lease_id: UUID = Field(primary_key=True)
    period_id: UUID = Field(primary_key=True)
    organisation_id: UUID
    leased_nano: int = Field(sa_type=BigInteger)
    suspense_nano: int = Field(sa_type=BigInteger)


class AttemptHoldRow(Row, table=True):
    __tablename__: ClassVar[str] = "attempt_holds"

    attempt_id: UUID = Field(primary_key=True)
    period_id: UUID = Field(primary_key=True)
    organisation_id: UUID
    lease_id: UUID | None
    amount_nano: int = Field(sa_type=BigInteger)


class TransferRow(Row, table=True):
    __tablename__: ClassVar[str] = "transfers"

    sequence: int = Field(primary_key=True, sa_type=BigInteger)
    idempotency_key: UUID
    organisation_id: UUID
    budget_id: UUID
    period_id: UUID
    kind: str
    source: str
    target: str
    amount_nano: int = Field(sa_type=BigInteger)
    lease_id: UUID | None
    attempt_id: UUID | None
    created_at: datetime = Field(sa_type=_Instant)
    posting_id: UUID | None
    adjustment_id: UUID | None


class AttemptRow(Row, table=True):
    """Only what lists ask for; attempts are written and locked by hand."""

    __tablename__: ClassVar[str] = "attempts"

    id: UUID = Field(primary_key=True)
    posting_id: UUID | None


class SeriesRow(Row, table=True):
    __tablename__: ClassVar[str] = "usage_series"

    id: UUID = Field(primary_key=True)
    organisation_id: UUID
    model: str
    deployment: str
    provider: str
    bot_id: UUID | None
    project_id: UUID | None
    api_key_id: UUID | None
    team_id: UUID | None


class DayRow(Row, table=True):
    __tablename__: ClassVar[str] = "usage_days"

    organisation_id: UUID = Field(primary_key=True)
    starts_at: datetime = Field(primary_key=True, sa_type=_Instant)
    series_id: UUID = Field(primary_key=True)
    attempts: int = Field(sa_type=BigInteger)
    unknown_attempts: int = Field(sa_type=BigInteger)
    errors: int = Field(sa_type=BigInteger)
    cache_hits: int = Field(sa_type=BigInteger)
    cost_nano: int = Field(sa_type=BigInteger)
    input_tokens: int = Field(sa_type=BigInteger)
    output_tokens: int = Field(sa_type=BigInteger)
    cached_input_tokens: int = Field(sa_type=BigInteger)
    cache_write_tokens: int = Field(sa_type=BigInteger)
    reasoning_tokens: int = Field(sa_type=BigInteger)
    audio_input_tokens: int = Field(sa_type=BigInteger)
    audio_output_tokens: int = Field(sa_type=BigInteger)
    latency: list[int] = Field(sa_column=Column(ARRAY(BigInteger), nullable=False))
    first_token: list[int] = Field(sa_column=Column(ARRAY(BigInteger), nullable=False))
