"""Which operations are critical, and how an entry about one is made.

The service that changes something emits the entry in the transaction of the change; it travels by
outbox to auth-audit, which chains it. An action that is not in `CRITICAL_OPERATIONS` can't be written.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Self
from uuid import uuid4

from kairos_contracts.auth.v1 import AuditActor, AuditEntryRecordedV1
from kairos_contracts.permissions import Actor

CRITICAL_OPERATIONS = frozenset(
    {
        "access.denied",
        "api_key.created",
        "api_key.revoked",
        "bot.created",
        "bot.updated",
        "bot.deleted",
        "budget.created",
        "budget.updated",
        "budget.closed",
        "dead_letter.replayed",
        "cache.ttl_changed",
        "cache.purged",
        "deployment.created",
        "deployment.updated",
        "deployment.deleted",
        "ledger.adjusted",
        "ledger.exported",
        "ledger.reconciled",
        "ledger.reversed",
        "prices.imported",
        "price.updated",
        "quota.created",
        "quota.updated",
        "quota.deleted",
        "route.created",
        "route.updated",
        "route.deleted",
        "team.created",
        "member.created",
        "member.role_changed",
        "member.password_changed",
        "member.removed",
        "organisation.created",
        "project.created",
        "session.created",
        "session.failed",
        "session.ended",
        "suspense.released",
        "audit.exported",
        "audit.verified",
    }
)


class UndeclaredOperation(ValueError):  # noqa: N818 - reads as the fact it states
    """The action is not in CRITICAL_OPERATIONS; declare it there before a service writes it."""


@dataclass(frozen=True)
class AuditContext:
    """Who acts, through what, in which request."""

    actor: AuditActor
    via: Literal["rest", "ws", "mcp", "cli", "worker"]
    request_id: str | None = None
    trace_id: str | None = None
    ip: str | None = None

    @classmethod
    def of_actor(
        cls,
        actor: Actor,
        *,
        via: Literal["rest", "ws", "mcp", "cli", "worker"],
        request_id: str | None = None,
        trace_id: str | None = None,
        ip: str | None = None,
    ) -> Self:
        who = AuditActor(kind=actor.kind, id=actor.id, display=actor.display)
        return cls(actor=who, via=via, request_id=request_id, trace_id=trace_id, ip=ip)

    @classmethod
    def system(cls, service: str) -> Self:
        return cls(actor=AuditActor(kind="system", id=service, display=service), via="worker")

    def entry(
        self,
        action: str,
        target: str,
        *,
        outcome: Literal["allowed", "denied", "failed"] = "allowed",
        reason: str | None = None,
        before: dict[str, Any] | None = None,
        after: dict[str, Any] | None = None,
    ) -> AuditEntryRecordedV1:
        """An entry about one operation. Raises UndeclaredOperation."""
        if action not in CRITICAL_OPERATIONS:
            raise UndeclaredOperation(action)
        return AuditEntryRecordedV1(
            entry_id=uuid4(),
            occurred_at=datetime.now(UTC),
            actor=self.actor,
            via=self.via,
            action=action,
            target=target,
            outcome=outcome,
            reason=reason,
            request_id=self.request_id,
            trace_id=self.trace_id,
            ip=self.ip,
            before=before,
            after=after,
        )
