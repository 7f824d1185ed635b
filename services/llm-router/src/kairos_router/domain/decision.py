"""Why a request was refused: what was tried, and which budget said no."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from kairos_router.domain.ask import Caller

OVER_BUDGET = "over_budget"
NO_PRICE = "no_price"


@dataclass(frozen=True, slots=True)
class RefusedStep:
    """One way to answer that was not possible. Amounts in nano-USD.

    `reason` is over_budget, no_price, or in words what the deployment lacks.
    """

    deployment: str
    max_tokens: int
    hold_nano_usd: int
    remaining_nano_usd: int = 0
    limit_nano_usd: int = 0
    scope: str = ""
    budget_id: UUID | None = None
    budget_decision_id: UUID | None = None
    reason: str = OVER_BUDGET


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
