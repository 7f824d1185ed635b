"""The permission matrix as data, and the one decision everything asks: `authorize`.

REST routes, WebSocket topics, command lines and consumers all go through `authorize`.
What is not granted here is denied. The console's role table is generated from `ROLE_GRANTS`.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal
from uuid import UUID


class Permission(StrEnum):
    BOTS_READ = "bots.read"
    BOTS_WRITE = "bots.write"
    CONVERSATIONS_READ = "conversations.read"
    CONVERSATIONS_WRITE = "conversations.write"
    COMPLETIONS_CREATE = "completions.create"
    MODELS_READ = "models.read"
    MODELS_WRITE = "models.write"
    QUOTAS_READ = "quotas.read"
    QUOTAS_WRITE = "quotas.write"
    CACHE_WRITE = "cache.write"
    BUDGETS_READ = "budgets.read"
    BUDGETS_WRITE = "budgets.write"
    SPEND_READ = "spend.read"
    LEDGER_READ = "ledger.read"
    LEDGER_RECONCILE = "ledger.reconcile"
    LEDGER_ADJUST = "ledger.adjust"
    MEMBERS_READ = "members.read"
    MEMBERS_WRITE = "members.write"
    KEYS_READ = "keys.read"
    KEYS_WRITE = "keys.write"
    PROJECTS_READ = "projects.read"
    PROJECTS_WRITE = "projects.write"
    AUDIT_READ = "audit.read"
    AUDIT_VERIFY = "audit.verify"
    EVENTS_READ = "events.read"
    HEALTH_READ = "health.read"
    DEAD_LETTERS_READ = "dead_letters.read"
    DEAD_LETTERS_REPLAY = "dead_letters.replay"
    PROFILE_READ = "profile.read"
    LEASES_MANAGE = "leases.manage"
    KEYS_INTROSPECT = "keys.introspect"


class Role(StrEnum):
    ADMIN = "admin"
    DEVELOPER = "developer"
    VIEWER = "viewer"


# Only services hold these; no member or key ever does, whatever its role or scopes say.
SERVICE_ONLY = frozenset({Permission.LEASES_MANAGE, Permission.KEYS_INTROSPECT})

_VIEWER = frozenset(
    {
        Permission.BOTS_READ,
        Permission.CONVERSATIONS_READ,
        Permission.MODELS_READ,
        Permission.QUOTAS_READ,
        Permission.BUDGETS_READ,
        Permission.SPEND_READ,
        Permission.MEMBERS_READ,
        Permission.PROJECTS_READ,
        Permission.EVENTS_READ,
        Permission.HEALTH_READ,
        Permission.PROFILE_READ,
    }
)
_DEVELOPER = _VIEWER | {
    Permission.BOTS_WRITE,
    Permission.CONVERSATIONS_WRITE,
    Permission.COMPLETIONS_CREATE,
    Permission.LEDGER_READ,
    Permission.KEYS_READ,
    Permission.KEYS_WRITE,
    Permission.DEAD_LETTERS_READ,
}
_ADMIN = frozenset(Permission) - SERVICE_ONLY

ROLE_GRANTS: dict[Role, frozenset[Permission]] = {
    Role.VIEWER: _VIEWER,
    Role.DEVELOPER: frozenset(_DEVELOPER),
    Role.ADMIN: _ADMIN,
}

SERVICE_GRANTS: dict[str, frozenset[Permission]] = {
    "bot-worker": frozenset({Permission.KEYS_INTROSPECT}),
    "llm-router": frozenset({Permission.KEYS_INTROSPECT, Permission.LEASES_MANAGE}),
    "budget-analytics": frozenset({Permission.KEYS_INTROSPECT}),
    "auth-audit": frozenset({Permission.KEYS_INTROSPECT}),
    "observability": frozenset({Permission.KEYS_INTROSPECT, Permission.HEALTH_READ}),
}


@dataclass(frozen=True)
class Actor:
    """A caller someone vouched for.

    A member has a role; an API key has its creator's role narrowed by `scopes`; a service has its
    grants. `organisation_id` is None for services, which act for whichever tenant the work names.
    """

    kind: Literal["member", "api_key", "service"]
    id: str
    display: str = ""
    organisation_id: UUID | None = None
    role: Role | None = None
    scopes: frozenset[Permission] | None = None
    project_id: UUID | None = None
    team_id: UUID | None = None
    session_id: UUID | None = field(default=None, compare=False)


def authorize(actor: Actor, permission: Permission, *, organisation_id: UUID | None = None) -> bool:
    """Whether the actor may use the permission, on a resource of `organisation_id` when one is named.

    A resource of another tenant is always refused; the web layer turns that into 404, not 403.
    """
    if actor.kind == "service":
        return permission in SERVICE_GRANTS.get(actor.id, frozenset())
    if actor.role is None or actor.organisation_id is None:
        return False
    if organisation_id is not None and organisation_id != actor.organisation_id:
        return False
    granted = ROLE_GRANTS[actor.role]
    if actor.scopes is not None:
        granted &= actor.scopes
    return permission in granted
