"""The tables of schema `auth`. Migrations make them; these classes only name columns for queries."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, DateTime
from sqlmodel import Field, SQLModel


def _time(**options: Any) -> Any:
    return Field(sa_type=DateTime(timezone=True), **options)


class OrganisationRow(SQLModel, table=True):
    __tablename__ = "organisations"

    organisation_id: UUID = Field(primary_key=True)
    name: str
    created_at: datetime = _time()


class MemberRow(SQLModel, table=True):
    __tablename__ = "members"

    id: UUID = Field(primary_key=True)
    organisation_id: UUID
    email: str
    display: str
    role: str
    password_hash: str
    must_change_password: bool
    created_at: datetime = _time()
    removed_at: datetime | None = _time(default=None)


class SessionRow(SQLModel, table=True):
    __tablename__ = "sessions"

    id: UUID = Field(primary_key=True)
    organisation_id: UUID
    member_id: UUID
    token_hash: str
    created_at: datetime = _time()
    last_seen_at: datetime = _time()
    expires_at: datetime = _time()
    ended_at: datetime | None = _time(default=None)
    ip: str | None = None


class ProjectRow(SQLModel, table=True):
    __tablename__ = "projects"

    id: UUID = Field(primary_key=True)
    organisation_id: UUID
    name: str
    created_at: datetime = _time()


class TeamRow(SQLModel, table=True):
    __tablename__ = "teams"

    id: UUID = Field(primary_key=True)
    organisation_id: UUID
    name: str
    created_at: datetime = _time()


class ApiKeyRow(SQLModel, table=True):
    __tablename__ = "api_keys"

    id: UUID = Field(primary_key=True)
    organisation_id: UUID
    member_id: UUID
    name: str
    hint: str
    key_hash: str
    scopes: list[str] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    project_id: UUID | None = None
    created_at: datetime = _time()
    expires_at: datetime | None = _time(default=None)
    last_used_at: datetime | None = _time(default=None)
    revoked_at: datetime | None = _time(default=None)
    team_id: UUID | None = None


class SignInAttemptRow(SQLModel, table=True):
    __tablename__ = "sign_in_attempts"

    key: str = Field(primary_key=True)
    failures: int
    blocked_until: datetime | None = _time(default=None)
    changed_at: datetime = _time()


class AuditEntryRow(SQLModel, table=True):
    __tablename__ = "audit_entries"

    stream: str = Field(primary_key=True)
    seq: int = Field(primary_key=True)
    recorded_at: datetime = _time(primary_key=True)
    organisation_id: UUID | None = None
    prev_hash: str
    hash: str
    entry: dict[str, Any] = Field(sa_type=JSON)


class AuditHeadRow(SQLModel, table=True):
    __tablename__ = "audit_heads"

    stream: str = Field(primary_key=True)
    organisation_id: UUID | None = None
    size: int
    hash: str
    recorded_at: datetime = _time()


class AuditCheckpointRow(SQLModel, table=True):
    __tablename__ = "audit_checkpoints"

    stream: str = Field(primary_key=True)
    size: int = Field(primary_key=True)
    organisation_id: UUID | None = None
    root: str
    head_hash: str
    signed_at: str
    key_id: str
    public_key: str
    signature: str
    frontier: list[str] = Field(sa_type=JSON)


class AuditAnchorRow(SQLModel, table=True):
    __tablename__ = "audit_anchors"

    stream: str = Field(primary_key=True)
    size: int = Field(primary_key=True)
    organisation_id: UUID | None = None
