"""Add members, change their roles and passwords, remove them."""

from dataclasses import dataclass
from uuid import UUID, uuid4

from kairos_auth.application.ports import Clock, PasswordHasher, Transaction, Transactions
from kairos_auth.application.records import Member
from kairos_auth.domain.errors import BadCredentials, MemberRequired, NotFound
from kairos_auth.domain.membership import normal_email, refuse_losing_last_admin
from kairos_auth.domain.passwords import one_time_password, refuse_weak
from kairos_contracts.audit import AuditContext
from kairos_contracts.auth.v1 import AccessChangedV1
from kairos_contracts.permissions import Actor, Role


@dataclass(frozen=True)
class AddMember:
    transactions: Transactions
    hasher: PasswordHasher
    clock: Clock

    async def __call__(
        self, organisation_id: UUID, email: str, display: str, role: Role, context: AuditContext
    ) -> tuple[Member, str]:
        """The member and, this once, a password that must be changed. Raises AlreadyExists."""
        password = one_time_password()
        member = Member(
            id=uuid4(),
            organisation_id=organisation_id,
            email=normal_email(email),
            display=display,
            role=role,
            password_hash=await self.hasher.hash(password),
            must_change_password=True,
            created_at=self.clock(),
        )
        async with self.transactions.scoped(organisation_id) as transaction:
            await transaction.members.add(member)
            after = {"email": member.email, "role": role.value}
            transaction.emit(
                context.entry("member.created", f"member:{member.id}", after=after), organisation_id
            )
        return member, password


@dataclass(frozen=True)
class ListMembers:
    transactions: Transactions

    async def __call__(self, organisation_id: UUID, limit: int, after: UUID | None) -> list[Member]:
        async with self.transactions.scoped(organisation_id) as transaction:
            return await transaction.members.page(limit, after)


@dataclass(frozen=True)
class ChangeRole:
    transactions: Transactions

    async def __call__(
        self, organisation_id: UUID, member_id: UUID, role: Role, context: AuditContext
    ) -> Member:
        """Raises NotFound, LastAdmin. Takes effect on every replica within a second."""
        async with self.transactions.scoped(organisation_id) as transaction:
            admins = await transaction.members.lock_admins()
            member = await _existing(transaction, member_id)
            if role is member.role:
                return member
            if role is not Role.ADMIN:
                refuse_losing_last_admin(admins, member_id)
            await transaction.members.set_role(member_id, role)
            await _announce(transaction, organisation_id, member_id)
            entry = context.entry(
                "member.role_changed",
                f"member:{member_id}",
                before={"role": member.role.value},
                after={"role": role.value},
            )
            transaction.emit(entry, organisation_id)
            return await _existing(transaction, member_id)


@dataclass(frozen=True)
class RemoveMember:
    transactions: Transactions
    clock: Clock

    async def __call__(self, organisation_id: UUID, member_id: UUID, context: AuditContext) -> None:
        """Ends their sessions and revokes their keys too. Raises NotFound, LastAdmin."""
        now = self.clock()
        async with self.transactions.scoped(organisation_id) as transaction:
            admins = await transaction.members.lock_admins()
            member = await _existing(transaction, member_id)
            refuse_losing_last_admin(admins, member_id)
            await _announce(transaction, organisation_id, member_id)
            for session_id in await transaction.sessions.end_all_of(member_id, now):
                transaction.emit(AccessChangedV1(kind="session", subject_id=session_id), organisation_id)
            for key_id in await transaction.api_keys.live_ids_of(member_id):
                await transaction.api_keys.revoke(key_id, now)
                transaction.emit(
                    context.entry("api_key.revoked", f"api_key:{key_id}", reason="member removed"),
                    organisation_id,
                )
            await transaction.members.remove(member_id, now)
            before = {"email": member.email, "role": member.role.value}
            transaction.emit(
                context.entry("member.removed", f"member:{member_id}", before=before), organisation_id
            )


@dataclass(frozen=True)
class ChangePassword:
    transactions: Transactions
    hasher: PasswordHasher
    clock: Clock

    async def __call__(
        self, organisation_id: UUID, actor: Actor, current: str, new: str, context: AuditContext
    ) -> None:
        """Ends the member's other sessions. Raises MemberRequired, BadCredentials, WeakPassword, Busy."""
        if actor.kind != "member":
            raise MemberRequired
        member_id = UUID(actor.id)
        async with self.transactions.scoped(organisation_id) as transaction:
            member = await _existing(transaction, member_id)
        refuse_weak(new, email=member.email)
        if not await self.hasher.verify(current, member.password_hash):
            raise BadCredentials
        password_hash = await self.hasher.hash(new)
        async with self.transactions.scoped(organisation_id) as transaction:
            await transaction.members.set_password(member_id, password_hash, must_change=False)
            ended = await transaction.sessions.end_all_of(member_id, self.clock(), but=actor.session_id)
            for session_id in ended:
                transaction.emit(AccessChangedV1(kind="session", subject_id=session_id), organisation_id)
            transaction.emit(context.entry("member.password_changed", f"member:{member_id}"), organisation_id)


async def _existing(transaction: Transaction, member_id: UUID) -> Member:
    member = await transaction.members.by_id(member_id)
    if member is None:
        raise NotFound("member")
    return member


async def _announce(transaction: Transaction, organisation_id: UUID, member_id: UUID) -> None:
    """Tell every replica to forget the member and the keys that act with the member's role."""
    transaction.emit(AccessChangedV1(kind="member", subject_id=member_id), organisation_id)
    for key_id in await transaction.api_keys.live_ids_of(member_id):
        transaction.emit(AccessChangedV1(kind="api_key", subject_id=key_id), organisation_id)
