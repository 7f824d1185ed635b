"""What happens to one delivery: parse, wait for its turn, handle, and settle its fate with the broker."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal

from aio_pika.abc import AbstractIncomingMessage
from opentelemetry.trace import SpanKind
from pydantic import ValidationError

from kairos_contracts.registry import UnknownMessageType
from kairos_faults import apoint
from kairos_messaging import failures
from kairos_messaging.errors import InfrastructureUnavailable, PermanentError, PublishFailed
from kairos_messaging.jobs import Job, Prepare
from kairos_messaging.lanes import Lanes
from kairos_messaging.pause import HeldTooLong, PauseGate, Stopping
from kairos_messaging.publisher import Publisher, cancelled_from_outside
from kairos_messaging.topology import DEAD, DEAD_LETTERS, Topology
from kairos_messaging.tuning import Tuning
from kairos_persistence import DatabaseUnavailable
from kairos_telemetry import get_logger, log_context, metrics, span

log = get_logger(__name__)

TROUBLE: tuple[type[Exception], ...] = (InfrastructureUnavailable, DatabaseUnavailable)
PERMANENT: tuple[type[Exception], ...] = (PermanentError, ValidationError, UnknownMessageType)

Outcome = Literal["handled", "retried", "dead", "parked", "returned", "dropped"]


@dataclass(frozen=True)
class Subscription:
    """What a service asked for. `label` names the queue in logs and metrics and holds no id."""

    queue: str
    label: str
    prepare: Prepare
    concurrency: int = 1
    ordered: bool = False
    replica: bool = False


class HandlerEscaped(Exception):  # noqa: N818 - reads as the fact it states
    """The handler ended with something that is no ordinary error; the message climbs the ladder."""


def _failure(error: BaseException) -> Exception:
    """The failure of a message, also where a library raised SystemExit, a panic or a stray cancellation.

    Left alone those would end the consumer, or leave the message unacknowledged until a restart.
    """
    if isinstance(error, Exception):
        return error
    if isinstance(error, KeyboardInterrupt) or cancelled_from_outside(error):
        raise error
    return HandlerEscaped(f"{type(error).__name__}: {error}")


class Consumer:
    """Handles the deliveries of one subscription."""

    def __init__(
        self, subscription: Subscription, *, publisher: Publisher, topology: Topology, tuning: Tuning
    ) -> None:
        self.subscription = subscription
        self._publisher = publisher
        self._topology = topology
        self._tuning = tuning
        self._stopping = asyncio.Event()
        self._gate = PauseGate(subscription.label, TROUBLE, self._stopping, tuning)
        self._lanes = Lanes()
        self._slots = asyncio.Semaphore(subscription.concurrency)
        self._tasks: set[asyncio.Task[Any]] = set()
        self.unmoved = False
        self._waiting: set[asyncio.Task[Any]] = set()

    @property
    def paused(self) -> bool:
        return self._gate.paused

    async def take(self, message: AbstractIncomingMessage) -> None:
        """Entry point of the broker client; never raises but for cancellation."""
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            outcome = await self._settled(message)
        except Exception:
            # An unsettled message would lie here unacknowledged until the next restart. The delivery
            # limit keeps this from becoming a loop.
            log.exception("delivery_unsettled", queue=self.subscription.label)
            outcome = await self._give_back(message)
        metrics.counter("kairos_messages_consumed_total").labels(
            queue=self.subscription.label, outcome=outcome
        ).inc()

    async def drain(self, grace: float) -> None:
        """Let running handlers finish, give back what has not started, and end the rest after the grace."""
        self._stopping.set()
        for waiting in tuple(self._waiting):
            waiting.cancel()
        if self._tasks:
            _, late = await asyncio.wait(tuple(self._tasks), timeout=grace)
            for task in late:
                task.cancel()
            if late:
                log.warning("drain_incomplete", queue=self.subscription.label, unfinished=len(late))
                await asyncio.wait(late, timeout=1.0)

    async def _settled(self, message: AbstractIncomingMessage) -> Outcome:
        try:
            job = self.subscription.prepare(message)
        except BaseException as error:  # noqa: BLE001 - whatever a malformed message raises, it stays malformed.
            return await self._failed(message, _failure(error), permanent=True)
        with log_context(message_id=message.message_id, queue=self.subscription.label):
            try:
                async with self._place(job.subject):
                    await self._handle(message, job)
            except Stopping:
                return await self._give_back(message)
            except HeldTooLong as error:
                return await self._park(message, error)
            except BaseException as error:  # noqa: BLE001 - a handler may raise anything; the ladder decides.
                return await self._failed(message, _failure(error), permanent=isinstance(error, PERMANENT))
        await apoint("message.handled")
        return await self._ack(message, "handled")

    @asynccontextmanager
    async def _place(self, subject: str) -> AsyncIterator[None]:
        """First the aggregate's turn, then a slot: who waits for its aggregate takes no slot from others."""
        async with AsyncExitStack() as place:
            with self._waiting_for_a_place():
                await place.enter_async_context(
                    self._lanes.turn(subject if self.subscription.ordered else None)
                )
                await place.enter_async_context(self._slots)
            if self._stopping.is_set():
                raise Stopping
            yield

    @contextmanager
    def _waiting_for_a_place(self) -> Iterator[None]:
        """Lets a drain end the wait, so that others get the message before the running handlers end."""
        task = asyncio.current_task()
        if task is None or self._stopping.is_set():
            raise Stopping
        self._waiting.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                raise
            task.uncancel()
            raise Stopping from None
        finally:
            self._waiting.discard(task)

    async def _handle(
        self,
        message: AbstractIncomingMessage,
        job: Job,
    ) -> None:
        attributes = {
            "messaging.system": "rabbitmq",
            "messaging.operation.type": "process",
            "messaging.destination.name": self.subscription.label,
            "messaging.message.id": message.message_id or "",
            "kairos.attempt": failures.attempt_of(message.headers),
        }

        async def timed() -> None:
            started = perf_counter()
            try:
                await job.run()
            finally:
                metrics.histogram("kairos_consume_duration_seconds").labels(
                    queue=self.subscription.label
                ).observe(perf_counter() - started)

        with span(
            f"process {self.subscription.label}",
            parent=job.traceparent,
            kind=SpanKind.CONSUMER,
            attributes=attributes,
        ):
            await self._gate.run(timed)

    async def _failed(
        self, message: AbstractIncomingMessage, error: Exception, *, permanent: bool
    ) -> Outcome:
        attempt = failures.attempt_of(message.headers)
        log.warning(
            "message_failed",
            queue=self.subscription.label,
            message_id=message.message_id,
            attempt=attempt,
            permanent=permanent,
            error=failures.describe(error),
            error_class=type(error).__name__,
        )
        if self.subscription.replica:
            return await self._ack(message, "dropped")
        if self.subscription.queue == DEAD_LETTERS:
            # There is no place after the dead letters: the last rung is repeated until it works.
            rung = self._topology.retry_queue(DEAD_LETTERS, min(attempt, len(self._topology.retry_delays)))
        else:
            rung = None if permanent else self._topology.retry_queue(self.subscription.queue, attempt)
        if rung is not None:
            return await self._move(message, "retried", "", rung, self._history(message, error, attempt + 1))
        # The store of dead letters counts them: it sees those that the broker itself made as well.
        return await self._move(
            message, "dead", DEAD, self.subscription.queue, self._history(message, error, attempt)
        )

    def _history(self, message: AbstractIncomingMessage, error: Exception, attempt: int) -> dict[str, Any]:
        if self.subscription.queue == DEAD_LETTERS:
            # A dead letter keeps the story of its first death; only its own attempts are counted.
            return dict(message.headers) | {failures.ATTEMPT: attempt}
        return failures.failure_headers(
            message.headers, queue=self.subscription.queue, attempt=attempt, error=error, body=message.body
        )

    async def _park(self, message: AbstractIncomingMessage, error: HeldTooLong) -> Outcome:
        """A fresh copy with the same attempt: a long outage costs neither attempts nor deliveries."""
        if self.subscription.replica:
            return await self._ack(message, "dropped")
        attempt = failures.attempt_of(message.headers)
        rung = self._topology.retry_queue(self.subscription.queue, 1) or self.subscription.queue
        return await self._move(message, "parked", "", rung, self._history(message, error, attempt))

    async def _move(
        self,
        message: AbstractIncomingMessage,
        outcome: Outcome,
        exchange: str,
        routing_key: str,
        headers: dict[str, Any],
    ) -> Outcome:
        """Publish a copy elsewhere, then acknowledge: a crash between them makes a duplicate, not a loss."""
        delay = self._tuning.pause_first
        while True:
            try:
                await self._publisher.send(
                    exchange=exchange,
                    routing_key=routing_key,
                    headers=headers,
                    body=message.body,
                    message_id=message.message_id,
                    type_name=message.type,
                    content_type=message.content_type or "application/octet-stream",
                )
                break
            except PublishFailed as error:
                self.unmoved = True
                log.warning("message_not_moved", queue=self.subscription.label, error=str(error))
            if message.channel.is_closed:
                # The connection it came on is gone: the broker hands it out again by itself.
                return "returned"
            if await self._stopped_within(delay):
                return await self._give_back(message)
            delay = min(delay * 2, self._tuning.pause_longest)
        self.unmoved = False
        await apoint("message.moved")
        return await self._ack(message, outcome)

    async def _stopped_within(self, delay: float) -> bool:
        try:
            async with asyncio.timeout(delay):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True

    async def _ack(self, message: AbstractIncomingMessage, outcome: Outcome) -> Outcome:
        try:
            await message.ack()
        except Exception as error:  # noqa: BLE001 - a lost ack means a redelivery, which the inbox absorbs.
            log.warning("ack_lost", queue=self.subscription.label, error=type(error).__name__)
        return outcome

    async def _give_back(self, message: AbstractIncomingMessage) -> Outcome:
        try:
            await message.nack(requeue=True)
        except Exception as error:  # noqa: BLE001 - the closing connection gives it back as well.
            log.debug("nack_lost", queue=self.subscription.label, error=type(error).__name__)
        return "returned"
