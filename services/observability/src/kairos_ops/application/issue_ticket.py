import secrets

from kairos_contracts.permissions import Actor
from kairos_ops.application.live_feed import subjects_of
from kairos_ops.application.ports import Clock, TicketStore
from kairos_ops.domain.ticket import TICKET_LIFE, Revocations, TicketRefused


class Tickets:
    """Carries an authenticated caller into the opening of a WebSocket, once and within 30 seconds.

    A ticket is refused when its holder's access changed after it was issued, so that a revocation
    can't be outrun between the two requests.
    """

    def __init__(self, store: TicketStore, clock: Clock, revocations: Revocations) -> None:
        self._store = store
        self._clock = clock
        self._revocations = revocations

    async def issue(self, actor: Actor) -> str:
        ticket = secrets.token_urlsafe(32)
        await self._store.put(ticket, actor, self._clock(), int(TICKET_LIFE.total_seconds()))
        return ticket

    async def redeem(self, ticket: str) -> Actor:
        """The caller behind a ticket. Raises TicketRefused."""
        taken = await self._store.take(ticket) if ticket else None
        if taken is None:
            raise TicketRefused
        actor, issued_at = taken
        expired = self._clock() - issued_at > TICKET_LIFE
        if expired or self._revocations.cover(subjects_of(actor), issued_at):
            raise TicketRefused
        return actor

    def revoke(self, subject: str) -> None:
        self._revocations.note(subject, self._clock())
