"""Completions and attempts in PostgreSQL: claimed with a lease, written under its token."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import CursorResult, and_, delete, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col

from kairos_contracts.llm.v1 import (
    CompletionCompletedV1,
    CompletionFailedV1,
    CompletionRequestV1,
    UsageRecordedV1,
)
from kairos_faults import apoint
from kairos_persistence import Database, DatabaseUnavailable, UnitOfWork
from kairos_router.adapters.postgres_decisions import insert_decision
from kairos_router.adapters.tables import AttemptRow, CompletionRow
from kairos_router.application.answer_completion import QUEUE, Claim, ClaimLost
from kairos_router.domain.attempt import Attempt, Settlement
from kairos_router.domain.decision import Decision

RETRY_S = 0.2
PURGE_BATCH = 5_000


def _touched(result: Any) -> int:
    return result.rowcount if isinstance(result, CursorResult) else 0


class PostgresCompletions:
    """See CompletionStore. `claim_ttl` seconds after its last renewal a claim may be taken by others.

    `wake` is set when a completion is due at once, so that a worker need not wait for its next poll.
    """

    def __init__(self, database: Database, *, claim_ttl: float = 15.0) -> None:
        self._database = database
        self._claim_ttl = claim_ttl
        self.wake = asyncio.Event()

    async def accept(
        self, request: CompletionRequestV1, organisation_id: UUID, message_id: UUID, traceparent: str | None
    ) -> None:
        """Store a command once, however often it is delivered."""
        async with self._database.unit_of_work(organisation_id, causation_id=message_id) as unit:
            if not await unit.first_time(QUEUE, message_id):
                return
            row = {
                "completion_id": request.completion_id,
                "organisation_id": organisation_id,
                "message_id": message_id,
                "traceparent": traceparent,
                "model": request.model,
                "request": request.model_dump(mode="json"),
                "deadline": request.deadline,
                "due_at": func.now(),
                "created_at": func.now(),
            }
            await unit.session.execute(insert(CompletionRow).values(row).on_conflict_do_nothing())
            unit.after_commit(self.wake.set)

    async def claim(self, limit: int) -> list[Claim]:
        """Take up to `limit` due completions, those of dead workers too.

        An attempt such a worker left behind may have reached the provider: it becomes unknown, is
        reported as such, and its hold counts until somebody reconciles it.
        """
        token = uuid4()
        async with self._database.system_unit_of_work() as unit:
            claims = await self._take(unit, token, limit)
            await self._bury([claim for claim in claims if claim.epoch > 1], unit)
        if claims:
            await apoint("router.completion.claimed")
        return claims

    async def renew(self, claims: Sequence[Claim]) -> set[UUID]:
        """Prolong claims; returns the completions that are still ours."""
        ours = or_(
            *(
                and_(
                    col(CompletionRow.completion_id) == claim.completion_id,
                    col(CompletionRow.claim_token) == claim.token,
                )
                for claim in claims
            )
        )
        async with self._database.system_unit_of_work() as unit:
            rows = await unit.session.execute(
                update(CompletionRow)
                .where(ours, col(CompletionRow.state) == "running")
                .values(claimed_until=self._until())
                .returning(col(CompletionRow.completion_id))
            )
            return set(rows.scalars())

    async def purge(self, older_than_days: int) -> int:
        """Remove ended completions with their attempts; their money lives on in the ledger."""
        async with self._database.system_unit_of_work() as unit:
            old = (
                select(col(CompletionRow.completion_id))
                .where(
                    col(CompletionRow.ended_at) < func.now() - func.make_interval(0, 0, 0, older_than_days)
                )
                .limit(PURGE_BATCH)
            )
            gone = await unit.session.execute(
                delete(CompletionRow).where(col(CompletionRow.completion_id).in_(old))
            )
            return _touched(gone)

    async def dispatched(self, claim: Claim, attempt: Attempt) -> None:
        deployment, caller = attempt.deployment, attempt.hold.caller
        async with self._database.unit_of_work(claim.organisation_id) as unit:
            await self._hold_claim(unit, claim)
            unit.session.add(
                AttemptRow(
                    attempt_id=attempt.attempt_id,
                    organisation_id=claim.organisation_id,
                    completion_id=claim.completion_id,
                    claim_epoch=claim.epoch,
                    deployment=deployment.name,
                    provider=deployment.provider,
                    model=deployment.model,
                    price_version=deployment.price.version,
                    max_tokens=attempt.max_tokens,
                    lease_id=attempt.hold.lease_id,
                    project_id=caller.scope.project_id,
                    bot_id=caller.scope.bot_id,
                    hold_nano_usd=attempt.hold.amount,
                    started_at=attempt.started_at,
                )
            )
        await apoint("router.attempt.dispatched")

    async def attempt_failed(
        self, claim: Claim, attempt: Attempt, settlement: Settlement, usage: UsageRecordedV1
    ) -> None:
        async def write() -> None:
            async with self._database.unit_of_work(
                claim.organisation_id, causation_id=claim.message_id
            ) as unit:
                if await self._end_attempt(unit, attempt, settlement):
                    unit.emit(usage)

        await self._insist(write)

    async def complete(
        self,
        claim: Claim,
        attempt: Attempt,
        settlement: Settlement,
        usage: UsageRecordedV1,
        event: CompletionCompletedV1,
    ) -> None:
        await apoint("router.attempt.answered")

        async def write() -> None:
            async with self._database.unit_of_work(
                claim.organisation_id, causation_id=claim.message_id
            ) as unit:
                if not await self._end_completion(unit, claim, "done", "completed"):
                    return
                if not await self._end_attempt(unit, attempt, settlement):
                    raise ClaimLost(str(claim.completion_id))
                unit.emit(usage)
                unit.emit(event)

        await self._insist(write)

    async def fail(self, claim: Claim, event: CompletionFailedV1, decision: Decision | None) -> None:
        async def write() -> None:
            async with self._database.unit_of_work(
                claim.organisation_id, causation_id=claim.message_id
            ) as unit:
                if not await self._end_completion(unit, claim, "failed", event.code):
                    return
                if decision is not None:
                    await insert_decision(unit, decision)
                unit.emit(event)

        await self._insist(write)

    async def postpone(self, claim: Claim, seconds: float) -> None:
        async with self._database.unit_of_work(claim.organisation_id) as unit:
            await unit.session.execute(
                update(CompletionRow)
                .where(*_ours(claim))
                .values(
                    state="pending",
                    claim_token=None,
                    claimed_until=None,
                    due_at=func.now() + text("make_interval(secs => :seconds)").bindparams(seconds=seconds),
                )
            )

    async def _take(self, unit: UnitOfWork, token: UUID, limit: int) -> list[Claim]:
        due = (
            select(col(CompletionRow.completion_id))
            .where(
                or_(
                    and_(col(CompletionRow.state) == "pending", col(CompletionRow.due_at) <= func.now()),
                    and_(
                        col(CompletionRow.state) == "running", col(CompletionRow.claimed_until) < func.now()
                    ),
                )
            )
            .order_by(col(CompletionRow.due_at))
            .limit(limit)
            .with_for_update(skip_locked=True)
            .cte("due")
        )
        rows = await unit.session.execute(
            update(CompletionRow)
            .where(col(CompletionRow.completion_id) == due.c.completion_id)
            .values(
                state="running",
                claim_token=token,
                claim_epoch=col(CompletionRow.claim_epoch) + 1,
                claimed_until=self._until(),
            )
            .returning(CompletionRow)
            .execution_options(synchronize_session=False)
        )
        return [
            Claim(
                completion_id=row.completion_id,
                organisation_id=row.organisation_id,
                request=CompletionRequestV1.model_validate(row.request),
                token=token,
                epoch=row.claim_epoch,
                message_id=row.message_id,
                traceparent=row.traceparent,
            )
            for row in rows.scalars()
        ]

    async def _bury(self, claims: Sequence[Claim], unit: UnitOfWork) -> None:
        by_id = {claim.completion_id: claim for claim in claims}
        if not by_id:
            return
        left = await unit.session.execute(
            update(AttemptRow)
            .where(col(AttemptRow.completion_id).in_(list(by_id)), col(AttemptRow.state) == "dispatched")
            .values(state="unknown", ended_at=func.now(), cost_nano_usd=0, status=0)
            .returning(AttemptRow)
            .execution_options(synchronize_session=False)
        )
        for row in left.scalars():
            claim = by_id[row.completion_id]
            unit.emit(
                _unknown(row),
                organisation_id=row.organisation_id,
                causation_id=claim.message_id,
                traceparent=claim.traceparent,
            )

    async def _hold_claim(self, unit: UnitOfWork, claim: Claim) -> None:
        """Raises ClaimLost. The row lock keeps others from taking the claim within this transaction."""
        row = await unit.session.execute(
            select(col(CompletionRow.completion_id)).where(*_ours(claim)).with_for_update()
        )
        if row.first() is None:
            raise ClaimLost(str(claim.completion_id))

    async def _end_completion(self, unit: UnitOfWork, claim: Claim, state: str, outcome: str) -> bool:
        """End it under the claim. False when an earlier try of this very write was committed after all."""
        ended = await unit.session.execute(
            update(CompletionRow)
            .where(*_ours(claim))
            .values(state=state, outcome=outcome, request=None, ended_at=func.now())
        )
        if _touched(ended):
            return True
        row = await unit.session.execute(
            select(col(CompletionRow.state), col(CompletionRow.claim_token)).where(
                col(CompletionRow.completion_id) == claim.completion_id
            )
        )
        if row.first() != (state, claim.token):
            raise ClaimLost(str(claim.completion_id))
        return False

    async def _end_attempt(self, unit: UnitOfWork, attempt: Attempt, settlement: Settlement) -> bool:
        """False when the attempt has ended already; who ended it has reported it too."""
        ended = await unit.session.execute(
            update(AttemptRow)
            .where(col(AttemptRow.attempt_id) == attempt.attempt_id, col(AttemptRow.state) == "dispatched")
            .values(
                state=settlement.outcome,
                cost_nano_usd=settlement.cost,
                input_tokens=settlement.usage.input_tokens,
                output_tokens=settlement.usage.output_tokens,
                estimated=settlement.usage.estimated,
                status=settlement.status,
                ended_at=func.now(),
            )
        )
        return bool(_touched(ended))

    async def _insist(self, write: Callable[[], Awaitable[None]]) -> None:
        """What a provider was paid for is worth writing down: try for as long as the claim may live."""
        give_up = time.monotonic() + self._claim_ttl
        while True:
            try:
                await write()
            except DatabaseUnavailable:
                if time.monotonic() > give_up:
                    raise
                await asyncio.sleep(RETRY_S)
            else:
                return

    def _until(self) -> Any:
        return func.now() + text("make_interval(secs => :ttl)").bindparams(ttl=self._claim_ttl)


def _ours(claim: Claim) -> tuple[Any, ...]:
    return (
        col(CompletionRow.completion_id) == claim.completion_id,
        col(CompletionRow.claim_token) == claim.token,
        col(CompletionRow.state) == "running",
    )


def _unknown(row: AttemptRow) -> UsageRecordedV1:
    return UsageRecordedV1(
        attempt_id=row.attempt_id,
        completion_id=row.completion_id,
        lease_id=row.lease_id,
        project_id=row.project_id,
        bot_id=row.bot_id,
        model=row.model,
        deployment=row.deployment,
        provider=row.provider,
        input_tokens=0,
        output_tokens=0,
        hold_nano_usd=row.hold_nano_usd,
        cost_nano_usd=0,
        outcome="unknown",
        price_version=row.price_version,
        status=0,
        streaming=False,
        started_at=row.started_at,
        latency_ms=0,
    )
