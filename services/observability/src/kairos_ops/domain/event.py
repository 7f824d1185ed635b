"""One event as the store keeps it and the feed shows it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID


@dataclass(frozen=True)
class FeedEvent:
    """Metadata and masked payload of one message. `organisation_id` None: of the installation itself."""

    id: UUID
    type: str
    source: str
    subject: str
    time: datetime
    organisation_id: UUID | None
    causation_id: UUID | None
    trace_id: str | None
    data: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        return {
            "id": str(self.id),
            "type": self.type,
            "source": self.source,
            "subject": self.subject,
            "time": self.time.isoformat(),
            "organisation_id": _text(self.organisation_id),
            "causation_id": _text(self.causation_id),
            "trace_id": self.trace_id,
            "data": self.data,
        }


@dataclass(frozen=True)
class Position:
    """A place in the event store: rows are ordered by the time of recording, then by id."""

    recorded_at: datetime
    id: UUID


@dataclass(frozen=True)
class StoredEvent:
    event: FeedEvent
    position: Position


def trace_id_of(traceparent: str | None) -> str | None:
    """The trace id inside a W3C `traceparent`, or None when there is none."""
    parts = (traceparent or "").split("-")
    return parts[1] if len(parts) >= 4 and len(parts[1]) == 32 else None  # noqa: PLR2004 - W3C format


def _text(value: UUID | None) -> str | None:
    return str(value) if value else None
