"""What a handler receives."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from kairos_contracts.message import Envelope, Message

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Delivery(Generic[M]):
    """A parsed message. `attempt` is 1 on the first try and grows by one per rung of the retry ladder."""

    envelope: Envelope
    message: M
    attempt: int
    queue: str


@dataclass(frozen=True)
class RawDelivery:
    """A message as it lies in the queue, for consumers that must take malformed ones (dead letters)."""

    queue: str
    exchange: str
    routing_key: str
    headers: Mapping[str, Any]
    body: bytes
    message_id: str | None
    redelivered: bool
    attempt: int = 1


Handler: TypeAlias = Callable[[Delivery[Any]], Awaitable[None]]
RawHandler: TypeAlias = Callable[[RawDelivery], Awaitable[None]]
