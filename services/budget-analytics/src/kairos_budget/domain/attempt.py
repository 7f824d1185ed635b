"""One physical provider call as the money sees it."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from kairos_budget.domain.budget import ScopeChain


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


class SpendKey(NamedTuple):
    """One row of the hourly spend table."""

    organisation_id: UUID
    hour: datetime
    model: str
    bot_id: UUID | None
    project_id: UUID | None


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
    hour = attempt.started_at.replace(minute=0, second=0, microsecond=0)
    chain = attempt.chain
    return SpendKey(chain.organisation_id, hour, attempt.model, chain.bot_id, chain.project_id)
