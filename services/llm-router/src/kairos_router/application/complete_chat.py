"""Answer a chat completion: choose, hold, dispatch, settle, and fall back when a provider fails."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TypeVar
from uuid import UUID

from kairos_router.application.choose_deployment import Chooser, Chosen, Circuits, Refused, without
from kairos_router.application.hold_money import Wallet
from kairos_router.application.ports import (
    BudgetUnavailable,
    Fault,
    Journal,
    Provider,
    ProviderCall,
    ProviderFailed,
    ProviderReply,
    TokenCounter,
)
from kairos_router.application.retry_budget import RetryBudgets
from kairos_router.domain.ask import Ask, Caller
from kairos_router.domain.attempt import Attempt, Outcome, Settlement, released, settled, unknown
from kairos_router.domain.catalogue import Choice, Deployment
from kairos_router.domain.identifiers import new_id
from kairos_router.domain.records import record
from kairos_router.domain.selection import NothingFits, fitting, unsure

Waited = TypeVar("Waited")

# A shorter request is not worth counting: its bytes are bound closely enough.
SHORT_BYTES = 4_096


class DeadlineExceeded(Exception):  # noqa: N818 - reads as the fact it states
    """The asker has stopped waiting; no further attempt is made."""


@record
class Answer:
    """`provider_seconds` is the time of the answering attempt, for telling our own overhead."""

    attempt: Attempt
    settlement: Settlement
    reply: ProviderReply
    provider_seconds: float


@dataclass(slots=True)
class Job:
    """One completion while it is worked on: who asks for what, what may still answer, what went wrong.

    `retries` is how often each deployment was tried again.
    """

    ask: Ask
    caller: Caller
    completion_id: UUID
    journal: Journal
    choice: Choice
    candidates: tuple[Deployment, ...]
    deadline: datetime | None = None
    failure: ProviderFailed | None = None
    retries: dict[str, int] = field(default_factory=dict)


def _utc() -> datetime:
    return datetime.now(UTC)


def _content_size(reply: ProviderReply) -> int:
    """Bytes of the answer's text. An answer without any is still charged the margin."""
    choices = reply.document.get("choices")
    if not isinstance(choices, list):
        return len(reply.body)
    messages = [choice.get("message") for choice in choices if isinstance(choice, dict)]
    return sum(len(str(message).encode()) for message in messages if message)


def within(seconds: float | None, waiting: Awaitable[Waited]) -> Awaitable[Waited]:
    """Wait for at most so long. Raises ProviderFailed: the provider was at work, and may charge for it."""
    return waiting if seconds is None else _within(seconds, waiting)


async def _within(seconds: float, waiting: Awaitable[Waited]) -> Waited:
    try:
        async with asyncio.timeout(seconds):
            return await waiting
    except TimeoutError as error:
        raise ProviderFailed(Fault.TIMEOUT, may_have_run=True, detail=f"{seconds:g} s are over") from error


