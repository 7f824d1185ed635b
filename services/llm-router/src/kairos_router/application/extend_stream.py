"""Keep the hold of a running stream ahead of what its provider may have generated."""

import asyncio
import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

from kairos_router.application.hold_money import Wallet
from kairos_router.application.ports import BudgetExceeded, BudgetUnavailable
from kairos_router.domain.ask import Ask, hold_on
from kairos_router.domain.attempt import Attempt, Settlement
from kairos_router.domain.pricing import Usage, cost
from kairos_router.domain.stream_hold import closing_chunk, opening_tokens, plan_of

REASON = "budget_exhausted"


class Extension:
    """The growing hold of one stream. `seen` is always an upper bound: no token has less than a byte."""

    def __init__(self, wallet: Wallet, ask: Ask, attempt: Attempt) -> None:
        self.hold = attempt.hold
        self.cut = False
        self._wallet = wallet
        self._ask = ask
        self._deployment = attempt.deployment
        self._plan = plan_of(ask, attempt.deployment, attempt.max_tokens)
        self._covered = opening_tokens(ask, attempt.deployment, attempt.max_tokens)
        self._widening: asyncio.Task[None] | None = None

    def covers(self, seen: int) -> bool:
        """Grow the hold when it is low; False when the stream must end now, as nothing more is to be had."""
        plan = self._plan
        if plan is None or self._covered >= plan.most:
            return True
        if plan.low(self._covered, seen):
            self._grow(plan.wanted(seen))
        self.cut = self._covered < plan.needed(seen)
        return not self.cut

    def stop(self) -> None:
        if self._widening is not None:
            self._widening.cancel()

    def charge(self, settlement: Settlement) -> Settlement:
        """What was cut may have been generated further than it was seen, but never beyond the hold."""
        if not self.cut or self._plan is None:
            return settlement
        usage = settlement.usage
        written = min(usage.output_tokens + self._plan.lead, self._plan.most)
        usage = replace(usage, output_tokens=written, estimated=True)
        charged = min(cost(self._deployment.price, usage), self.hold.amount)
        return replace(settlement, usage=usage, cost=charged)

    def ending(self, first: bytes, usage: Usage) -> bytes:
        """The events that end a cut stream as clients expect it."""
        chunk = closing_chunk(_document(first), REASON)
        events = [_event(chunk), f": x-kairos-ended {REASON}\n\n".encode()]
        if self._ask.include_usage:
            figures = {
                "prompt_tokens": usage.input_tokens,
                "completion_tokens": usage.output_tokens,
                "total_tokens": usage.input_tokens + usage.output_tokens,
            }
            events.append(_event({**chunk, "choices": [], "usage": figures}))
        return b"".join((*events, b"data: [DONE]\n\n"))

    def _grow(self, tokens: int) -> None:
        amount = hold_on(self._ask, self._deployment, tokens)
        grown = self._wallet.extend(self.hold, amount)
        if grown is not None:
            self.hold, self._covered = grown, tokens
        elif self._widening is None or self._widening.done():
            self._widening = asyncio.create_task(self._widen(amount))

    async def _widen(self, amount: int) -> None:
        # Without more money the stream goes on as far as its hold reaches.
        with suppress(BudgetExceeded, BudgetUnavailable):
            await self._wallet.widen(self.hold, amount)


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


def _document(events: bytes) -> dict[str, Any] | None:
    """The first JSON object of some server-sent events."""
    for line in events.splitlines():
        if line.startswith(b"data:"):
            with suppress(ValueError):
                found = json.loads(line[5:])
                if isinstance(found, dict):
                    return found
    return None
