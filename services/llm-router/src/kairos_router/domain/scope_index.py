"""Which scopes of an organisation have a budget, so that requests that differ in others share a lease."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Self
from uuid import UUID

from kairos_contracts.llm.v1 import Priority
from kairos_contracts.scopes import model_scope_id
from kairos_router.domain.lease import Scope

FIELDS: Final = ("project_id", "bot_id", "team_id", "contact_id", "api_key_id", "model_id")
# What a lease of a higher priority may be missing, a lease of a lower one may have: money is money.
LOWER: Final[Mapping[Priority, tuple[Priority, ...]]] = {
    "interactive": ("normal", "batch"),
    "normal": ("batch",),
    "batch": (),
}
# The ids of a chain's scopes that have a budget, in the order of FIELDS, and the priority where one keeps
# reserves. Most organisations limit few kinds of scopes, so most keys are this one:
Key = tuple[UUID | None, UUID | None, UUID | None, UUID | None, UUID | None, UUID | None, Priority | None]
PLAIN: Final[Key] = (None, None, None, None, None, None, None)


def key_of(scope: Scope, priority: Priority | None) -> Key:
    """The key of a lease that was granted for exactly this chain."""
    return (
        scope.project_id,
        scope.bot_id,
        scope.team_id,
        scope.contact_id,
        scope.api_key_id,
        scope.model_id,
        priority,
    )


@dataclass(frozen=True, slots=True)
class ScopeIndex:
    """As budget-analytics told it. `reserved` are the ids whose budgets keep reserves for priorities."""

    version: int
    members: tuple[frozenset[UUID], ...] = (frozenset(),) * len(FIELDS)
    reserved: frozenset[UUID] = field(default_factory=frozenset)

    @classmethod
    def of(cls, version: int, scopes: Iterable[tuple[str, UUID, bool]]) -> Self:
        """`scopes`: kind, id, and whether a budget of it keeps reserves."""
        found: dict[str, set[UUID]] = {name: set() for name in FIELDS}
        reserved = set()
        for kind, scope_id, keeps_reserves in scopes:
            if kind != "organisation":
                found.setdefault(f"{kind}_id", set()).add(scope_id)
            if keeps_reserves:
                reserved.add(scope_id)
        return cls(version, tuple(frozenset(found[name]) for name in FIELDS), frozenset(reserved))

    def key(self, scope: Scope, model: str, priority: Priority) -> Key:
        """Under which key leases for this chain are found."""
        projects, bots, teams, contacts, keys, models = self.members
        project_id = scope.project_id if projects and scope.project_id in projects else None
        bot_id = scope.bot_id if bots and scope.bot_id in bots else None
        team_id = scope.team_id if teams and scope.team_id in teams else None
        contact_id = scope.contact_id if contacts and scope.contact_id in contacts else None
        api_key_id = scope.api_key_id if keys and scope.api_key_id in keys else None
        model_id = model_scope_id(model) if models else None
        found = (
            project_id,
            bot_id,
            team_id,
            contact_id,
            api_key_id,
            model_id if model_id in models else None,
        )
        if self.reserved and not self.reserved.isdisjoint((scope.organisation_id, *found)):
            return (*found, priority)
        return (*found, None)