class Dispatcher:
    """What plain and streamed completions share: the next attempt, and what its failure means."""

    def __init__(
        self,
        chooser: Chooser,
        wallet: Wallet,
        circuits: Circuits,
        providers: Mapping[str, Provider],
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = _utc,
        counter: TokenCounter | None = None,
        retries: RetryBudgets | None = None,
    ) -> None:
        self.chooser = chooser
        self.clock = clock
        self.wallet = wallet
        self._wallet = wallet
        self._circuits = circuits
        self._providers = providers
        self._now = now
        self._counter = counter
        self._retries = retries or RetryBudgets()

    def job(
        self,
        ask: Ask,
        caller: Caller,
        completion_id: UUID,
        journal: Journal,
        deadline: datetime | None = None,
    ) -> Job:
        """Raises ModelNotFound, NothingFits, NoneAvailable."""
        options = self.chooser.options(ask, caller)
        route = options.choice.route
        if caller.priority is None:
            caller = Caller(caller.scope, caller.api_key_id, route.priority or "normal", caller.affinity)
        return Job(ask, caller, completion_id, journal, options.choice, options.candidates, deadline)

    async def next_attempt(self, job: Job) -> Attempt:
        """Take the hold of the next attempt and write it down.

        Raises what is left to say when there is none: the last provider's failure, NothingFits, Refused,
        BudgetUnavailable, DeadlineExceeded.
        """
        if job.deadline is not None and self._now() >= job.deadline:
            raise DeadlineExceeded
        if not job.candidates and job.failure is not None:
            raise job.failure
        attempt_id = new_id()
        try:
            chosen = await self._afford(job, attempt_id)
        except (Refused, BudgetUnavailable, NothingFits):
            if job.failure is not None:
                raise job.failure from None
            raise
        attempt = Attempt(
            attempt_id,
            job.completion_id,
            chosen.rung.deployment,
            chosen.rung.max_tokens,
            chosen.rung.degraded,
            chosen.hold,
            job.ask.stream,
            self._now(),
            job.choice.name,
            job.ask.operation,
        )
        try:
            await job.journal.dispatched(attempt)
        except BaseException:
            self._wallet.finish(attempt.hold, "released", 0)
            raise
        self._circuits.tried(attempt.deployment)
        return attempt

    async def _afford(self, job: Job, attempt_id: UUID) -> Chosen:
        """The first rung the budgets allow. Tokens are counted only when that can change the choice."""
        try:
            # The first look needs no coroutine: on a warm lease it is the only one.
            chosen = self.chooser.preferred(
                job.ask, job.caller, job.candidates, attempt_id
            ) or await self.chooser.afford(job.ask, job.caller, job.candidates, attempt_id)
        except Refused:
            if not await self._count(job):
                raise
            return await self.chooser.afford(job.ask, job.caller, job.candidates, attempt_id)
        rung = chosen.rung
        if not (unsure(job.ask, rung.deployment) or (rung.degraded and job.ask.size > SHORT_BYTES)):
            return chosen
        try:
            if not await self._count(job):
                return chosen
        except BaseException:
            self._wallet.finish(chosen.hold, "released", 0)
            raise
        self._wallet.finish(chosen.hold, "released", 0)
        return await self.chooser.afford(job.ask, job.caller, job.candidates, attempt_id)

    async def _count(self, job: Job) -> bool:
        """Count the request's tokens, once; False when there is nothing more to learn. Raises NothingFits."""
        if self._counter is None or job.ask.tokens is not None or job.ask.longest is not None:
            return False
        tokens, tokenizer = await self._counter.count(job.ask.payload, job.candidates[0].tokenizer)
        job.ask = replace(job.ask, tokens=tokens, tokenizer=tokenizer)
        job.candidates = fitting(job.ask, job.candidates)
        return True

    def provider(self, attempt: Attempt) -> Provider:
        return self._providers[attempt.deployment.kind]

    def call(self, job: Job, attempt: Attempt) -> ProviderCall:
        ask = job.ask
        return ProviderCall(
            attempt.deployment,
            ask.payload,
            attempt.max_tokens,
            attempt.attempt_id,
            ask.include_usage,
            ask.operation,
        )

    def elapsed_ms(self, started: float) -> int:
        return int((self.clock() - started) * 1000)

    async def failed(self, job: Job, attempt: Attempt, failure: ProviderFailed, started: float) -> None:
        """Settle a failed attempt. Raises the failure when no other deployment could do better."""
        ending = unknown if failure.may_have_run else released
        settlement = ending(
            status=failure.status, latency_ms=self.elapsed_ms(started), error=failure.fault.value
        )
        self.judge(attempt, failure)
        await self.written(attempt, settlement, job.journal.failed(attempt, settlement))
        job.failure = failure
        if not failure.fault.next:
            raise failure
        if not await self._again(job, attempt, failure):
            job.candidates = without(job.candidates, attempt.deployment)

    async def _again(self, job: Job, attempt: Attempt, failure: ProviderFailed) -> bool:
        """Wait a little and let the same deployment try again, when it and the route's budget allow that."""
        deployment = attempt.deployment
        done = job.retries.get(deployment.uid, 0)
        if done >= deployment.retries or not failure.passing or not self._circuits.allows(deployment):
            return False
        if not self._retries.spend(job.choice.route):
            return False
        job.retries[deployment.uid] = done + 1
        await asyncio.sleep(self._retries.pause(done))
        return True

    async def answered(
        self, job: Job, attempt: Attempt, settlement: Settlement, reply: ProviderReply | None
    ) -> None:
        deployment = attempt.deployment
        self._circuits.succeeded(deployment.uid)
        if not job.choice.plain:
            first = settlement.time_to_first_token_ms
            self._circuits.took(deployment.uid, (settlement.latency_ms if first is None else first) / 1000)
        if deployment.retries:
            self._retries.earn(job.choice.route)
        await self.written(attempt, settlement, job.journal.answered(attempt, settlement, reply))

    async def written(self, attempt: Attempt, settlement: Settlement, writing: Awaitable[None]) -> None:
        """Write the end of an attempt down, then end its hold the same way."""
        try:
            await writing
        except BaseException:
            # Nobody has written down what it cost: the hold counts until somebody finds out.
            self._finish(attempt, "unknown", 0)
            raise
        self._finish(attempt, settlement.outcome, settlement.cost)

    def abandoned(self, job: Job, attempt: Attempt, settlement: Settlement) -> None:
        job.journal.abandoned(attempt, settlement)
        self._finish(attempt, settlement.outcome, settlement.cost)

    def _finish(self, attempt: Attempt, outcome: Outcome, cost: int) -> None:
        self._circuits.ended(attempt.deployment)
        self._wallet.finish(attempt.hold, outcome, cost)

    def judge(self, attempt: Attempt, failure: ProviderFailed) -> None:
        uid = attempt.deployment.uid
        if failure.fault.callers:
            self._circuits.succeeded(uid)
            return
        self._circuits.failed(uid, failure.fault.value)
        seconds = failure.wait
        if seconds is not None:
            self._circuits.rest(uid, seconds)


