"""Answers from the cache in front of those from providers. A hit costs nothing and says so.

Of equal requests that come at once, one is answered and the others wait for it: within a process by its
flight, across processes by a short lock in Redis. Nothing here may make a request fail.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeGuard
from uuid import UUID

import orjson

from kairos_router.application.cache_policies import CachePolicies
from kairos_router.application.cache_ports import AnswerStore, Kept, Similar, StoreAway
from kairos_router.application.embed_text import EmbedderAbsent
from kairos_router.application.explain_failure import Explanation
from kairos_router.domain.ask import Ask, Caller
from kairos_router.domain.cache_key import Plan, plan
from kairos_router.domain.pricing import MOST_TOKENS
from kairos_router.domain.replay import events_of
from kairos_router.entrypoints import openai_errors as errors
from kairos_router.entrypoints.chat import Answers
from kairos_router.entrypoints.completions import Flow, Served
from kairos_router.entrypoints.credentials import Rejected
from kairos_router.entrypoints.kept_flows import MISS, Found, Recorded, Replay
from kairos_router.entrypoints.openai_errors import Header
from kairos_telemetry import get_logger, metrics

_log = get_logger(__name__)

# Longer than most answers take; then a waiting request asks the provider itself.
FLIGHT_S = 15.0
LOCK_S = 15.0
POLL_S = 0.05
NO_STORE, NO_CACHE, ONLY_IF_CACHED = b"no-store", b"no-cache", b"only-if-cached"
NOT_CACHED = Explanation(
    504,
    "not_cached",
    "No answer to this is kept, and the request wants no other",
    "invalid_request_error",
)


class Notes(Protocol):
    """Writes the usage record of an answer nobody had to be asked for."""

    def __call__(
        self, ask: Ask, caller: Caller, completion_id: UUID, kept: Kept, kind: str, seconds: float
    ) -> None: ...


class Resolves(Protocol):
    """What a name stands for now: another fingerprint when others would answer. None for an unknown name."""

    def __call__(self, organisation_id: UUID, model: str) -> str | None: ...


class Describes(Protocol):
    """What a deployment's answers are filed under: model, provider, version of its prices."""

    def __call__(self, organisation_id: UUID, deployment: str) -> tuple[str, str, str]: ...


Land = Callable[[Kept | None], None]


