"""Publishing on a connection of its own: mandatory, persistent, confirmed, within a deadline.

The connection is separate from the consuming one because a memory or disk alarm of the broker
blocks whichever connection publishes. It does not repair itself: whoever owns it is told when it is
gone and connects again, so that there is one way to a whole connection.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from aio_pika import Connection, DeliveryMode, Message
from aio_pika.abc import AbstractChannel as ConfirmingChannel
from aiormq.abc import AbstractChannel
from pamqp.commands import Basic
from yarl import URL

from kairos_messaging.errors import PublishFailed
from kairos_messaging.lanes import Lanes
from kairos_messaging.tuning import Tuning

CONTENT_TYPE = "application/json"


def tuned_url(url: str, *, name: str, tuning: Tuning) -> URL:
    """The URL with what a connection needs: its name for operators, and a heartbeat.

    Without a heartbeat of its own a dead link is noticed after about three minutes.
    """
    return URL(url).update_query(name=name, heartbeat=str(tuning.heartbeat))


def cancelled_from_outside(error: BaseException) -> bool:
    """Whether somebody cancelled this task.

    The driver also raises CancelledError into whoever waits on a connection that it closes by force;
    taken for a cancellation, it would silently end a worker.
    """
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


class Publisher:
    """One connection with one channel in confirm mode. Usable between `open` and the loss of either.

    `lost` is called once when the broker or the network takes the connection or the channel away.
    """

    def __init__(self, url: URL, tuning: Tuning, lost: Callable[[], None]) -> None:
        self._url = url
        self._tuning = tuning
        self._lost = lost
        self._connection: Connection | None = None
        self._channel: ConfirmingChannel | None = None
        self._usable = asyncio.Event()
        # aiormq matches a returned message to its publish by message id, so the same id may not be
        # under way twice on one channel: the wrong one of the two would look confirmed.
        self._under_way = Lanes()

    @property
    def connected(self) -> bool:
        return self._channel is not None and self._usable.is_set()

    async def connect(self) -> None:
        """Connect, so that `raw_channel` works. Raises what the driver raises, or TimeoutError."""
        async with asyncio.timeout(self._tuning.connect_timeout):
            self._connection = connection = Connection(self._url)
            await connection.connect(timeout=self._tuning.connect_timeout)
            connection.close_callbacks.add(lambda *_: self._closed(connection))

    async def open(self) -> None:
        """Let publishes through. Raises what the driver raises, or TimeoutError."""
        connection = self._connection
        if connection is None:
            raise ConnectionError("not connected to the broker")
        async with asyncio.timeout(self._tuning.connect_timeout):
            channel = connection.channel(publisher_confirms=True, on_return_raises=True)
            await channel.initialize()
        channel.close_callbacks.add(lambda *_: self._closed(connection))
        self._channel = channel
        self._usable.set()

    async def close(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        self._usable.clear()
        if connection is not None:
            await connection.close()

    def end(self) -> None:
        """There will be no connection any more: let those who wait for one fail now."""
        self._usable.set()

    def _closed(self, connection: Connection) -> None:
        if connection is self._connection:
            self._usable.clear()
            self._lost()

    async def raw_channel(self) -> AbstractChannel:
        """A plain channel for declarations and checks; the caller closes it."""
        if self._connection is None or self._connection.transport is None:
            raise ConnectionError("not connected to the broker")
        return await self._connection.transport.connection.channel(publisher_confirms=False)

    async def send(
        self,
        *,
        exchange: str,
        routing_key: str,
        headers: Mapping[str, Any],
        body: bytes,
        message_id: str | None,
        type_name: str | None = None,
        content_type: str = CONTENT_TYPE,
    ) -> None:
        """Return when the broker has the message safe in a queue; raise PublishFailed in any other case."""
        message = Message(
            body,
            headers=dict(headers),
            message_id=message_id,
            type=type_name,
            content_type=content_type,
            delivery_mode=DeliveryMode.PERSISTENT,
            timestamp=datetime.now(UTC),
        )
        try:
            async with asyncio.timeout(self._tuning.publish_timeout), self._under_way.turn(message_id):
                result = await self._publish(message, exchange, routing_key)
        except asyncio.CancelledError as error:
            if cancelled_from_outside(error):
                raise
            raise PublishFailed("the connection was closed before the confirm") from None
        except Exception as error:
            raise PublishFailed(f"{type(error).__name__}: {error}") from error
        if not isinstance(result, Basic.Ack):
            raise PublishFailed(f"the broker answered {result!r}")

    async def _publish(self, message: Message, exchange: str, routing_key: str) -> object:
        # Waits while the connection is being made anew; the caller's deadline bounds it.
        await self._usable.wait()
        channel = self._channel
        if channel is None:
            raise ConnectionError("not connected to the broker")
        target = await channel.get_exchange(exchange, ensure=False) if exchange else channel.default_exchange
        return await target.publish(message, routing_key, mandatory=True)
