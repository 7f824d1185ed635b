"""Attempts of HTTP callers: reported in batches in the background, so that no request waits for a broker."""

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol
from uuid import UUID

import orjson

from kairos_contracts.llm.v1 import UsageBatchRecordedV1
from kairos_contracts.message import Envelope
from kairos_router.adapters.buffer import Buffer
from kairos_router.application.ports import JournalFull, ProviderReply
from kairos_router.application.usage import usage_fields
from kairos_router.domain.attempt import Attempt, Settlement
from kairos_router.domain.identifiers import new_id
from kairos_telemetry import current_traceparent

SOURCE: Final = "llm-router"
# A batch leaves when it has this many records, or when its first one has waited for this long.
MOST_RECORDS: Final = 250
LONGEST_WAIT_S: Final = 0.05


class Publishes(Protocol):
    """The part of the bus used here; it returns when the broker has confirmed."""

    def publish_prepared(self, *, headers: Mapping[str, Any], body: bytes) -> Awaitable[None]: ...


@dataclass(slots=True)
class _Open:
    """The records of one organisation that wait for company, as JSON. One trace stands for all."""

    records: list[bytes] = field(default_factory=list)
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """A message as it goes out. Sent again, it is the same message with the same id."""

    headers: Mapping[str, str]
    body: bytes
    size: int


class UsageJournal:
    """See Journal. Usage that a crash takes with it is found as the unreported rest of its lease."""

    def __init__(self, bus: Publishes, *, capacity: int = 10_000) -> None:
        self._bus = bus
        self._capacity = capacity
        self._waiting = 0
        self._open: dict[UUID, _Open] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.buffer: Buffer[Batch] = Buffer("usage", self._publish, capacity)

    @property
    def full(self) -> bool:
        """Whether as many records wait for the broker as may."""
        return self._waiting >= self._capacity

    async def dispatched(self, attempt: Attempt) -> None:
        if self._waiting >= self._capacity:
            raise JournalFull(str(attempt.attempt_id))

    async def failed(self, attempt: Attempt, settlement: Settlement) -> None:
        self.abandoned(attempt, settlement)

    async def answered(
        self,
        attempt: Attempt,
        settlement: Settlement,
        reply: ProviderReply | None,  # noqa: ARG002 - the caller has it; here only the money is written down
    ) -> None:
        self.abandoned(attempt, settlement)

    def abandoned(self, attempt: Attempt, settlement: Settlement) -> None:
        self.note(attempt.hold.caller.scope.organisation_id, usage_fields(attempt, settlement))

    def note(self, organisation_id: UUID, fields: Mapping[str, Any]) -> None:
        """Report the fields of a UsageRecordedV1."""
        batch = self._open.get(organisation_id)
        if batch is None:
            batch = self._open[organisation_id] = _Open()
        # Encoded one by one and not all at the end, which would make a request in between wait.
        batch.records.append(orjson.dumps(fields))
        batch.traceparent = batch.traceparent or current_traceparent()
        self._waiting += 1
        if len(batch.records) >= MOST_RECORDS:
            self._close(organisation_id)
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LONGEST_WAIT_S, self.close_batches)

    def note_if_room(self, organisation_id: UUID, fields: Mapping[str, Any]) -> None:
        """As `note`, for what moves no money: it is lost first while the broker is away for long."""
        if not self.full:
            self.note(organisation_id, fields)

    def close_batches(self) -> None:
        """Let go out what waits for company."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for organisation_id in tuple(self._open):
            self._close(organisation_id)

    async def flush(self, grace: float) -> int:
        """Send what is left for up to `grace` seconds; returns how many batches remain."""
        self.close_batches()
        return await self.buffer.flush(grace)

    def _close(self, organisation_id: UUID) -> None:
        waiting = self._open.pop(organisation_id)
        batch_id = new_id()
        envelope = Envelope(
            id=batch_id,
            source=SOURCE,
            type=UsageBatchRecordedV1.TYPE,
            subject=str(batch_id),
            time=datetime.now(UTC),
            organisation_id=organisation_id,
            traceparent=waiting.traceparent,
        )
        body = b'{"batch_id":"%b","records":[%b]}' % (str(batch_id).encode(), b",".join(waiting.records))
        self.buffer.add(Batch(envelope.headers(), body, len(waiting.records)))

    async def _publish(self, batch: Batch) -> None:
        await self._bus.publish_prepared(headers=batch.headers, body=batch.body)
        self._waiting -= batch.size
