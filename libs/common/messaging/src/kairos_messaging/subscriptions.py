"""The consuming connection: FastStream's broker with every acknowledgement in our own hands."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aio_pika.abc import AbstractIncomingMessage
from aiormq import Channel as DriverChannel
from aiormq.abc import AbstractChannel
from faststream import AckPolicy
from faststream.message import StreamMessage
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue
from faststream.rabbit.schemas.queue import ClassicQueueArgs
from faststream.rabbit.subscriber import RabbitSubscriber
from yarl import URL

from kairos_messaging.consumer import Consumer
from kairos_messaging.errors import ConsumerLost
from kairos_messaging.topology import EVENTS
from kairos_messaging.tuning import Tuning

# Seconds between the driver's own tries to connect again, in effect never: its repair can stop half-way
# and leave a consumer out for good, so a lost connection is told to the owner, who starts afresh.
NO_OWN_REPAIR = 1e8


@dataclass(frozen=True, eq=False)
class Reader:
    """A consumer with the queue it reads. `bound_types` and `arguments` are for a replica's own queue."""

    consumer: Consumer
    prefetch: int
    bound_types: tuple[str, ...] = ()
    arguments: ClassicQueueArgs | None = None


async def _as_it_came(message: StreamMessage[AbstractIncomingMessage]) -> AbstractIncomingMessage:
    """Keep FastStream from decoding: our parsing decides between handler, ladder and dead letters.

    A coroutine, because FastStream sends a plain function through its thread pool for every message.
    """
    return message.raw_message


class Subscriptions:
    """One broker connection for all readers. Made anew for every start; `lost` is called when it is gone."""

    def __init__(self, url: URL, readers: Sequence[Reader], tuning: Tuning, lost: Callable[[], None]) -> None:
        self._tuning = tuning
        self._readers = tuple(readers)
        self._lost = lost
        self._stopping = False
        self._broker = RabbitBroker(
            str(url),
            timeout=tuning.connect_timeout,
            reconnect_interval=NO_OWN_REPAIR,
            on_close=(self._closed,),
            ack_policy=AckPolicy.MANUAL,
            # Draining is done before the broker is stopped; what is left then is not worth waiting for.
            graceful_timeout=0.1,
            apply_types=False,
            logger=None,
        )
        self._subscribers = {reader: self._subscribe(reader) for reader in self._readers}

    def _subscribe(self, reader: Reader) -> RabbitSubscriber:
        subscription = reader.consumer.subscription
        if subscription.replica:
            queue = RabbitQueue(
                subscription.queue,
                queue_type=QueueType.CLASSIC,
                durable=False,
                exclusive=True,
                auto_delete=True,
                arguments=reader.arguments,
            )
        else:
            # The topology has declared it; declaring here again could only disagree.
            queue = RabbitQueue(subscription.queue, declare=False)
        subscriber = self._broker.subscriber(
            queue,
            channel=Channel(prefetch_count=reader.prefetch),
            ack_policy=AckPolicy.MANUAL,
            decoder=_as_it_came,
            no_reply=True,
        )
        subscriber(reader.consumer.take)
        return subscriber

    async def start(self) -> None:
        """Connect and register every reader. Raises what the driver raises, or TimeoutError."""
        async with asyncio.timeout(self._tuning.start_timeout):
            await self._start()

    async def _start(self) -> None:
        await self._broker.start()
        for reader, subscriber in self._subscribers.items():
            queue = subscriber._queue_obj  # noqa: SLF001 - FastStream binds one key only; the queue is its private field.
            for type_name in reader.bound_types:
                if queue is not None:
                    await queue.bind(EVENTS, type_name)

    async def cancel(self) -> None:
        """Tell the broker to send no more. FastStream's own stop would first wait for the handlers."""
        for subscriber in self._subscribers.values():
            queue, tag = subscriber._queue_obj, subscriber._consumer_tag  # noqa: SLF001 - see above.
            subscriber._consumer_tag = None  # noqa: SLF001 - so that stop() does not cancel again.
            if queue is None or tag is None or queue.channel.is_closed:
                continue
            try:
                await queue.cancel(tag, timeout=self._tuning.check_timeout)
            except Exception:  # noqa: BLE001, S112 - a channel that breaks now is cancelled too.
                continue

    async def stop(self) -> None:
        self._stopping = True
        await self._broker.stop()

    def _closed(self, *_: object) -> None:
        if not self._stopping:
            self._lost()

    async def check(self) -> None:
        """Raise ConsumerLost unless every reader is registered here and its queue has a consumer there."""
        connection = self._broker._connection  # noqa: SLF001 - FastStream's own ping only asks for the connection.
        if connection is None or connection.transport is None or not connection.connected.is_set():
            raise ConsumerLost("the consuming connection is down")
        for subscriber in self._subscribers.values():
            await self._check_registered(subscriber)
        channel = await connection.transport.connection.channel(publisher_confirms=False)
        try:
            for reader in self._readers:
                await _check_known(channel, reader.consumer.subscription.queue)
        finally:
            if not channel.is_closed:
                await channel.close()

    async def _check_registered(self, subscriber: RabbitSubscriber) -> None:
        queue, tag = subscriber._queue_obj, subscriber._consumer_tag  # noqa: SLF001 - see above.
        if queue is None or tag is None:
            raise ConsumerLost(f"{subscriber.queue.name}: not consuming")
        channel = await queue.channel.get_underlay_channel()
        if not isinstance(channel, DriverChannel):
            raise ConsumerLost(f"{queue.name}: unknown kind of channel")
        # The driver forgets a tag when the broker cancels the consumer (queue deleted, leader lost).
        if channel.is_closed or tag not in channel.consumers:
            raise ConsumerLost(f"{queue.name}: the broker cancelled our consumer")


async def _check_known(channel: AbstractChannel, queue: str) -> None:
    try:
        answer = await channel.queue_declare(queue, passive=True)
    except Exception as error:
        raise ConsumerLost(f"{queue}: {error}") from error
    if not answer.consumer_count:
        raise ConsumerLost(f"{queue}: the broker knows no consumer")
