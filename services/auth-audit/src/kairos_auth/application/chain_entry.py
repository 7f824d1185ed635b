"""Put an audit entry that a service wrote into its chain, once."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from kairos_auth.application.ports import Clock, Transactions
from kairos_contracts.audit_chain import Link, stream_of
from kairos_contracts.auth.v1 import AuditEntryRecordedV1
from kairos_contracts.canonical_json import plain

CONSUMER = "auth-audit.entries"


def rfc3339(moment: datetime) -> str:
    """UTC with microseconds: always the same length, so that text order is time order."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def content_of(message: AuditEntryRecordedV1, source: str) -> dict[str, Any]:
    """The entry as it is hashed, stored, shown and exported."""
    content: dict[str, Any] = plain(message.model_dump(mode="json"))
    content["occurred_at"] = rfc3339(message.occurred_at)
    content["source"] = source
    return content


@dataclass(frozen=True)
class ChainEntry:
    transactions: Transactions
    clock: Clock

    async def __call__(
        self,
        message: AuditEntryRecordedV1,
        *,
        message_id: UUID,
        organisation_id: UUID | None,
        source: str,
    ) -> Link | None:
        """The chained entry, or None when this message was chained before."""
        stream = stream_of(organisation_id)
        async with self.transactions.system() as transaction:
            if not await transaction.first_time(CONSUMER, message_id):
                return None
            head = await transaction.audit.lock_stream(stream)
            # A clock that goes back must not look like tampering: time in a chain stands still then.
            recorded_at = max(self.clock(), head.recorded_at or datetime.min.replace(tzinfo=UTC))
            link = Link.after(
                stream,
                head.size + 1,
                head.hash,
                recorded_at=rfc3339(recorded_at),
                entry=content_of(message, source),
            )
            await transaction.audit.append(link, organisation_id, recorded_at)
        return link
