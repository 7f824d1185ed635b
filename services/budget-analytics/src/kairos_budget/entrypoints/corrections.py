"""/accounting/adjustments, /reversals: entries that correct the books; what was written stays."""

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from kairos_budget.application.adjust_ledger import (
    Adjustment,
    MoreThanSettled,
    NotReversible,
    UnknownAttempt,
    UnknownPeriod,
)
from kairos_budget.application.define_budget import UnknownBudget
from kairos_budget.domain.money import MAX_NANO
from kairos_budget.entrypoints.amounts import Amount
from kairos_budget.entrypoints.use_cases import Cases
from kairos_contracts.permissions import Permission
from kairos_web import CurrentContext, CurrentOrganisation, Problem, requires

Reason = Annotated[str, Field(min_length=3, max_length=500)]


class CorrectionIn(BaseModel):
    """`amount_nano_usd` is signed: above zero charges, below zero gives back. `moment` names the period."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    budget_id: UUID
    amount_nano_usd: Annotated[int, Field(ge=-MAX_NANO, le=MAX_NANO)]
    moment: datetime | None = None
    reason: Reason


class ReversalIn(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    attempt_id: UUID
    reason: Reason


class AdjustmentOut(BaseModel):
    id: UUID
    kind: str
    amount: Amount
    period_ids: list[UUID]
    attempt_id: UUID | None
    reason: str

    @classmethod
    def of(cls, made: Adjustment) -> Self:
        return cls(
            id=made.id,
            kind=made.kind.value,
            amount=Amount.of(made.amount),
            period_ids=list(made.period_ids),
            attempt_id=made.attempt_id,
            reason=made.reason,
        )


router = APIRouter(prefix="/accounting", tags=["accounting"])
adjust = requires(Permission.LEDGER_ADJUST)


@router.post("/adjustments", status_code=201, dependencies=[adjust])
async def correct(
    cases: Cases, body: CorrectionIn, organisation_id: CurrentOrganisation, context: CurrentContext
) -> AdjustmentOut:
    """A new entry that charges or gives back what no attempt explains, with its reason in the audit log."""
    if not body.amount_nano_usd:
        raise Problem(422, "nothing_to_adjust", "An adjustment moves something")
    if body.moment is not None and body.moment.tzinfo is None:
        raise Problem(422, "invalid_moment", "A moment carries its offset")
    try:
        made = await cases.correct_settled(
            organisation_id,
            body.budget_id,
            amount=body.amount_nano_usd,
            moment=body.moment,
            reason=body.reason,
            context=context,
        )
    except UnknownBudget as error:
        raise Problem(404, "budget_not_found", "There is no such budget") from error
    except UnknownPeriod as error:
        raise Problem(409, "period_not_found", "The budget has no open books for that moment") from error
    except MoreThanSettled as error:
        raise Problem(409, "more_than_settled", "No more can be given back than was settled") from error
    return AdjustmentOut.of(made)


@router.post("/reversals", status_code=201, dependencies=[adjust])
async def reverse(
    cases: Cases, body: ReversalIn, organisation_id: CurrentOrganisation, context: CurrentContext
) -> AdjustmentOut:
    """Give back what one attempt cost, to every budget that bore it, once. Its usage stays as it was."""
    try:
        made = await cases.reverse_attempt(
            organisation_id, body.attempt_id, reason=body.reason, context=context
        )
    except UnknownAttempt as error:
        raise Problem(404, "attempt_not_found", "There is no such attempt") from error
    except (NotReversible, MoreThanSettled) as error:
        raise Problem(
            409, "not_reversible", "It cost no budget anything that still counts, or was reversed"
        ) from error
    return AdjustmentOut.of(made)
