"""Answer a queued completion: attempts are written down before they go out, and the end is told once."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import UUID

from kairos_contracts.llm.v1 import (
    CompletionCompletedV1,
    CompletionFailedV1,
    CompletionRequestV1,
    UsageRecordedV1,
)
from kairos_router.application.choose_deployment import NoneAvailable
from kairos_router.application.complete_chat import CompleteChat
from kairos_router.application.explain_failure import Explanation, explain
from kairos_router.application.limit_requests import Quotas
from kairos_router.application.ports import BudgetUnavailable, CatalogueUnknown, Journal, ProviderReply
from kairos_router.application.quota_ports import QuotaExceeded, QuotasUnknown
from kairos_router.application.record_decision import decision_of
from kairos_router.application.usage import usage_event
from kairos_router.domain.ask import Ask, Caller, tokens_in
from kairos_router.domain.attempt import Attempt, Settlement
from kairos_router.domain.decision import Decision
from kairos_router.domain.lease import Scope

QUEUE = "llm-router.completions"
# A completion that waits for budgets or for a provider to rest is looked at again after this.
POSTPONE_S = 1.0


class ClaimLost(Exception):  # noqa: N818 - reads as the fact it states
    """Another worker has taken the completion over: what this one has found out is not written."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A completion this process may work on until the claim expires. `token` fences its writes."""

    completion_id: UUID
    organisation_id: UUID
    request: CompletionRequestV1
    token: UUID
    epoch: int
    message_id: UUID
    traceparent: str | None


class CompletionStore(Protocol):
    """Completions and attempts in PostgreSQL. Writes under a claim raise ClaimLost when it is not ours."""

    @property
    def wake(self) -> asyncio.Event:
        """Set when a completion is due at once."""
        ...

    async def accept(
        self, request: CompletionRequestV1, organisation_id: UUID, message_id: UUID, traceparent: str | None
    ) -> None:
        """Store a command once, however often it is delivered."""
        ...

    async def claim(self, limit: int) -> list[Claim]:
        """Take up to `limit` due completions, those of dead workers too."""
        ...

    async def renew(self, claims: Sequence[Claim]) -> set[UUID]:
        """Prolong claims; returns the completions that are still ours."""
        ...

    async def dispatched(self, claim: Claim, attempt: Attempt) -> None: ...

    async def attempt_failed(
        self, claim: Claim, attempt: Attempt, settlement: Settlement, usage: UsageRecordedV1
    ) -> None: ...

    async def complete(
        self,
        claim: Claim,
        attempt: Attempt,
        settlement: Settlement,
        usage: UsageRecordedV1,
        event: CompletionCompletedV1,
    ) -> None:
        """Attempt, completion and both events in one transaction."""
        ...

    async def fail(self, claim: Claim, event: CompletionFailedV1, decision: Decision | None) -> None: ...

    async def postpone(self, claim: Claim, seconds: float) -> None: ...


def ask_of(request: CompletionRequestV1) -> Ask:
    payload: dict[str, Any] = {
        "model": request.model,
        "messages": [message.model_dump() for message in request.messages],
    }
    if request.temperature is not None:
        payload["temperature"] = request.temperature
    size = len(json.dumps(payload, ensure_ascii=False).encode())
    return Ask(model=request.model, payload=payload, size=size, max_tokens=request.max_tokens)


def _content(reply: ProviderReply) -> tuple[str, str]:
    choice = reply.document["choices"][0]
    message = choice.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    return (content if isinstance(content, str) else ""), str(choice.get("finish_reason") or "stop")


def _waits(error: Exception) -> float | None:
    """Seconds after which the same completion may go better; None when waiting is no use."""
    if isinstance(error, QuotaExceeded):
        return max(POSTPONE_S, error.retry_after) if error.retry_after >= 0 else None
    passing = BudgetUnavailable | CatalogueUnknown | NoneAvailable | QuotasUnknown
    return POSTPONE_S if isinstance(error, passing) else None


