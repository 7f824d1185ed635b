"""One physical provider call as the money sees it."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from kairos_budget.domain.budget import ScopeChain
from kairos_budget.domain.series import Series


class Outcome(StrEnum):
    """settled: its cost is owed. released: nothing reached the provider. unknown: its whole hold counts."""

    SETTLED = "settled"
    RELEASED = "released"
    UNKNOWN = "unknown"


class ResolvedBy(StrEnum):
    USAGE = "usage"
    RECONCILIATION = "reconciliation"
    RELEASE = "release"


@dataclass(frozen=True, slots=True)
class AttemptHold:
    """What an unknown attempt keeps in suspense of one period."""

    period_id: UUID
    amount: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """`cost` is 0 until the outcome is settled. `holds` is empty unless the outcome is unknown."""

    id: UUID
    chain: ScopeChain
    lease_id: UUID | None
    outcome: Outcome
    resolved_by: ResolvedBy
    hold: int
    cost: int
    model: str
    input_tokens: int
    output_tokens: int
    price_version: str
    started_at: datetime
    holds: tuple[AttemptHold, ...] = ()
    series_id: UUID | None = None

    @property
    def series(self) -> UUID:
        """Where analytics count it: as reported, or by what is known of an attempt nobody reported."""
        return self.series_id or self.own_series().id

    def own_series(self) -> Series:
        chain = self.chain
        return Series(chain.organisation_id, self.model, bot_id=chain.bot_id, project_id=chain.project_id)


@dataclass(frozen=True, slots=True)
class Charge:
    """Whose cost moves. `cause` names it in the keys of its transfers; either an attempt or a posting."""

    cause: str
    lease_id: UUID | None
    attempt_id: UUID | None = None
    posting_id: UUID | None = None
    adjustment_id: UUID | None = None


class SpendKey(NamedTuple):
    """What analytics count a change under."""

    organisation_id: UUID
    minute: datetime
    series_id: UUID


@dataclass(frozen=True, slots=True)
class SpendChange:
    cost: int = 0
    attempts: int = 0
    unknown: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def plus(self, other: "SpendChange") -> "SpendChange":
        return SpendChange(
            self.cost + other.cost,
            self.attempts + other.attempts,
            self.unknown + other.unknown,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
        )


def spend_key(attempt: Attempt) -> SpendKey:
    minute = attempt.started_at.replace(second=0, microsecond=0)
    return SpendKey(attempt.chain.organisation_id, minute, attempt.series)
