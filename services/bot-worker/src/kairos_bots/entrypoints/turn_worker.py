"""Opens due turns and answers overdue ones."""

import asyncio
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta

from opentelemetry.trace import Span

from kairos_bots.application.expire_turn import expire_turn
from kairos_bots.application.open_turn import OpenedTurn, OpeningRules, open_turn
from kairos_bots.application.ports import WakeUps, Work, Works
from kairos_bots.domain.conversation import HeldTurn
from kairos_bots.entrypoints.consumers import count_message
from kairos_bots.entrypoints.rest import rest
from kairos_faults import apoint
from kairos_persistence import DatabaseUnavailable
from kairos_telemetry import current_traceparent, get_logger, link_to, metrics, span

SET_ASIDE = timedelta(seconds=30)
SWEEP_EVERY_S = 1.0
MEASURE_EVERY_S = 5.0
_log = get_logger(__name__)


@dataclass(frozen=True)
class TurnWorker:
    """Any number of these may run anywhere: a turn belongs to the transaction that holds its row.

    `width` is how many turns this process opens at once when many are due; `poll` in seconds finds
    what a lost wake-up, a dead replica or a clock left behind.
    """

    works: Works
    rules: OpeningRules
    wakes: WakeUps
    wake: asyncio.Event
    poll: float
    width: int

    async def run(self) -> None:
        """Open turns until cancelled."""
        width = 1
        while True:
            self.wake.clear()
            try:
                found = await asyncio.gather(*(self.open_one() for _ in range(width)))
            except DatabaseUnavailable:
                found = []
            width = min(self.width, width * 2) if found and all(found) else 1
            if not any(found):
                await rest(self.wake, self.poll)

    async def sweep(self) -> None:
        """Answer overdue turns until cancelled."""
        while True:
            try:
                while await self.expire_one():
                    pass
            except DatabaseUnavailable:
                _log.info("sweep_waits_for_database")
            await asyncio.sleep(SWEEP_EVERY_S)

    async def measure(self) -> None:
        """Keep the gauge of open turns until cancelled."""
        while True:
            try:
                async with self.works.system() as work:
                    metrics.gauge("kairos_turns_open").set(await work.turns.count_open())
            except DatabaseUnavailable:
                _log.info("gauge_waits_for_database")
            await asyncio.sleep(MEASURE_EVERY_S)

    async def open_one(self) -> bool:
        """Open the turn that is due the longest; False when none is. Raises DatabaseUnavailable."""
        held: HeldTurn | None = None
        try:
            async with self.works.system() as work:
                held = await work.turns.hold_due()
                if held is not None:
                    await apoint("bots.turn.claimed")
                    await self._open(work, held)
        except DatabaseUnavailable:
            raise
        except Exception:
            if held is None:
                raise
            await self._set_aside(held)
        return held is not None

    async def expire_one(self) -> bool:
        """Answer one overdue turn with its bot's fallback text; False when none is overdue."""
        async with self.works.system() as work:
            held = await work.turns.hold_overdue()
            if held is None:
                return False
            with _turn_span("turn expires", held):
                await expire_turn(work, held, wakes=self.wakes, traceparent=current_traceparent())
        count_message("expired")
        _log.warning("turn_expired", turn_id=str(held.turn.id), bot_id=str(held.bot.id))
        return True

    async def _open(self, work: Work, held: HeldTurn) -> None:
        with _turn_span("turn opens", held) as current:
            opened = await open_turn(work, held, rules=self.rules, wakes=self.wakes)
            _link(current, opened)

    async def _set_aside(self, held: HeldTurn) -> None:
        """One turn that can't be opened must not hold up every turn behind it."""
        metrics.counter("session_errors_total").inc()
        _log.exception("turn_not_opened", turn_id=str(held.turn.id), bot_id=str(held.bot.id))
        async with self.works.system() as work:
            await work.turns.postpone(held.turn.id, SET_ASIDE)


def _turn_span(name: str, held: HeldTurn) -> AbstractContextManager[Span]:
    turn = held.turn
    return span(
        name,
        parent=turn.traceparent,
        attributes={
            "kairos.turn.id": str(turn.id),
            "kairos.conversation.id": str(turn.conversation_id),
            "kairos.bot.id": str(turn.bot_id),
            "kairos.turn.messages": turn.message_count,
        },
    )


def _link(current: Span, opened: OpenedTurn) -> None:
    """The turn continues its first message's trace; the others point at it from theirs."""
    for traceparent in opened.traceparents:
        if traceparent != opened.turn.traceparent and (link := link_to(traceparent)):
            current.add_link(link.context)