class _QueuedJournal:
    """Writes each step of the attempts of one claim to the store."""

    def __init__(self, store: CompletionStore, claim: Claim) -> None:
        self._store = store
        self._claim = claim

    async def dispatched(self, attempt: Attempt) -> None:
        await self._store.dispatched(self._claim, attempt)

    async def failed(self, attempt: Attempt, settlement: Settlement) -> None:
        await self._store.attempt_failed(self._claim, attempt, settlement, usage_event(attempt, settlement))

    async def answered(self, attempt: Attempt, settlement: Settlement, reply: ProviderReply | None) -> None:
        if reply is None:
            raise TypeError("queued completions are not streamed")
        request = self._claim.request
        content, finish_reason = _content(reply)
        event = CompletionCompletedV1(
            completion_id=request.completion_id,
            turn_id=request.turn_id,
            conversation_id=request.conversation_id,
            bot_id=request.bot_id,
            epoch=request.epoch,
            content=content,
            finish_reason=finish_reason,
            model=str(reply.document.get("model") or attempt.deployment.model),
            deployment=attempt.deployment.name,
            input_tokens=settlement.usage.input_tokens,
            output_tokens=settlement.usage.output_tokens,
            cost_nano_usd=settlement.cost,
            degraded=attempt.degraded,
            latency_ms=settlement.latency_ms,
        )
        await self._store.complete(self._claim, attempt, settlement, usage_event(attempt, settlement), event)

    def abandoned(self, attempt: Attempt, settlement: Settlement) -> None:
        """The row stays dispatched; whoever claims the completion next makes it unknown."""


class AnswerCompletion:
    def __init__(
        self,
        complete: CompleteChat,
        store: CompletionStore,
        *,
        quotas: Quotas | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._complete = complete
        self._quotas = quotas
        self._store = store
        self._now = now

    async def __call__(self, claim: Claim) -> str:
        """Work on one claim to its end, and return the outcome: completed, postponed or an error code.

        Raises ClaimLost, and whatever nobody foresaw; then the claim runs out and is taken anew.
        """
        request = claim.request
        scope = Scope(
            claim.organisation_id,
            request.project_id,
            request.bot_id,
            request.team_id,
            request.contact_id,
        )
        caller = Caller(scope, priority=request.priority, affinity=request.conversation_id)
        journal = _QueuedJournal(self._store, claim)
        try:
            await self._within_quotas(ask_of(request), caller, claim, journal)
        except Exception as error:
            explanation = explain(error)
            if explanation is None:
                raise
            return await self._end(claim, caller, error, explanation)
        return "completed"

    async def _within_quotas(self, ask: Ask, caller: Caller, claim: Claim, journal: Journal) -> None:
        deadline = claim.request.deadline
        if self._quotas is None:
            await self._complete(ask, caller, claim.completion_id, journal, deadline=deadline)
            return
        entry = self._quotas.known(caller, "chat") or await self._quotas.admit(caller, "chat")
        used: int | None = None
        try:
            waiting = entry.count(tokens_in(ask.size) + (ask.max_tokens or 0))
            if waiting is not None:
                await waiting
            answer = await self._complete(ask, caller, claim.completion_id, journal, deadline=deadline)
            used = answer.settlement.usage.input_tokens + answer.settlement.usage.output_tokens
        finally:
            entry.leave(used)

    async def _end(self, claim: Claim, caller: Caller, error: Exception, explanation: Explanation) -> str:
        waits = _waits(error)
        left = (claim.request.deadline - self._now()).total_seconds()
        if waits is not None and left > 0:
            await self._store.postpone(claim, min(waits, left))
            return "postponed"
        decision = decision_of(
            error, explanation.code, caller, claim.completion_id, claim.request.model, self._now()
        )
        request = claim.request
        event = CompletionFailedV1(
            completion_id=request.completion_id,
            turn_id=request.turn_id,
            conversation_id=request.conversation_id,
            bot_id=request.bot_id,
            epoch=request.epoch,
            code=explanation.code,
            message=explanation.message,
            decision_id=decision.decision_id if decision else None,
        )
        await self._store.fail(claim, event, decision)
        return explanation.code
