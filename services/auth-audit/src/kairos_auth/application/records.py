"""What is stored, as the use cases see it."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from kairos_contracts.permissions import Permission, Role


@dataclass(frozen=True)
class Organisation:
    id: UUID
    name: str
    created_at: datetime


@dataclass(frozen=True)
class Member:
    id: UUID
    organisation_id: UUID
    email: str
    display: str
    role: Role
    password_hash: str
    must_change_password: bool
    created_at: datetime


@dataclass(frozen=True)
class Session:
    id: UUID
    organisation_id: UUID
    member_id: UUID
    token_hash: str
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    ip: str | None = None


@dataclass(frozen=True)
class ApiKey:
    """`hint` is the visible beginning of the key; `scopes` None means everything the member's role has."""

    id: UUID
    organisation_id: UUID
    member_id: UUID
    name: str
    hint: str
    key_hash: str
    scopes: frozenset[Permission] | None
    project_id: UUID | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None
    team_id: UUID | None = None


@dataclass(frozen=True)
class Team:
    """Whose keys share budgets and quotas."""

    id: UUID
    organisation_id: UUID
    name: str
    created_at: datetime


@dataclass(frozen=True)
class Project:
    id: UUID
    organisation_id: UUID
    name: str
    created_at: datetime


@dataclass(frozen=True)
class Head:
    """The end of a stream: its size, the hash of its last entry and when that was recorded."""

    size: int
    hash: str
    recorded_at: datetime | None


@dataclass(frozen=True)
class EntryFilter:
    """What the viewer asks for; times are inclusive from, exclusive to."""

    actor: str | None = None
    action: str | None = None
    target: str | None = None
    outcome: str | None = None
    occurred_from: datetime | None = None
    occurred_to: datetime | None = None
