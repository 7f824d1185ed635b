"""One transaction: state, outbox rows and inbox rows that are kept together or not at all."""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from kairos_contracts.message import Envelope, Message
from kairos_persistence.outbox import OutboxRow
from kairos_telemetry import current_traceparent


class _Default(Enum):
    UNIT = "the unit of work's organisation"
    SPAN = "the current span"


_UNIT: Final = _Default.UNIT
_SPAN: Final = _Default.SPAN

_FIRST_TIME = text("SELECT inbox_first_time(:consumer, :message_id)")


class UnitOfWork:
    """Made by `Database.unit_of_work`, which commits it. Not for two tasks at once."""

    def __init__(
        self,
        session: AsyncSession,
        *,
        service: str,
        organisation_id: UUID | None,
        causation_id: UUID | None = None,
    ) -> None:
        self.session = session
        self.organisation_id = organisation_id
        self.causation_id = causation_id
        self._service = service
        self._outbox: list[OutboxRow] = []
        self._callbacks: list[Callable[[], None]] = []

    def emit(
        self,
        message: Message,
        *,
        organisation_id: UUID | _Default | None = _UNIT,
        causation_id: UUID | None = None,
        traceparent: str | _Default | None = _SPAN,
        message_id: UUID | None = None,
    ) -> UUID:
        """Hand over a message; its outbox row is written by the commit of this transaction.

        Order among messages of one aggregate is the order of these calls. Returns the message's id.
        """
        owner = self.organisation_id if isinstance(organisation_id, _Default) else organisation_id
        envelope = Envelope.of(
            message,
            source=self._service,
            organisation_id=owner,
            causation_id=causation_id or self.causation_id,
            traceparent=current_traceparent() if isinstance(traceparent, _Default) else traceparent,
            message_id=message_id,
        )
        self._outbox.append(OutboxRow.of(envelope, message))
        return envelope.id

    async def first_time(self, consumer: str, message_id: UUID) -> bool:
        """Note in this transaction that the consumer handles the message; False when it already did.

        A second handler of the same message waits here until the first one's transaction ends.
        """
        answer = await self.session.execute(_FIRST_TIME, {"consumer": consumer, "message_id": message_id})
        return bool(answer.scalar_one())

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call this once the transaction is durable; it must not raise and must not wait."""
        self._callbacks.append(callback)

    @property
    def outbox(self) -> Sequence[OutboxRow]:
        """What has been emitted so far."""
        return tuple(self._outbox)

    @property
    def callbacks(self) -> Sequence[Callable[[], None]]:
        return tuple(self._callbacks)
