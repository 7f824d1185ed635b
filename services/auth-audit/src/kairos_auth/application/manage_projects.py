"""Make and list projects."""

from dataclasses import dataclass
from uuid import UUID, uuid4

from kairos_auth.application.ports import Clock, Transactions
from kairos_auth.application.records import Project
from kairos_contracts.audit import AuditContext


@dataclass(frozen=True)
class CreateProject:
    transactions: Transactions
    clock: Clock

    async def __call__(self, organisation_id: UUID, name: str, context: AuditContext) -> Project:
        """Raises AlreadyExists."""
        project = Project(uuid4(), organisation_id, name, self.clock())
        async with self.transactions.scoped(organisation_id) as transaction:
            await transaction.projects.add(project)
            transaction.emit(
                context.entry("project.created", f"project:{project.id}", after={"name": name}),
                organisation_id,
            )
        return project


@dataclass(frozen=True)
class ListProjects:
    transactions: Transactions

    async def __call__(self, organisation_id: UUID, limit: int, after: UUID | None) -> list[Project]:
        async with self.transactions.scoped(organisation_id) as transaction:
            return await transaction.projects.page(limit, after)