class CompleteChat:
    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    async def __call__(
        self,
        ask: Ask,
        caller: Caller,
        completion_id: UUID,
        journal: Journal,
        deadline: datetime | None = None,
    ) -> Answer:
        """The whole answer, from the first deployment that gives one.

        Raises ModelNotFound, NothingFits, NoneAvailable, Refused, BudgetUnavailable, ProviderFailed,
        DeadlineExceeded. A cancelled call counts its whole hold: the provider may have answered.
        """
        dispatcher = self._dispatcher
        job = dispatcher.job(ask, caller, completion_id, journal, deadline)
        while True:
            attempt = await dispatcher.next_attempt(job)
            started = dispatcher.clock()
            try:
                reply = await within(
                    attempt.deployment.timeouts.total,
                    dispatcher.provider(attempt).complete(dispatcher.call(job, attempt)),
                )
            except ProviderFailed as failure:
                await dispatcher.failed(job, attempt, failure, started)
                continue
            except BaseException:
                dispatcher.abandoned(
                    job, attempt, unknown(status=0, latency_ms=dispatcher.elapsed_ms(started))
                )
                raise
            return await self._answer(job, attempt, reply, started)

    async def _answer(self, job: Job, attempt: Attempt, reply: ProviderReply, started: float) -> Answer:
        seconds = self._dispatcher.clock() - started
        settlement = settled(
            attempt,
            job.ask,
            reply.usage,
            content_bytes=_content_size(reply) if reply.usage is None else 0,
            latency_ms=int(seconds * 1000),
        )
        await self._dispatcher.answered(job, attempt, settlement, reply)
        return Answer(attempt, settlement, reply, seconds)
