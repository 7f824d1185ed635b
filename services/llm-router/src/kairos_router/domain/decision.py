"""Why a request was refused: what was tried, and which budget said no."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from kairos_router.domain.ask import Caller


@dataclass(frozen=True, slots=True)
class RefusedStep:
    """One rung of the ladder that did not fit. Amounts in nano-USD."""

    deployment: str
    max_tokens: int
    hold_nano_usd: int
    remaining_nano_usd: int
    limit_nano_usd: int
    scope: str
    budget_id: UUID | None
    budget_decision_id: UUID | None


@dataclass(frozen=True, slots=True)
class Decision:
    """A refusal, kept so that its id in the answer leads to the reasons."""

    decision_id: UUID
    completion_id: UUID
    caller: Caller
    model: str
    code: str
    decided_at: datetime
    steps: tuple[RefusedStep, ...]
