"""Works on queued completions: claims what is due, keeps the claims alive, answers."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

from opentelemetry.trace import SpanKind

from kairos_persistence import DatabaseUnavailable
from kairos_router.application.answer_completion import AnswerCompletion, Claim, ClaimLost, CompletionStore
from kairos_telemetry import get_logger, metrics, span

_log = get_logger(__name__)

AWAY_PAUSE_S = 0.5


class CompletionWorker:
    """Up to `concurrency` completions at once. `label` turns a model's name into a bounded one."""

    def __init__(
        self,
        store: CompletionStore,
        answer: AnswerCompletion,
        *,
        label: Callable[[str], str],
        concurrency: int = 64,
        poll: float = 0.5,
        heartbeat: float = 5.0,
    ) -> None:
        self._store = store
        self._answer = answer
        self._label = label
        self._concurrency = concurrency
        self._poll = poll
        self._heartbeat = heartbeat
        self._running: dict[UUID, tuple[Claim, asyncio.Task[None]]] = {}

    async def claim_forever(self) -> None:
        """Claim until cancelled; completions under way are not affected by that."""
        wake = self._store.wake
        while True:
            wake.clear()
            free = self._concurrency - len(self._running)
            claims = await self._claim(free) if free else []
            for claim in claims:
                self._start(claim)
            if claims and len(claims) == free:
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll):
                    await wake.wait()

    async def renew_forever(self) -> None:
        """Prolong the claims of running completions; break off those another worker has taken over."""
        while True:
            await asyncio.sleep(self._heartbeat)
            claims = [claim for claim, _ in self._running.values()]
            if not claims:
                continue
            try:
                ours = await self._store.renew(claims)
            except DatabaseUnavailable:
                continue  # A claim that runs out is fenced off by its token when its end is written.
            for claim in claims:
                running = self._running.get(claim.completion_id)
                if claim.completion_id not in ours and running is not None and running[0] is claim:
                    running[1].cancel()

    async def drain(self, grace: float) -> None:
        """Let completions under way end for up to `grace` seconds, then break them off."""
        tasks = [task for _, task in self._running.values()]
        if not tasks:
            return
        _, left = await asyncio.wait(tasks, timeout=grace)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=1)

    async def _claim(self, free: int) -> list[Claim]:
        try:
            return await self._store.claim(free)
        except DatabaseUnavailable:
            await asyncio.sleep(AWAY_PAUSE_S)
            return []

    def _start(self, claim: Claim) -> None:
        task = asyncio.create_task(self._work(claim))
        self._running[claim.completion_id] = (claim, task)
        task.add_done_callback(lambda _: self._ended(claim))

    def _ended(self, claim: Claim) -> None:
        running = self._running.get(claim.completion_id)
        if running is not None and running[0] is claim:
            del self._running[claim.completion_id]
        # A place is free: there may be more to do than fitted before.
        self._store.wake.set()

    async def _work(self, claim: Claim) -> None:
        model = claim.request.model
        attributes = {"kairos.completion_id": str(claim.completion_id), "kairos.model": model}
        outcome = "error"
        try:
            with span(
                "completion", parent=claim.traceparent, kind=SpanKind.INTERNAL, attributes=attributes
            ) as current:
                outcome = await self._answer(claim)
                current.set_attribute("kairos.outcome", outcome)
        except ClaimLost:
            outcome = "claim_lost"
        except DatabaseUnavailable:
            outcome = "database_unavailable"
        except Exception:  # noqa: BLE001 - logged with its trace; the claim runs out and is taken anew
            _log.exception("completion_crashed", completion_id=str(claim.completion_id))
        finally:
            metrics.counter("kairos_router_requests_total").labels(
                route=self._label(model), outcome=outcome
            ).inc()
        if outcome == "budget_exceeded":
            metrics.counter("kairos_hold_refused_total").inc()
