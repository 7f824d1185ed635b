"""Make an organisation with its first admin, once."""

from dataclasses import dataclass
from uuid import uuid4

from kairos_auth.application.ports import Clock, PasswordHasher, Transaction, Transactions
from kairos_auth.application.records import Member, Organisation
from kairos_auth.domain.errors import AlreadyExists
from kairos_auth.domain.membership import normal_email
from kairos_auth.domain.passwords import one_time_password
from kairos_contracts.audit import AuditContext
from kairos_contracts.auth.v1 import OrganisationCreatedV1
from kairos_contracts.permissions import Role

_LOCK = "auth bootstrap"


@dataclass(frozen=True)
class Bootstrapped:
    """`password` is None when the admin was there already."""

    organisation: Organisation
    admin: Member
    password: str | None


@dataclass(frozen=True)
class BootstrapOrganisation:
    transactions: Transactions
    hasher: PasswordHasher
    clock: Clock

    async def __call__(self, name: str, email: str) -> Bootstrapped:
        """Repeating it changes nothing. Raises AlreadyExists when the address is in another organisation."""
        address = normal_email(email)
        password = one_time_password()
        password_hash = await self.hasher.hash(password)
        async with self.transactions.system() as transaction:
            await transaction.lock(_LOCK)
            organisation = await self._organisation(transaction, name)
            known = await transaction.members.by_email(address)
            if known is not None:
                if known.organisation_id != organisation.id:
                    raise AlreadyExists(address)
                return Bootstrapped(organisation, known, None)
            admin = Member(
                id=uuid4(),
                organisation_id=organisation.id,
                email=address,
                display=address.partition("@")[0],
                role=Role.ADMIN,
                password_hash=password_hash,
                must_change_password=True,
                created_at=self.clock(),
            )
            await transaction.members.add(admin)
            after = {"email": address, "role": Role.ADMIN.value}
            context = AuditContext.system("auth-audit")
            transaction.emit(
                context.entry("member.created", f"member:{admin.id}", after=after), organisation.id
            )
        return Bootstrapped(organisation, admin, password)

    async def _organisation(self, transaction: Transaction, name: str) -> Organisation:
        known = await transaction.organisations.by_name(name)
        if known is not None:
            return known
        organisation = Organisation(uuid4(), name, self.clock())
        await transaction.organisations.add(organisation)
        transaction.emit(OrganisationCreatedV1(organisation_id=organisation.id, name=name), organisation.id)
        context = AuditContext.system("auth-audit")
        transaction.emit(
            context.entry("organisation.created", f"organisation:{organisation.id}", after={"name": name}),
            organisation.id,
        )
        return organisation
