"""The one way to the broker: consume, publish, check."""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID, uuid4

from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from aiormq.exceptions import ChannelPreconditionFailed
from opentelemetry.trace import SpanKind

from kairos_contracts.catalogue import catalogue
from kairos_contracts.message import HEADER_PREFIX, Envelope, Message
from kairos_messaging import topology as topologies
from kairos_messaging.consumer import Consumer, Subscription
from kairos_messaging.delivery import Handler, RawHandler
from kairos_messaging.errors import ConsumerLost
from kairos_messaging.failures import DeadLetter
from kairos_messaging.jobs import parsed, unparsed
from kairos_messaging.publisher import Publisher, cancelled_from_outside, tuned_url
from kairos_messaging.subscriptions import Reader, Subscriptions
from kairos_messaging.topology import Topology
from kairos_messaging.tuning import PRODUCTION, Tuning
from kairos_telemetry import current_traceparent, get_logger, span

log = get_logger(__name__)


class Bus:
    """Consumes the queues of the catalogue and publishes with confirms, on separate connections.

    Register every consumer before `start`. A bus starts once; make a new one to start again.
    """

    def __init__(
        self,
        url: str,
        *,
        service: str,
        prefetch: int = 32,
        tuning: Tuning = PRODUCTION,
        topology: Topology | None = None,
    ) -> None:
        self.service = service
        self.topology = topology or topologies.from_catalogue(tuning.retry_delays)
        self._url = url
        self._prefetch = prefetch
        self._tuning = tuning
        self._lost = asyncio.Event()
        self._publisher = Publisher(self._named("publish"), tuning, self._lost.set)
        self._readers: list[Reader] = []
        self._gap_listeners: list[Callable[[], None]] = []
        self._subscriptions: Subscriptions | None = None
        self._guard: asyncio.Task[None] | None = None
        self._checking: asyncio.Task[None] | None = None

    def consume(self, queue: str, handler: Handler, *, concurrency: int = 16, ordered: bool = False) -> None:
        """Handle the messages of a catalogue queue, at most `concurrency` at once in this process.

        `ordered`: messages of one aggregate one after another in arrival order. A message that fails
        goes up the retry ladder and is overtaken by the ones behind it.
        """
        self._read(
            Subscription(queue, queue, parsed(queue, handler), concurrency=concurrency, ordered=ordered)
        )

    def consume_raw(self, queue: str, handler: RawHandler, *, concurrency: int = 16) -> None:
        """Handle messages without parsing them. A failing one stays on the retry ladder, never lost."""
        self._read(Subscription(queue, queue, unparsed(queue, handler), concurrency=concurrency))

    def on_replica(self, types: Sequence[type[Message]], handler: Handler) -> None:
        """Give this process its own copy of these events, on a queue that lives as long as it does.

        For caches: what is published while the process is away is not seen (see `on_gap`), and a failing
        handler loses its copy. Raises ValueError for a type the catalogue does not list this service for.
        """
        for model in types:
            if self.service not in catalogue()[model.TYPE].replicas:
                raise ValueError(f"{model.TYPE}: the catalogue lists no replicas of {self.service}")
        label = f"{self.service}.replica"
        name = f"{label}.{uuid4().hex}"
        subscription = Subscription(name, label, parsed(name, handler), replica=True)
        self._readers.append(
            Reader(
                self._consumer(subscription),
                self._prefetch,
                tuple(model.TYPE for model in types),
                topologies.replica_arguments(self.service),
            )
        )

    def on_gap(self, listener: Callable[[], None]) -> None:
        """Call this whenever the connections have been made anew: events to replicas may have been missed."""
        self._gap_listeners.append(listener)

    async def start(self) -> None:
        """Declare the whole topology, then consume. Waits with a growing delay while the broker is away.

        Raises ChannelPreconditionFailed when the broker holds one of our queues with other arguments.
        """
        await self._connect_patiently()
        self._guard = asyncio.create_task(self._keep_whole(), name="kairos-messaging-guard")

    async def stop(self, grace: float = 20.0) -> None:
        """Cancel the consumers, let running handlers finish within the grace, then close."""
        if self._guard is not None:
            self._guard.cancel()
            await asyncio.gather(self._guard, return_exceptions=True)
            self._guard = None
        if self._subscriptions is not None:
            await self._subscriptions.cancel()
            await asyncio.gather(*(reader.consumer.drain(grace) for reader in self._readers))
        await self._disconnect()
        self._publisher.end()

    async def publish(
        self,
        message: Message,
        *,
        organisation_id: UUID | None,
        causation_id: UUID | None = None,
        traceparent: str | None = None,
        message_id: UUID | None = None,
    ) -> None:
        """Publish one message and wait for the broker's confirm. Raises PublishFailed."""
        envelope = Envelope.of(
            message,
            source=self.service,
            organisation_id=organisation_id,
            causation_id=causation_id,
            traceparent=traceparent,
            message_id=message_id,
        )
        await self.publish_prepared(headers=envelope.headers(), body=message.model_dump_json().encode())

    async def publish_prepared(
        self,
        *,
        headers: Mapping[str, Any],
        body: bytes,
        exchange: str | None = None,
        routing_key: str | None = None,
    ) -> None:
        """Publish an envelope's headers and body, and wait for the confirm. Raises PublishFailed.

        Without an exchange the message's type decides where it goes; exchange "" and a queue's name
        as routing key put it into that queue only. The message carries the publishing span, which is
        a child of the `traceparent` in the headers. Raises UnknownMessageType.
        """
        type_name = str(headers.get(f"{HEADER_PREFIX}type", ""))
        target = topologies.exchange_for(type_name) if exchange is None else exchange
        key = routing_key or type_name
        message_id = headers.get(f"{HEADER_PREFIX}id")
        parent = headers.get("traceparent")
        with span(
            f"publish {key}",
            parent=parent if isinstance(parent, str) else None,
            kind=SpanKind.PRODUCER,
            attributes={
                "messaging.system": "rabbitmq",
                "messaging.operation.type": "send",
                "messaging.destination.name": target or key,
                "messaging.message.id": str(message_id),
            },
        ):
            current = current_traceparent()
            await self._publisher.send(
                exchange=target,
                routing_key=key,
                headers={**headers, "traceparent": current} if current else headers,
                body=body,
                message_id=str(message_id) if message_id else None,
                type_name=type_name or None,
            )

    async def replay(self, letter: DeadLetter) -> None:
        """Put a dead letter back into the queue it died in, with the same id and a fresh first attempt."""
        await self.publish_prepared(
            headers=letter.headers, body=letter.body, exchange="", routing_key=letter.queue
        )

    async def check(self) -> None:
        """Raise ConsumerLost unless both connections are up and every consumer is registered.

        Callers at the same time share one question to the broker.
        """
        if not self._publisher.connected:
            raise ConsumerLost("the publishing connection is down")
        if self._subscriptions is None:
            raise ConsumerLost("not started")
        checking = self._checking
        if checking is None or checking.done():
            checking = self._checking = asyncio.create_task(self._subscriptions.check())
            checking.add_done_callback(_seen)
        # Whoever is impatient leaves, the question stays: an RPC that is cancelled makes the driver close its
        # channel out of turn, for which the broker closes the connection of all consumers.
        done, _ = await asyncio.wait({checking}, timeout=self._tuning.check_timeout)
        if not done:
            raise ConsumerLost("the broker does not answer")
        try:
            checking.result()
        except (*CONNECTION_EXCEPTIONS, TimeoutError, asyncio.CancelledError) as error:
            raise ConsumerLost(f"the connection was lost: {type(error).__name__}") from error

    @property
    def paused(self) -> tuple[str, ...]:
        """The queues whose consumers now wait for a server that is away."""
        return tuple(reader.consumer.subscription.label for reader in self._readers if reader.consumer.paused)

    def _named(self, purpose: str) -> Any:
        return tuned_url(self._url, name=f"{self.service}.{purpose}", tuning=self._tuning)

    def _consumer(self, subscription: Subscription) -> Consumer:
        return Consumer(subscription, publisher=self._publisher, topology=self.topology, tuning=self._tuning)

    def _read(self, subscription: Subscription) -> None:
        if subscription.queue not in self.topology.consumable:
            raise ValueError(f"{subscription.queue} is not a queue of the catalogue")
        # Ordered lanes need some messages beyond the slots, or one busy aggregate idles the others.
        prefetch = max(subscription.concurrency, min(self._prefetch, 2 * subscription.concurrency))
        self._readers.append(Reader(self._consumer(subscription), prefetch))

    async def _connect_patiently(self) -> None:
        delay = self._tuning.connect_pause_first
        while (trouble := await self._connected()) is not None:
            log.warning("broker_away", error=type(trouble).__name__, retry_in_s=delay)
            # Spread, so that a fleet does not fall upon a broker that has just come back.
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(delay * 2, self._tuning.connect_pause_longest)

    async def _connect(self) -> None:
        """Raises ConnectionError as soon as a connection is lost: what waits on it might never end."""
        self._lost.clear()
        steps = asyncio.create_task(self._connect_in_steps(), name="kairos-messaging-connect")
        loss = asyncio.create_task(self._lost.wait())
        try:
            await asyncio.wait({steps, loss}, return_when=asyncio.FIRST_COMPLETED)
            if not steps.done():
                raise ConnectionError("the connection was lost before it was whole")
            await steps
        finally:
            for task in (steps, loss):
                task.cancel()
            await asyncio.gather(steps, loss, return_exceptions=True)

    async def _connect_in_steps(self) -> None:
        await self._publisher.connect()
        async with asyncio.timeout(self._tuning.start_timeout):
            await self._declare()
        await self._publisher.open()
        self._subscriptions = Subscriptions(
            self._named("consume"), self._readers, self._tuning, self._lost.set
        )
        await self._subscriptions.start()

    async def _connected(self) -> BaseException | None:
        """One try to connect. Returns what hindered it when another try may go better."""
        try:
            await self._connect()
        except (*CONNECTION_EXCEPTIONS, TimeoutError, asyncio.CancelledError) as error:
            await self._disconnect()
            if isinstance(error, ChannelPreconditionFailed) or cancelled_from_outside(error):
                raise
            return error
        except BaseException:
            await self._disconnect()
            raise
        return None

    async def _disconnect(self) -> None:
        subscriptions, self._subscriptions = self._subscriptions, None
        checking, self._checking = self._checking, None
        closing = [self._publisher.close()] + ([subscriptions.stop()] if subscriptions else [])
        try:
            async with asyncio.timeout(self._tuning.check_timeout):
                failures = await asyncio.gather(*closing, return_exceptions=True)
        except TimeoutError as slow:
            failures = [slow]
        if checking is not None:
            checking.cancel()
        # A connection that can't be closed is closed.
        for failure in filter(None, failures):
            log.debug("close_failed", error=type(failure).__name__)

    async def _declare(self) -> None:
        channel = await self._publisher.raw_channel()
        try:
            await self.topology.declare(channel)
        finally:
            if not channel.is_closed:
                await channel.close()

    async def _keep_whole(self) -> None:
        """Make lost connections anew at once, and what else is missing as soon as a check finds it.

        There is one way back to a whole bus, the one it started by: what the driver repairs in place can
        stop half-way (a broker killed twice, a queue without a leader yet) and leave a consumer out.
        """
        tuning = self._tuning
        pause = tuning.guard_interval
        while True:
            if await self._lost_within(pause):
                await self._renew("a connection was lost")
                pause = tuning.guard_interval
                continue
            reason = await self._missing()
            if reason is not None and not await self._lost_within(tuning.check_again):
                reason = await self._missing()
            if reason is None:
                pause = tuning.guard_interval
                if any(reader.consumer.unmoved for reader in self._readers):
                    await self._declare_again()
                continue
            await self._renew(reason)
            pause = min(2 * pause, tuning.renew_longest)

    async def _lost_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._lost.wait()
        except TimeoutError:
            return False

    async def _declare_again(self) -> None:
        log.warning("topology_incomplete", reason="a failed message finds no queue to go to")
        try:
            async with asyncio.timeout(self._tuning.start_timeout):
                await self._declare()
        except Exception as error:  # noqa: BLE001 - the broker is away; the next round tries again.
            log.debug("topology_not_declared", error=type(error).__name__)

    async def _renew(self, reason: str) -> None:
        """What runs goes on; its acknowledgement is lost with the connection: the inbox absorbs the copy."""
        log.warning("connections_renewed", reason=reason)
        await self._disconnect()
        await asyncio.sleep(self._tuning.connect_pause_first * random.random())
        try:
            await self._connect_patiently()
        except Exception as error:  # noqa: BLE001 - at start it ends the attempt; here the next round meets it again.
            log.error("connection_refused", error=f"{type(error).__name__}: {error}")  # noqa: TRY400 - the message says it all.
            return
        for listener in self._gap_listeners:
            try:
                listener()
            except Exception:
                log.exception("gap_listener_failed")

    async def _missing(self) -> str | None:
        try:
            await self.check()
        except Exception as lost:  # noqa: BLE001 - the guard must outlive anything it meets.
            return str(lost)
        return None


def _seen(task: asyncio.Task[None]) -> None:
    """A check whose callers have left may fail without anybody to tell."""
    if not task.cancelled():
        task.exception()
