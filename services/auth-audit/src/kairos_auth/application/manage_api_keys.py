"""Make, list and revoke API keys."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

from kairos_auth.application.ports import Clock, Transaction, Transactions
from kairos_auth.application.records import ApiKey
from kairos_auth.domain.errors import MemberRequired, NotFound, ScopeExceedsRole
from kairos_auth.domain.fingerprints import Fingerprints
from kairos_contracts.audit import AuditContext
from kairos_contracts.auth.v1 import AccessChangedV1
from kairos_contracts.credentials import API_KEY_PREFIX, new_api_key
from kairos_contracts.permissions import Actor, Permission, Role, authorize

_HINT_LENGTH = len(API_KEY_PREFIX) + 4


@dataclass(frozen=True)
class KeyOrder:
    """What the caller asks for. `scopes` None means everything the member's role has."""

    name: str
    scopes: Collection[Permission] | None = None
    project_id: UUID | None = None
    expires_at: datetime | None = None
    team_id: UUID | None = None


@dataclass(frozen=True)
class CreateApiKey:
    transactions: Transactions
    fingerprints: Fingerprints
    clock: Clock

    async def __call__(
        self, organisation_id: UUID, actor: Actor, order: KeyOrder, context: AuditContext
    ) -> tuple[ApiKey, str]:
        """The key's record and, this once, the key. Raises MemberRequired, ScopeExceedsRole, NotFound."""
        if actor.kind != "member":
            raise MemberRequired
        if order.scopes is not None and not all(authorize(actor, scope) for scope in order.scopes):
            raise ScopeExceedsRole
        secret = new_api_key()
        key = ApiKey(
            id=uuid4(),
            organisation_id=organisation_id,
            member_id=UUID(actor.id),
            name=order.name,
            hint=secret[:_HINT_LENGTH],
            key_hash=self.fingerprints.of("api_key", secret),
            scopes=None if order.scopes is None else frozenset(order.scopes),
            project_id=order.project_id,
            created_at=self.clock(),
            expires_at=order.expires_at,
            team_id=order.team_id,
        )
        async with self.transactions.scoped(organisation_id) as transaction:
            if key.project_id is not None and await transaction.projects.by_id(key.project_id) is None:
                raise NotFound("project")
            if key.team_id is not None and await transaction.teams.by_id(key.team_id) is None:
                raise NotFound("team")
            await transaction.api_keys.add(key)
            after = {
                "name": key.name,
                "scopes": None if key.scopes is None else sorted(key.scopes),
                "project_id": str(key.project_id) if key.project_id else None,
                "team_id": str(key.team_id) if key.team_id else None,
                "expires_at": key.expires_at.isoformat() if key.expires_at else None,
            }
            transaction.emit(
                context.entry("api_key.created", f"api_key:{key.id}", after=after), organisation_id
            )
        return key, secret


@dataclass(frozen=True)
class ListApiKeys:
    transactions: Transactions

    async def __call__(
        self, organisation_id: UUID, actor: Actor, limit: int, after: UUID | None
    ) -> list[ApiKey]:
        """An admin sees every key, others see their own."""
        async with self.transactions.scoped(organisation_id) as transaction:
            owner = None if actor.role is Role.ADMIN else await _owner(transaction, actor)
            return await transaction.api_keys.page(limit, after, owner)


@dataclass(frozen=True)
class RevokeApiKey:
    transactions: Transactions
    clock: Clock

    async def __call__(
        self, organisation_id: UUID, actor: Actor, key_id: UUID, context: AuditContext
    ) -> None:
        """Raises NotFound, also for a key the caller can't see. Revoking twice does nothing."""
        async with self.transactions.scoped(organisation_id) as transaction:
            key = await transaction.api_keys.by_id(key_id)
            if key is None:
                raise NotFound("api key")
            if actor.role is not Role.ADMIN and key.member_id != await _owner(transaction, actor):
                raise NotFound("api key")
            if await transaction.api_keys.revoke(key_id, self.clock()):
                transaction.emit(AccessChangedV1(kind="api_key", subject_id=key_id), organisation_id)
                transaction.emit(
                    context.entry("api_key.revoked", f"api_key:{key_id}", before={"name": key.name}),
                    organisation_id,
                )


async def _owner(transaction: Transaction, actor: Actor) -> UUID:
    """The member behind the caller, who may use a key of theirs."""
    if actor.kind == "api_key":
        key = await transaction.api_keys.by_id(UUID(actor.id))
        if key is None:
            raise NotFound("api key")
        return key.member_id
    return UUID(actor.id)
