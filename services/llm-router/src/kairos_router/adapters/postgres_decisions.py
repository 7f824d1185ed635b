"""Refusals, so that the id in an answer leads to the reasons."""

from dataclasses import asdict
from datetime import datetime
from uuid import UUID

from sqlalchemy import select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col

from kairos_persistence import Database, UnitOfWork
from kairos_router.adapters.tables import DecisionRow
from kairos_router.domain.ask import Caller
from kairos_router.domain.decision import Decision, DecisionFilter, RefusedStep
from kairos_router.domain.lease import Scope


async def insert_decision(unit: UnitOfWork, decision: Decision) -> None:
    steps = [
        {name: str(value) if isinstance(value, UUID) else value for name, value in asdict(step).items()}
        for step in decision.steps
    ]
    scope = decision.caller.scope
    row = {
        "decision_id": decision.decision_id,
        "organisation_id": scope.organisation_id,
        "project_id": scope.project_id,
        "bot_id": scope.bot_id,
        "api_key_id": decision.caller.api_key_id,
        "completion_id": decision.completion_id,
        "model": decision.model,
        "code": decision.code,
        "steps": steps,
        "decided_at": decision.decided_at,
    }
    # A buffered decision may be written twice when its first commit had no answer.
    await unit.session.execute(insert(DecisionRow).values(row).on_conflict_do_nothing())


def _identifier(value: object) -> UUID | None:
    return UUID(str(value)) if value else None


def _decision(row: DecisionRow) -> Decision:
    steps = tuple(
        RefusedStep(
            **step
            | {
                "budget_id": _identifier(step["budget_id"]),
                "budget_decision_id": _identifier(step["budget_decision_id"]),
            }
        )
        for step in row.steps
    )
    caller = Caller(Scope(row.organisation_id, row.project_id, row.bot_id), row.api_key_id)
    return Decision(row.decision_id, row.completion_id, caller, row.model, row.code, row.decided_at, steps)


class PostgresDecisions:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, decision: Decision) -> None:
        async with self._database.unit_of_work(decision.caller.scope.organisation_id) as unit:
            await insert_decision(unit, decision)

    async def find(self, organisation_id: UUID, decision_id: UUID) -> Decision | None:
        async with self._database.unit_of_work(organisation_id) as unit:
            rows = await unit.session.execute(
                select(DecisionRow).where(col(DecisionRow.decision_id) == decision_id)
            )
            row = rows.scalars().first()
            return _decision(row) if row is not None else None

    async def page(
        self,
        organisation_id: UUID,
        wanted: DecisionFilter,
        limit: int,
        before: tuple[datetime, UUID] | None,
    ) -> list[Decision]:
        """Refusals that match, the newest first, older than the position `before`."""
        query = (
            select(DecisionRow)
            .order_by(col(DecisionRow.decided_at).desc(), col(DecisionRow.decision_id).desc())
            .limit(limit)
        )
        for name, value in asdict(wanted).items():
            if value is not None:
                query = query.where(getattr(DecisionRow, name) == value)
        if before is not None:
            query = query.where(tuple_(col(DecisionRow.decided_at), col(DecisionRow.decision_id)) < before)
        async with self._database.unit_of_work(organisation_id) as unit:
            rows = await unit.session.execute(query)
            return [_decision(row) for row in rows.scalars()]
