"""Make and list teams."""

from dataclasses import dataclass
from uuid import UUID, uuid4

from kairos_auth.application.ports import Clock, Transactions
from kairos_auth.application.records import Team
from kairos_contracts.audit import AuditContext


@dataclass(frozen=True)
class CreateTeam:
    transactions: Transactions
    clock: Clock

    async def __call__(self, organisation_id: UUID, name: str, context: AuditContext) -> Team:
        """Raises AlreadyExists."""
        team = Team(uuid4(), organisation_id, name, self.clock())
        async with self.transactions.scoped(organisation_id) as transaction:
            await transaction.teams.add(team)
            transaction.emit(
                context.entry("team.created", f"team:{team.id}", after={"name": name}), organisation_id
            )
        return team


@dataclass(frozen=True)
class ListTeams:
    transactions: Transactions

    async def __call__(self, organisation_id: UUID, limit: int, after: UUID | None) -> list[Team]:
        async with self.transactions.scoped(organisation_id) as transaction:
            return await transaction.teams.page(limit, after)
