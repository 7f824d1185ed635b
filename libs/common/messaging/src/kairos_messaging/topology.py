"""Exchanges, queues and bindings, computed from the catalogue of messages.

Every service declares all of it at start, so an event published before its consumer has ever
started waits for it. Nothing here needs more than RabbitMQ 3.10, and nothing relies on a default
that 4.x changed: queue types, delivery limits and dead-letter strategies are always explicit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from aiormq.abc import AbstractChannel
from faststream.rabbit.schemas.queue import ClassicQueueArgs

from kairos_contracts.catalogue import queues as catalogue_queues
from kairos_contracts.registry import model_for
from kairos_messaging.tuning import PRODUCTION

EVENTS = "kairos.events"
COMMANDS = "kairos.commands"
DEAD = "kairos.dead"
DEAD_LETTERS = "observability.dead-letters"

DELIVERY_LIMIT = 20
# The dead letters are the last place, so the broker must never give up on one of them. Without a
# limit 4.x would take 20; a number both 3.10 and 4.x accept stands for "never".
NO_DELIVERY_LIMIT = 1_000_000_000

Arguments: TypeAlias = Mapping[str, str | int]


@dataclass(frozen=True)
class Queue:
    name: str
    arguments: Arguments


@dataclass(frozen=True)
class Binding:
    exchange: str
    queue: str
    routing_key: str


@dataclass(frozen=True)
class Topology:
    """What must exist on the broker. `exchanges` maps a name to its kind."""

    exchanges: Mapping[str, str]
    queues: tuple[Queue, ...]
    bindings: tuple[Binding, ...]
    consumable: frozenset[str]
    retry_delays: tuple[float, ...] = field(default=PRODUCTION.retry_delays)

    def retry_queue(self, queue: str, attempt: int) -> str | None:
        """Where a message waits after its `attempt`-th failure (from 1); None when the ladder has ended."""
        if attempt > len(self.retry_delays):
            return None
        return retry_queue_name(queue, self.retry_delays[max(attempt, 1) - 1])

    async def declare(self, channel: AbstractChannel) -> None:
        """Create what is missing. Raises ChannelPreconditionFailed where the broker has other arguments."""
        for name, kind in self.exchanges.items():
            await channel.exchange_declare(exchange=name, exchange_type=kind, durable=True)
        for queue in self.queues:
            await channel.queue_declare(queue.name, durable=True, arguments=dict(queue.arguments))
        for binding in self.bindings:
            await channel.queue_bind(binding.queue, binding.exchange, routing_key=binding.routing_key)


def from_catalogue(
    retry_delays: tuple[float, ...] = PRODUCTION.retry_delays,
    queues: Mapping[str, tuple[str, ...]] | None = None,
) -> Topology:
    """The topology of the suite. `queues` (name -> message types) replaces the catalogue in tests."""
    if not retry_delays:
        raise ValueError("a retry ladder has at least one delay")
    wanted = catalogue_queues() if queues is None else queues
    declared: list[Queue] = [Queue(DEAD_LETTERS, _dead_letter_arguments())]
    bindings = [Binding(DEAD, DEAD_LETTERS, "#")]
    for name, types in wanted.items():
        declared.append(Queue(name, _work_arguments(name)))
        bindings += [Binding(exchange_for(type_name), name, type_name) for type_name in types]
    consumable = frozenset(queue.name for queue in declared)
    declared += [
        Queue(retry_queue_name(name, delay), _retry_arguments(name, delay))
        for name in sorted(consumable)
        for delay in retry_delays
    ]
    return Topology(
        exchanges={EVENTS: "topic", COMMANDS: "direct", DEAD: "topic"},
        queues=tuple(declared),
        bindings=tuple(bindings),
        consumable=consumable,
        retry_delays=retry_delays,
    )


def exchange_for(type_name: str) -> str:
    """The exchange a message type is published to. Raises UnknownMessageType for one without a model."""
    return COMMANDS if model_for(type_name).KIND == "command" else EVENTS


def retry_queue_name(queue: str, delay: float) -> str:
    return f"{queue}.retry.{_readable(delay)}"


def replica_arguments(service: str) -> ClassicQueueArgs:
    """A replica's own queue lives as long as its connection, so it is classic and not durable."""
    return {"x-dead-letter-exchange": DEAD, "x-dead-letter-routing-key": f"{service}.replica"}


def _readable(delay: float) -> str:
    if delay >= 60 and delay % 60 == 0:  # noqa: PLR2004 - seconds in a minute
        return f"{int(delay // 60)}m"
    return f"{int(delay)}s" if delay == int(delay) else f"{int(delay * 1000)}ms"


def _work_arguments(queue: str) -> Arguments:
    return {
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-dead-letter-exchange": DEAD,
        "x-dead-letter-routing-key": queue,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def _retry_arguments(queue: str, delay: float) -> Arguments:
    return {
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-message-ttl": int(delay * 1000),
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": queue,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def _dead_letter_arguments() -> Arguments:
    return {"x-queue-type": "quorum", "x-delivery-limit": NO_DELIVERY_LIMIT}
