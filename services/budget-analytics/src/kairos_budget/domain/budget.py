"""A budget, and the scopes it can limit."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple, Self
from uuid import UUID

from kairos_budget.domain.calendar import Bounds, PeriodKind, bounds
from kairos_budget.domain.priority import NO_RESERVES, Reserves

DEFAULT_THRESHOLDS: Final = (50, 80, 100)


class Scope(StrEnum):
    ORGANISATION = "organisation"
    PROJECT = "project"
    BOT = "bot"
    TEAM = "team"
    CONTACT = "contact"
    API_KEY = "api_key"
    MODEL = "model"


class ScopeKey(NamedTuple):
    """What a budget limits, within its organisation."""

    organisation_id: UUID
    scope: Scope
    scope_id: UUID


@dataclass(frozen=True, slots=True)
class ScopeChain:
    """The scopes one request spends in; a lease covers all of them at once.

    `model_id` is made of the model's name: kairos_contracts.scopes.model_scope_id.
    """

    organisation_id: UUID
    project_id: UUID | None = None
    bot_id: UUID | None = None
    team_id: UUID | None = None
    contact_id: UUID | None = None
    api_key_id: UUID | None = None
    model_id: UUID | None = None

    def ids(self) -> tuple[UUID | None, ...]:
        return (self.organisation_id, *(found for _, found in self.members()))

    def members(self) -> tuple[tuple[Scope, UUID | None], ...]:
        """Every kind of scope but the organisation, with the chain's own of that kind."""
        return (
            (Scope.PROJECT, self.project_id),
            (Scope.BOT, self.bot_id),
            (Scope.TEAM, self.team_id),
            (Scope.CONTACT, self.contact_id),
            (Scope.API_KEY, self.api_key_id),
            (Scope.MODEL, self.model_id),
        )

    def scopes(self) -> tuple[ScopeKey, ...]:
        organisation = ScopeKey(self.organisation_id, Scope.ORGANISATION, self.organisation_id)
        members = ((scope, found) for scope, found in self.members() if found is not None)
        return (organisation, *(ScopeKey(self.organisation_id, scope, found) for scope, found in members))

    def reduced(self, keys: Collection[ScopeKey]) -> Self:
        """The chain without scopes that have no budget: requests that differ in those share a lease."""
        kept = (
            found if found and ScopeKey(self.organisation_id, scope, found) in keys else None
            for scope, found in self.members()
        )
        return type(self)(self.organisation_id, *kept)

    def within(self, wider: Self) -> bool:
        """Whether every scope of it is one of `wider`."""
        return set(self.scopes()) <= set(wider.scopes())

    def lacks(self, scope: Scope) -> bool:
        """Whether requests on it may spend in a scope of this kind that it does not name."""
        return any(found is None for each, found in self.members() if each is scope)


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit on what one scope may spend per period. `version` counts the changes of the definition.

    `model` is the name behind `scope_id` when a model is limited and was given by its name. `window_hours` is
    the length of a rolling period. `time_zone` is an IANA name; calendar periods begin at its midnights.
    """

    id: UUID
    organisation_id: UUID
    name: str
    scope: Scope
    scope_id: UUID
    limit_nano: int
    period: PeriodKind
    time_zone: str
    thresholds: tuple[int, ...]
    active: bool
    version: int
    created_at: datetime
    model: str | None = None
    window_hours: int | None = None
    reserves: Reserves = NO_RESERVES

    @property
    def key(self) -> ScopeKey:
        return ScopeKey(self.organisation_id, self.scope, self.scope_id)

    def bounds_at(self, moment: datetime) -> Bounds:
        return bounds(self.period, moment, self.time_zone)


def applicable(budgets: Iterable[Budget], chain: ScopeChain) -> tuple[Budget, ...]:
    """The active budgets that limit any scope of the chain."""
    keys = set(chain.scopes())
    return tuple(budget for budget in budgets if budget.active and budget.key in keys)
