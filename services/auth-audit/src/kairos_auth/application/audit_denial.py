"""Put a refused request on record."""

from dataclasses import dataclass
from uuid import UUID

from kairos_auth.application.ports import Transactions
from kairos_contracts.audit import AuditContext


@dataclass(frozen=True)
class AuditDenial:
    transactions: Transactions

    async def __call__(
        self, context: AuditContext, permission: str, path: str, organisation_id: UUID | None
    ) -> None:
        async with self.transactions.system() as transaction:
            entry = context.entry("access.denied", path, outcome="denied", reason=permission)
            transaction.emit(entry, organisation_id)
