"""Attempts of HTTP callers: reported by event in the background, so that no request waits for a broker."""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from kairos_contracts.message import Message
from kairos_router.adapters.buffer import Buffer
from kairos_router.application.ports import JournalFull, ProviderReply
from kairos_router.application.usage import usage_event
from kairos_router.domain.attempt import Attempt, Settlement
from kairos_telemetry import current_traceparent


class Publishes(Protocol):
    """The part of the bus used here; it returns when the broker has confirmed."""

    def publish(
        self,
        message: Message,
        *,
        organisation_id: UUID | None,
        traceparent: str | None = None,
        message_id: UUID | None = None,
    ) -> Awaitable[None]: ...


@dataclass(frozen=True, slots=True)
class Report:
    attempt: Attempt
    settlement: Settlement
    traceparent: str | None


class UsageJournal:
    """See Journal. Usage that a crash takes with it is found as the unreported rest of its lease."""

    def __init__(self, bus: Publishes, *, capacity: int = 10_000) -> None:
        self._bus = bus
        self.buffer: Buffer[Report] = Buffer("usage", self._publish, capacity)

    async def dispatched(self, attempt: Attempt) -> None:
        if self.buffer.full:
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
        self.buffer.add(Report(attempt, settlement, current_traceparent()))

    async def _publish(self, report: Report) -> None:
        # The attempt's id makes a repeated publication the same message.
        await self._bus.publish(
            usage_event(report.attempt, report.settlement),
            organisation_id=report.attempt.hold.caller.scope.organisation_id,
            traceparent=report.traceparent,
            message_id=report.attempt.attempt_id,
        )
