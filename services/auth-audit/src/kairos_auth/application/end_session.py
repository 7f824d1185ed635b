"""Sign out: the session is over on every replica within a second."""

from dataclasses import dataclass
from uuid import UUID

from kairos_auth.application.ports import Clock, Transactions
from kairos_contracts.audit import AuditContext
from kairos_contracts.auth.v1 import AccessChangedV1


@dataclass(frozen=True)
class EndSession:
    transactions: Transactions
    clock: Clock

    async def __call__(self, organisation_id: UUID, session_id: UUID, context: AuditContext) -> None:
        """Ending an ended session does nothing."""
        async with self.transactions.scoped(organisation_id) as transaction:
            if await transaction.sessions.end(session_id, self.clock()):
                transaction.emit(AccessChangedV1(kind="session", subject_id=session_id), organisation_id)
                transaction.emit(context.entry("session.ended", f"session:{session_id}"), organisation_id)
