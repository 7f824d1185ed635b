"""Answer a chat completion piece by piece, and charge for it however it ends."""

from dataclasses import replace
from uuid import UUID

from kairos_router.application.complete_chat import Dispatcher, Job, within
from kairos_router.application.extend_stream import Extension
from kairos_router.application.ports import Fault, Journal, ProviderFailed, ProviderStream
from kairos_router.domain.ask import Ask, Caller
from kairos_router.domain.attempt import Attempt, Settlement, settled, unknown
from kairos_router.domain.pricing import cost
from kairos_router.domain.stream_hold import opening_tokens, plan_of


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ProviderFailed(Fault.BROKEN, status=200, may_have_run=True, detail=otherwise)


class Streaming:
    """An answer whose first piece has come, so that no other deployment can take over any more.

    Exactly one of these ends it: `next` returns b"", `next` raises, or `abandon` is called.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        job: Job,
        attempt: Attempt,
        stream: ProviderStream,
        first: bytes,
        started: float,
    ) -> None:
        self.attempt = attempt
        self.settlement: Settlement | None = None
        self._dispatcher = dispatcher
        self._job = job
        self._stream = stream
        self._first: bytes | None = first
        self._started = started
        self._opening = first
        self._total = attempt.deployment.timeouts.total
        grows = stream_grows(job, attempt)
        self._extension = Extension(dispatcher.wallet, job.ask, attempt) if grows else None
        self.time_to_first_token = dispatcher.clock() - started

    @property
    def cost_so_far(self) -> int | None:
        """nano-USD once the provider has told its usage, before that None."""
        usage = self._stream.usage
        return None if usage is None else cost(self.attempt.deployment.price, usage)

    async def next(self) -> bytes:
        """The next events, b"" at the end. Raises ProviderFailed when the answer breaks off."""
        if self._extension is not None and self._extension.cut:
            return b""
        piece, self._first = self._first, None
        try:
            if piece is None:
                total = self._total
                left = total and max(0.0, total - (self._dispatcher.clock() - self._started))
                piece = await within(left, self._stream.next())
                if not piece and self._stream.usage is None:
                    _require(self._stream.finished, "ended in the middle")
        except ProviderFailed as failure:
            await self._broke_off(failure)
            raise
        if not piece:
            await self._ended()
            return piece
        extension = self._extension
        if extension is None or self._stream.finished or extension.covers(self._stream.content_bytes()):
            return piece
        # The hold can't keep ahead of the provider any more.
        settlement = await self._ended()
        return piece + extension.ending(self._opening, settlement.usage)

    async def _ended(self) -> Settlement:
        self._stream.close()
        settlement = self._charge()
        await self._dispatcher.answered(self._job, self.attempt, settlement, None)
        return settlement

    def abandon(self) -> None:
        """The caller is gone: break the call off and charge what was seen. Does nothing after the end."""
        self._stream.close()
        if self.settlement is None:
            settlement = self._charge()
            self._dispatcher.abandoned(self._job, self.attempt, settlement)

    async def _broke_off(self, failure: ProviderFailed) -> None:
        self._stream.close()
        if self._extension is not None:
            self._extension.stop()
            self.attempt = replace(self.attempt, hold=self._extension.hold)
        self._dispatcher.judge(self.attempt, failure)
        if self._stream.usage is not None:
            settlement = self._charge()
        else:
            elapsed = self._dispatcher.elapsed_ms(self._started)
            settlement = self.settlement = unknown(status=failure.status, latency_ms=elapsed)
        await self._dispatcher.written(
            self.attempt, settlement, self._job.journal.failed(self.attempt, settlement)
        )

    def _charge(self) -> Settlement:
        usage = self._stream.usage
        if self._extension is not None:
            self._extension.stop()
            self.attempt = replace(self.attempt, hold=self._extension.hold)
        settlement = settled(
            self.attempt,
            self._job.ask,
            usage,
            content_bytes=self._stream.content_bytes() if usage is None else 0,
            latency_ms=self._dispatcher.elapsed_ms(self._started),
            time_to_first_token_ms=int(self.time_to_first_token * 1000),
        )
        self.settlement = settlement if self._extension is None else self._extension.charge(settlement)
        return self.settlement


def stream_grows(job: Job, attempt: Attempt) -> bool:
    """Whether the attempt began with less than its worst case."""
    if plan_of(job.ask, attempt.deployment, attempt.max_tokens) is None:
        return False
    return opening_tokens(job.ask, attempt.deployment, attempt.max_tokens) < attempt.max_tokens


class StreamChat:
    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    async def __call__(self, ask: Ask, caller: Caller, completion_id: UUID, journal: Journal) -> Streaming:
        """Open a stream on the first deployment that begins to answer. Raises as CompleteChat does."""
        dispatcher = self._dispatcher
        job = dispatcher.job(ask, caller, completion_id, journal)
        while True:
            attempt = await dispatcher.next_attempt(job)
            started = dispatcher.clock()
            stream: ProviderStream | None = None
            limits = attempt.deployment.timeouts
            try:
                opening = dispatcher.provider(attempt).open_stream(dispatcher.call(job, attempt))
                stream = await within(limits.first_token, opening)
                left = limits.first_token and max(0.0, limits.first_token - (dispatcher.clock() - started))
                first = await within(left, stream.next())
                _require(bool(first), "empty stream")
            except ProviderFailed as failure:
                if stream is not None:
                    stream.close()
                await dispatcher.failed(job, attempt, failure, started)
                continue
            except BaseException:
                if stream is not None:
                    stream.close()
                dispatcher.abandoned(
                    job, attempt, unknown(status=0, latency_ms=dispatcher.elapsed_ms(started))
                )
                raise
            return Streaming(dispatcher, job, attempt, stream, first, started)
