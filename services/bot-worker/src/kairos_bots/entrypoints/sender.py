"""Sends replies: claims as many as it has free slots for, so that a claim is never waiting in memory."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from opentelemetry.trace import SpanKind

from kairos_bots.application.ports import Cipher, RateGovernor, Telegram, WakeUps, Works
from kairos_bots.application.send_reply import ClaimedReply, claim_replies, record_try, send_reply
from kairos_bots.domain.conversation import Reply
from kairos_bots.domain.delivery import Accepted, RetryRules, SendOutcome
from kairos_bots.entrypoints.rest import rest
from kairos_faults import apoint
from kairos_persistence import DatabaseUnavailable
from kairos_telemetry import get_logger, metrics, span

FINISH_S = 8.0
RECORD_AGAIN_S = 0.1
RECORD_AGAIN_LONGEST_S = 1.0
_log = get_logger(__name__)


@dataclass(frozen=True)
class _UnderWay:
    task: asyncio.Task[None]
    claim_token: UUID | None


@dataclass(frozen=True)
class Sender:
    """`slots` replies are under way at most; `lease` bounds how long a dead sender holds one."""

    works: Works
    telegram: Telegram
    governor: RateGovernor
    cipher: Cipher
    wakes: WakeUps
    wake: asyncio.Event
    poll: float
    slots: int
    lease: timedelta
    rules: RetryRules = RetryRules()  # noqa: RUF009 - frozen, so sharing it is safe
    under_way: dict[UUID, _UnderWay] = field(default_factory=dict)

    async def run(self) -> None:
        """Send until cancelled; what is under way then is finished and recorded first."""
        try:
            while True:
                self.wake.clear()
                if not await self._fill():
                    await rest(self.wake, self.poll)
        finally:
            if self.under_way:
                tasks = [each.task for each in self.under_way.values()]
                await asyncio.wait(tasks, timeout=FINISH_S)

    async def _fill(self) -> bool:
        """Start what may be sent now; False when there is nothing more to start."""
        free = self.slots - len(self.under_way)
        if free <= 0:
            return False
        try:
            claimed = await self.claim(free)
        except DatabaseUnavailable:
            return False
        for reply in claimed:
            self._start(reply)
        return len(claimed) == free

    def _start(self, claimed: ClaimedReply) -> None:
        identity, token = claimed.reply.id, claimed.reply.claim_token

        def done(_: asyncio.Task[None]) -> None:
            full = len(self.under_way) >= self.slots
            del self.under_way[identity]
            if full:
                self.wake.set()

        task = asyncio.create_task(self._send_guarded(claimed), name=f"send {identity}")
        self.under_way[identity] = _UnderWay(task, token)
        task.add_done_callback(done)

    async def keep_claims(self) -> None:
        """Renew the claims of what is under way until cancelled, so that only a dead sender loses any."""
        while True:
            await asyncio.sleep(self.lease.total_seconds() / 3)
            tokens = {each.claim_token for each in self.under_way.values() if each.claim_token}
            try:
                if tokens:
                    async with self.works.system() as work:
                        await work.replies.renew(list(tokens), self.lease)
            except DatabaseUnavailable:
                _log.info("claims_not_renewed", claims=len(tokens))

    async def claim(self, limit: int) -> Sequence[ClaimedReply]:
        token = uuid4()
        async with self.works.system() as work:
            claimed = await claim_replies(
                work,
                limit=limit,
                lease=self.lease,
                governor=self.governor,
                claim_token=token,
                cipher=self.cipher,
                wakes=self.wakes,
                under_way=self.under_way,
            )
        for each in claimed:
            if each.reply.was_sending:
                _count(each.reply, "ambiguous")
                _log.warning("reply_sent_again", **_fields(each.reply))
        return claimed

    async def _send_guarded(self, claimed: ClaimedReply) -> None:
        try:
            await self.send(claimed)
        except Exception:  # noqa: BLE001 - logged with its trace; see below for the reply's fate
            # The claim runs out and the reply is tried again; the other replies go on.
            metrics.counter("session_errors_total").inc()
            _log.exception("reply_not_sent", **_fields(claimed.reply))

    async def send(self, claimed: ClaimedReply) -> None:
        reply = claimed.reply
        with span(
            f"send {reply.channel}",
            parent=reply.traceparent,
            kind=SpanKind.CLIENT,
            attributes={
                "kairos.reply.id": str(reply.id),
                "kairos.turn.id": str(reply.turn_id),
                "kairos.conversation.id": str(reply.conversation_id),
                "kairos.attempt": reply.attempts,
            },
        ) as current:
            outcome = await send_reply(claimed, self.telegram)
            if isinstance(outcome, Accepted):
                await apoint("bots.send.accepted")
            recorded = await self._record(reply, outcome)
            current.set_attribute("kairos.outcome", recorded)
        _count(reply, recorded)
        if recorded != "sent":
            _log.warning("reply_try_ended", outcome=recorded, result=type(outcome).__name__, **_fields(reply))

    async def _record(self, reply: Reply, outcome: SendOutcome) -> str:
        """Keep trying while the database is away: forgetting the result would send the reply twice."""
        wait = RECORD_AGAIN_S
        while True:
            try:
                async with self.works.system() as work:
                    return await record_try(work, reply, outcome, rules=self.rules, wakes=self.wakes)
            except DatabaseUnavailable:
                await asyncio.sleep(wait)
                wait = min(wait * 2, RECORD_AGAIN_LONGEST_S)


def _count(reply: Reply, outcome: str) -> None:
    metrics.counter("kairos_replies_sent_total").labels(channel=reply.channel, outcome=outcome).inc()


def _fields(reply: Reply) -> dict[str, Any]:
    ids: dict[str, UUID] = {
        "reply_id": reply.id,
        "turn_id": reply.turn_id,
        "conversation_id": reply.conversation_id,
        "bot_id": reply.bot_id,
    }
    return {name: str(value) for name, value in ids.items()} | {
        "attempt": reply.attempts,
        "ambiguous": reply.ambiguous,
    }
