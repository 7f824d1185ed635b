"""Leave an entry in the audit log before the books leave the house."""

from dataclasses import dataclass
from uuid import UUID

from kairos_budget.application.ports import Money
from kairos_budget.domain.span import Span
from kairos_contracts.audit import AuditContext


@dataclass(frozen=True, slots=True)
class NoteExport:
    money: Money

    async def __call__(self, organisation_id: UUID, form: str, span: Span, context: AuditContext) -> None:
        facts = {"format": form, "from": span.starts_at.isoformat(), "to": span.ends_at.isoformat()}
        async with self.money.tenant(organisation_id) as tx:
            tx.emit(
                context.entry("ledger.exported", f"organisation:{organisation_id}", after=facts),
                organisation_id=organisation_id,
            )
