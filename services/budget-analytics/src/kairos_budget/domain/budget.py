"""A budget, the scopes it can limit, and the calendar periods it counts in."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple
from uuid import UUID

DEFAULT_THRESHOLDS: Final = (50, 80, 100)
# The start of a `total` period: it has begun for every moment a budget can see.
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Scope(StrEnum):
    ORGANISATION = "organisation"
    PROJECT = "project"
    BOT = "bot"
    TEAM = "team"
    CONTACT = "contact"
    API_KEY = "api_key"
    MODEL = "model"


class PeriodKind(StrEnum):
    DAY = "day"
    MONTH = "month"
    TOTAL = "total"


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


@dataclass(frozen=True, slots=True)
class Bounds:
    """Start inclusive, end exclusive; `ends_at` is None when the period never ends."""

    starts_at: datetime
    ends_at: datetime | None

    def contains(self, moment: datetime) -> bool:
        return self.starts_at <= moment and (self.ends_at is None or moment < self.ends_at)


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit on what one scope may spend per period. `version` counts the changes of the definition.

    `model` is the name behind `scope_id` when a model is limited and was given by its name.
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

    @property
    def key(self) -> ScopeKey:
        return ScopeKey(self.organisation_id, self.scope, self.scope_id)


def bounds(kind: PeriodKind, moment: datetime) -> Bounds:
    """The calendar period of `kind` that holds `moment`, in UTC."""
    day = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if kind is PeriodKind.DAY:
        return Bounds(day, day + timedelta(days=1))
    if kind is PeriodKind.MONTH:
        first = day.replace(day=1)
        # 32 days after the first is always in the next month.
        return Bounds(first, (first + timedelta(days=32)).replace(day=1))
    return Bounds(EPOCH, None)


def applicable(budgets: Iterable[Budget], chain: ScopeChain) -> tuple[Budget, ...]:
    """The active budgets that limit any scope of the chain."""
    keys = set(chain.scopes())
    return tuple(budget for budget in budgets if budget.active and budget.key in keys)
