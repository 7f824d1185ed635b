"""The decision log: why requests were refused, in figures and in words."""

from datetime import datetime
from typing import Annotated, Any, Protocol
from uuid import UUID

from fastapi import FastAPI, Query
from pydantic import BaseModel

from kairos_contracts.permissions import Permission
from kairos_router.domain.decision import Decision, DecisionFilter, in_words, step_in_words, what_to_do
from kairos_web import CurrentOrganisation, Page, Paged, PageQuery, Problem, encode_cursor, requires


class DecisionLog(Protocol):
    """The part of PostgresDecisions used here."""

    async def find(self, organisation_id: UUID, decision_id: UUID) -> Decision | None: ...

    async def page(
        self,
        organisation_id: UUID,
        wanted: DecisionFilter,
        limit: int,
        before: tuple[datetime, UUID] | None,
    ) -> list[Decision]:
        """The newest first."""
        ...


class StepView(BaseModel):
    """One way to answer that was not possible. Amounts in nano-USD; `says` is the same in words."""

    deployment: str
    reason: str
    max_tokens: int
    hold_nano_usd: int
    remaining_nano_usd: int
    limit_nano_usd: int
    scope: str
    budget_id: UUID | None
    budget_decision_id: UUID | None
    says: str


class DecisionView(BaseModel):
    decision_id: UUID
    completion_id: UUID
    project_id: UUID | None
    bot_id: UUID | None
    api_key_id: UUID | None
    model: str
    code: str
    decided_at: datetime
    says: str
    steps: list[StepView]
    what_to_do: list[str]


def _view(decision: Decision) -> DecisionView:
    scope = decision.caller.scope
    return DecisionView(
        decision_id=decision.decision_id,
        completion_id=decision.completion_id,
        project_id=scope.project_id,
        bot_id=scope.bot_id,
        api_key_id=decision.caller.api_key_id,
        model=decision.model,
        code=decision.code,
        decided_at=decision.decided_at,
        says=in_words(decision),
        steps=[
            StepView(
                deployment=step.deployment,
                reason=step.reason,
                max_tokens=step.max_tokens,
                hold_nano_usd=step.hold_nano_usd,
                remaining_nano_usd=step.remaining_nano_usd,
                limit_nano_usd=step.limit_nano_usd,
                scope=step.scope,
                budget_id=step.budget_id,
                budget_decision_id=step.budget_decision_id,
                says=step_in_words(step),
            )
            for step in decision.steps
        ],
        what_to_do=list(what_to_do(decision)),
    )


def _position(page: PageQuery) -> tuple[datetime, UUID] | None:
    """Raises Problem 400 for a cursor of another list."""
    position = page.position()
    if position is None:
        return None
    try:
        at, decision_id = datetime.fromisoformat(position["at"]), UUID(position["id"])
    except (KeyError, TypeError, ValueError) as error:
        raise Problem(400, "invalid_cursor", "The cursor is not one this list gave out") from error
    if at.tzinfo is None:
        raise Problem(400, "invalid_cursor", "The cursor is not one this list gave out")
    return at, decision_id


def add_decisions(app: FastAPI, log: DecisionLog) -> None:
    guard: dict[str, Any] = {"dependencies": [requires(Permission.BUDGETS_READ)], "tags": ["decisions"]}

    @app.get("/decisions", **guard)
    async def list_decisions(
        organisation_id: CurrentOrganisation,
        page: Paged,
        code: Annotated[str | None, Query(max_length=100)] = None,
        model: Annotated[str | None, Query(max_length=200)] = None,
        bot_id: UUID | None = None,
        api_key_id: UUID | None = None,
        project_id: UUID | None = None,
    ) -> Page[DecisionView]:
        """Refusals, the newest first."""
        wanted = DecisionFilter(code, model, bot_id, api_key_id, project_id)
        found = await log.page(organisation_id, wanted, page.limit + 1, _position(page))
        items, last = found[: page.limit], found[page.limit - 1] if len(found) > page.limit else None
        return Page(
            items=[_view(decision) for decision in items],
            next_cursor=encode_cursor({"at": last.decided_at.isoformat(), "id": str(last.decision_id)})
            if last
            else None,
        )

    @app.get("/decisions/{decision_id}", **guard)
    async def read_decision(decision_id: UUID, organisation_id: CurrentOrganisation) -> DecisionView:
        """Why a request was refused: every way that was tried, which budget said no, and what helps."""
        found = await log.find(organisation_id, decision_id)
        if found is None:
            raise Problem(404, "decision_not_found", "There is no such decision")
        return _view(found)
