"""Messages owned by auth-audit: audit entries, access changes, organisations."""

from typing import Any, ClassVar, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from kairos_contracts.message import AwareTime, Event


class AuditActor(BaseModel):
    """Who did it. `kind` system is the installation itself, anonymous a caller nobody vouches for."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["member", "api_key", "service", "system", "anonymous"]
    id: str
    display: str = ""


class AuditEntryRecordedV1(Event):
    """One critical operation, written by the service that did it in the same transaction.

    `before` and `after` hold changed fields only, never a secret. `via` is rest, ws, mcp, cli or worker.
    """

    TYPE: ClassVar[str] = "audit.entry.recorded.v1"
    entry_id: UUID
    occurred_at: AwareTime
    actor: AuditActor
    via: Literal["rest", "ws", "mcp", "cli", "worker"]
    action: str
    target: str
    outcome: Literal["allowed", "denied", "failed"]
    reason: str | None = None
    request_id: str | None = None
    trace_id: str | None = None
    ip: str | None = None
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None

    def aggregate_id(self) -> str:
        return str(self.entry_id)


class AccessChangedV1(Event):
    """Something a replica may have cached about a caller is no longer true: forget it."""

    TYPE: ClassVar[str] = "auth.access.changed.v1"
    kind: Literal["session", "api_key", "member"]
    subject_id: UUID

    def aggregate_id(self) -> str:
        return str(self.subject_id)


class OrganisationCreatedV1(Event):
    TYPE: ClassVar[str] = "auth.organisation.created.v1"
    organisation_id: UUID
    name: str

    def aggregate_id(self) -> str:
        return str(self.organisation_id)
