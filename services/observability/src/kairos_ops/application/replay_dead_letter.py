from uuid import UUID

from kairos_contracts.audit import AuditContext
from kairos_contracts.catalogue import queues
from kairos_ops.application.ports import Clock, DeadLetterStore, Replayer
from kairos_ops.domain.dead_letter import DeadLetter
from kairos_ops.domain.feed import Audience


class ReplayRefused(Exception):  # noqa: N818 - reads as the fact it states
    """The message died in a queue that no longer exists, or that lived for one replica; it stays here."""


class ReplayDeadLetter:
    """Publish first, then mark.

    A crash between the two leaves the row open, and replaying it again is harmless because the
    consumer's inbox knows the message id.
    """

    def __init__(self, store: DeadLetterStore, replayer: Replayer, clock: Clock) -> None:
        self._store = store
        self._replayer = replayer
        self._clock = clock

    async def __call__(self, audience: Audience, letter_id: UUID, context: AuditContext) -> DeadLetter:
        letter = await self._store.get(audience, letter_id)
        if letter.queue not in queues():
            raise ReplayRefused(letter.queue)
        await self._replayer.replay(letter)
        entry = context.entry(
            "dead_letter.replayed",
            f"dead_letter:{letter.id}",
            after={"queue": letter.queue, "type": letter.type, "message_id": letter.message_id},
        )
        await self._store.mark_replayed(audience, letter, by=context.actor.id, at=self._clock(), entry=entry)
        return await self._store.get(audience, letter_id)