class CachedAnswers:
    """See Answers. `holder` names this process to others."""

    def __init__(
        self,
        answers: Answers,
        policies: CachePolicies,
        store: AnswerStore,
        similar: Similar,
        *,
        note: Notes,
        describe: Describes,
        resolve: Resolves,
        holder: str,
        control: bytes = b"",
    ) -> None:
        self._answers = answers
        self._policies = policies
        self._store = store
        self._similar = similar
        self._note = note
        self._describe = describe
        self._resolve_name = resolve
        self._holder = holder
        self._control = control
        self._flights: dict[str, asyncio.Future[Kept | None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.label = answers.label

    def controlled(self, control: bytes) -> "CachedAnswers":
        """The same cache as the request's header wants to use it. Raises Rejected."""
        wanted = control.strip().lower()
        if wanted not in {NO_STORE, NO_CACHE, ONLY_IF_CACHED}:
            raise Rejected(errors.bad_header("x-kairos-cache", "no-store, no-cache or only-if-cached"))
        other = CachedAnswers.__new__(CachedAnswers)
        other.__dict__.update(self.__dict__)
        other._control = wanted  # noqa: SLF001 - of the same class
        return other

    def complete(self, ask: Ask, caller: Caller, completion_id: UUID) -> Awaitable[Served]:
        planned = self._plan(ask, caller)
        if planned is None:
            return self._answers.complete(ask, caller, completion_id)
        return self._complete(ask, caller, completion_id, planned)

    def open(self, ask: Ask, caller: Caller, completion_id: UUID) -> Awaitable[Flow]:
        planned = self._plan(ask, caller)
        if planned is None:
            return self._answers.open(ask, caller, completion_id)
        return self._open(ask, caller, completion_id, planned)

    def _plan(self, ask: Ask, caller: Caller) -> Plan | None:
        """None when the cache takes no part. Raises Rejected when the caller wants nothing else."""
        organisation_id = caller.scope.organisation_id
        policy = self._policies.of(organisation_id, ask.model)
        planned = None
        if policy is not None and self._control != NO_STORE:
            fingerprint = self._resolve_name(organisation_id, ask.model)
            if fingerprint is not None:
                generation = self._policies.generation(organisation_id)
                planned = plan(ask, caller, policy, generation, fingerprint)
        if planned is None and self._control == ONLY_IF_CACHED:
            raise Rejected(NOT_CACHED)
        return planned

    async def _complete(self, ask: Ask, caller: Caller, completion_id: UUID, planned: Plan) -> Served:
        found = await self._resolve(planned)
        if isinstance(found, Found):
            self._hit(ask, caller, completion_id, found)
            return Served(found.kept.body, found.headers, 0, found.seconds)
        try:
            served = await self._answers.complete(ask, caller, completion_id)
        except BaseException:
            found(None)
            raise
        found(self._kept(caller, served.headers, served.body))
        return Served(served.body, [*served.headers, MISS], served.tokens, served.provider_seconds)

    async def _open(self, ask: Ask, caller: Caller, completion_id: UUID, planned: Plan) -> Flow:
        found = await self._resolve(planned)
        if isinstance(found, Found):
            self._hit(ask, caller, completion_id, found)
            events = events_of(orjson.loads(found.kept.body), include_usage=ask.include_usage)
            return Replay(found.headers, events)
        land = found
        try:
            flow = await self._answers.open(ask, caller, completion_id)
        except BaseException:
            land(None)
            raise
        return Recorded(
            flow, lambda body: land(None if body is None else self._kept(caller, flow.headers, body, flow))
        )

    async def _resolve(self, planned: Plan) -> "Found | Land":
        """A kept answer; or what the answer is to be handed to when a provider has given it.

        Raises Rejected when the caller wants a kept one only and there is none.
        """
        begun = time.perf_counter()
        found, outcome = None, "miss"
        land: Land = partial(self._keep, planned, None)
        if self._control != NO_CACHE:
            found = await self._join(planned.key) if self._control != ONLY_IF_CACHED else None
            if found is None:
                found, outcome, land = await self._lead(planned)
        seconds = time.perf_counter() - begun
        metrics.histogram("kairos_cache_seconds").labels(step="look").observe(seconds)
        if found is not None:
            return Found(found[0], found[1], seconds)
        metrics.counter("kairos_cache_requests_total").labels(outcome=outcome).inc()
        if self._control == ONLY_IF_CACHED:
            land(None)
            raise Rejected(NOT_CACHED)
        return land

    async def _join(self, key: str) -> tuple[Kept, str] | None:
        """The answer of an equal request under way in this process."""
        until = time.monotonic() + FLIGHT_S
        while (flight := self._flights.get(key)) is not None and time.monotonic() < until:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, until - time.monotonic())):
                    kept = await asyncio.shield(flight)
                    if kept is not None:
                        return kept, "exact"
        return None

    async def _lead(self, planned: Plan) -> "tuple[tuple[Kept, str] | None, str, Land]":
        """Be the one that others wait for: look, then wait for another process that may be answering."""
        flight: asyncio.Future[Kept | None] = asyncio.get_running_loop().create_future()
        self._flights[planned.key] = flight
        outcome = "miss"
        try:
            found = await self._look(planned)
            if found is None and self._control != ONLY_IF_CACHED:
                found = await self._elsewhere(planned)
        except StoreAway:
            found, outcome = None, "bypass"
        except BaseException:
            self._landed(planned.key, flight, None)
            raise
        if found is not None:
            self._landed(planned.key, flight, found[0])
        return found, outcome, partial(self._keep, planned, flight)

    async def _look(self, planned: Plan) -> tuple[Kept, str] | None:
        kept = await self._store.get(planned.key)
        if _fresh(kept, planned):
            return kept, "exact"
        question = planned.question
        if question is None:
            return None
        try:
            key = await self._similar.find(
                question.space, question.text, question.numbers, planned.policy.similarity
            )
        except EmbedderAbsent:
            _log.warning("semantic_cache_without_model")
            return None
        kept = await self._store.get(key) if key is not None else None
        return (kept, "semantic") if _fresh(kept, planned) else None

    async def _elsewhere(self, planned: Plan) -> tuple[Kept, str] | None:
        """What another process answers meanwhile; None when this one is to. Raises StoreAway."""
        until = time.monotonic() + FLIGHT_S
        while not await self._store.lock(planned.key, self._holder, LOCK_S):
            await asyncio.sleep(POLL_S)
            kept = await self._store.get(planned.key)
            if _fresh(kept, planned):
                return kept, "exact"
            if time.monotonic() > until:
                break
        return None

    def _landed(self, key: str, flight: "asyncio.Future[Kept | None] | None", kept: Kept | None) -> None:
        if flight is not None:
            if self._flights.get(key) is flight:
                del self._flights[key]
            if not flight.done():
                flight.set_result(kept)

    def _keep(self, planned: Plan, flight: "asyncio.Future[Kept | None] | None", kept: Kept | None) -> None:
        self._landed(planned.key, flight, kept)
        task = asyncio.get_running_loop().create_task(self._stored(planned, kept))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stored(self, planned: Plan, kept: Kept | None) -> None:
        try:
            if kept is not None:
                await self._store.put(planned.key, kept, planned.policy.ttl_seconds)
            await self._store.unlock(planned.key, self._holder)
            question = planned.question
            if kept is not None and question is not None:
                ttl = planned.policy.ttl_seconds
                await self._similar.add(question.space, question.text, question.numbers, planned.key, ttl)
        except (StoreAway, EmbedderAbsent):
            return
        except Exception:  # noqa: BLE001 - logged with its trace; an answer that is not kept is only asked for again
            _log.exception("answer_not_kept")

    def _kept(
        self, caller: Caller, headers: list[Header], body: bytes, flow: Flow | None = None
    ) -> Kept | None:
        """The answer as it may serve others; None when it may not."""
        told = dict(headers)
        if b"x-kairos-degraded" in told:
            # A budget made it shorter or had another model give it: that is nobody else's answer.
            return None
        deployment = told.get(b"x-kairos-deployment", b"").decode()
        model, provider, version = self._describe(caller.scope.organisation_id, deployment)
        cost = int(told.get(b"x-kairos-cost-nano-usd", b"0"))
        usage = _usage(body)
        return Kept(
            body=body,
            deployment=deployment,
            model=model,
            provider=provider,
            price_version=version,
            cost=(flow.cost_so_far or 0) if flow is not None else cost,
            input_tokens=usage[0],
            output_tokens=usage[1],
            stored_at=time.time(),
        )

    def _hit(self, ask: Ask, caller: Caller, completion_id: UUID, found: "Found") -> None:
        outcome = "hit" if found.kind == "exact" else found.kind
        metrics.counter("kairos_cache_requests_total").labels(outcome=outcome).inc()
        metrics.counter("kairos_cache_saved_nano_usd_total").inc(found.kept.cost)
        self._note(ask, caller, completion_id, found.kept, found.kind, found.seconds)


def _fresh(kept: Kept | None, planned: Plan) -> TypeGuard[Kept]:
    """Whether it is young enough by the policy of now: a shorter time holds for what was kept before it."""
    return kept is not None and time.time() < kept.stored_at + planned.policy.ttl_seconds


def _usage(body: bytes) -> tuple[int, int]:
    """Tokens of input and output, 0 where the provider told none or what can't be true."""
    usage = orjson.loads(body).get("usage")
    told = usage if isinstance(usage, dict) else {}
    return _tokens(told.get("prompt_tokens")), _tokens(told.get("completion_tokens"))


def _tokens(value: object) -> int:
    return value if type(value) is int and 0 <= value <= MOST_TOKENS else 0
