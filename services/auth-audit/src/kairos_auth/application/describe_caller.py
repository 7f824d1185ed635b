"""Tell a caller who they are."""

from dataclasses import dataclass
from uuid import UUID

from kairos_auth.application.ports import Transactions
from kairos_auth.application.records import Member, Organisation
from kairos_auth.domain.errors import NotFound
from kairos_contracts.permissions import Actor


@dataclass(frozen=True)
class DescribeCaller:
    transactions: Transactions

    async def __call__(self, organisation_id: UUID, actor: Actor) -> tuple[Organisation, Member | None]:
        """The organisation, and the member when the caller is one."""
        async with self.transactions.scoped(organisation_id) as transaction:
            organisation = await transaction.organisations.by_id(organisation_id)
            if organisation is None:
                raise NotFound("organisation")
            if actor.kind != "member":
                return organisation, None
            return organisation, await transaction.members.by_id(UUID(actor.id))
