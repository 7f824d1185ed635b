"""The one way to the broker: consume, publish, check."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from kairos_contracts.message import Message
from kairos_messaging.delivery import Handler, RawHandler


class Bus:
    """Consumes the queues of the catalogue and publishes with confirms, on separate connections."""

    def __init__(self, url: str, *, service: str, prefetch: int = 32) -> None: ...

    def consume(
        self, queue: str, handler: Handler, *, concurrency: int = 16, ordered: bool = False
    ) -> None: ...

    def consume_raw(self, queue: str, handler: RawHandler, *, concurrency: int = 16) -> None: ...

    def on_replica(self, types: Sequence[type[Message]], handler: Handler) -> None: ...

    async def start(self) -> None: ...

    async def stop(self, grace: float = 20.0) -> None: ...

    async def publish(
        self,
        message: Message,
        *,
        organisation_id: UUID | None,
        causation_id: UUID | None = None,
        traceparent: str | None = None,
        message_id: UUID | None = None,
    ) -> None: ...

    async def publish_prepared(
        self,
        *,
        headers: Mapping[str, Any],
        body: bytes,
        exchange: str | None = None,
        routing_key: str | None = None,
    ) -> None:
        """Publish an envelope's headers and body. Without an exchange the message's type decides where it goes;
        a replay names exchange "" and the queue as routing key."""

    async def check(self) -> None: ...
