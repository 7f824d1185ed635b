"""What the use cases need from outside."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from kairos_contracts.auth.v1 import AuditEntryRecordedV1
from kairos_contracts.permissions import Actor
from kairos_ops.domain.dead_letter import DeadLetter
from kairos_ops.domain.event import FeedEvent, Position, StoredEvent
from kairos_ops.domain.feed import Audience
from kairos_ops.domain.health import Probe, ServiceState

Clock = Callable[[], datetime]
Redactor = Callable[[Any], Any]


class EventStore(Protocol):
    async def add(self, event: FeedEvent) -> None:
        """Store once, however often the message is delivered. Returns after the commit."""

    async def older(
        self, audience: Audience, *, type_prefix: str, before: Position | None, limit: int
    ) -> list[StoredEvent]:
        """Newest first."""

    async def newer(
        self, audience: Audience, *, type_prefix: str, after: Position, limit: int
    ) -> list[StoredEvent]:
        """Oldest first."""


class DeadLetterStore(Protocol):
    async def keep(self, letter: DeadLetter) -> None:
        """Store, or reopen the row of the same message and queue."""

    async def page(
        self, audience: Audience, *, status: str | None, before: Position | None, limit: int
    ) -> list[DeadLetter]:
        """Last died first."""

    async def get(self, audience: Audience, letter_id: UUID) -> DeadLetter:
        """Raises DeadLetterNotFound."""

    async def mark_replayed(
        self, audience: Audience, letter: DeadLetter, *, by: str, at: datetime, entry: AuditEntryRecordedV1
    ) -> None:
        """Mark the row and emit the audit entry, in one transaction."""


class Replayer(Protocol):
    async def replay(self, letter: DeadLetter) -> None:
        """Publish to the queue the message died in, with its own id. Returns when confirmed."""


class TicketStore(Protocol):
    async def put(self, ticket: str, actor: Actor, issued_at: datetime, life_s: int) -> None: ...

    async def take(self, ticket: str) -> tuple[Actor, datetime] | None:
        """Give the ticket out once."""


class Prober(Protocol):
    async def probe(self, service: str) -> Probe: ...


class HealthBoard(Protocol):
    async def record(self, states: Sequence[ServiceState]) -> None:
        """Write changes and emit their events, on the one replica that holds the watch."""


class FeedObserver(Protocol):
    """Telemetry of the feed; counts only."""

    def connections(self, count: int) -> None: ...

    def published(self, count: int) -> None: ...
