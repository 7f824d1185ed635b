"""From an AMQP message to the piece of work a handler does with it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from aio_pika.abc import AbstractIncomingMessage

from kairos_contracts.message import Envelope
from kairos_contracts.registry import model_for
from kairos_messaging.delivery import Delivery, Handler, RawDelivery, RawHandler
from kairos_messaging.failures import attempt_of


@dataclass(frozen=True)
class Job:
    """`subject` is the aggregate the message is about, `run` the handler with its delivery."""

    subject: str
    traceparent: str | None
    run: Callable[[], Awaitable[None]]


Prepare: TypeAlias = Callable[[AbstractIncomingMessage], Job]


def parsed(queue: str, handler: Handler) -> Prepare:
    """Jobs on parsed messages. Preparing raises ValidationError or UnknownMessageType for a malformed one."""

    def prepare(message: AbstractIncomingMessage) -> Job:
        headers: dict[str, object] = dict(message.headers)
        envelope = Envelope.from_headers(headers)
        model = model_for(envelope.type).model_validate_json(message.body)
        delivery: Delivery[Any] = Delivery(envelope, model, attempt_of(headers), queue)
        return Job(envelope.subject, envelope.traceparent, lambda: handler(delivery))

    return prepare


def unparsed(queue: str, handler: RawHandler) -> Prepare:
    """Jobs on messages as they lie in the queue."""

    def prepare(message: AbstractIncomingMessage) -> Job:
        headers = dict(message.headers)
        traceparent = headers.get("traceparent")
        delivery = RawDelivery(
            queue=queue,
            exchange=message.exchange or "",
            routing_key=message.routing_key or "",
            headers=headers,
            body=message.body,
            message_id=message.message_id,
            redelivered=bool(message.redelivered),
            attempt=attempt_of(headers),
        )
        return Job("", traceparent if isinstance(traceparent, str) else None, lambda: handler(delivery))

    return prepare
