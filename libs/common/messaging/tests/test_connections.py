"""Connections on the real broker: what they are, how they are checked, repaired and closed."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeAlias
from uuid import UUID

import aio_pika
import pytest

from kairos_contracts.conversation.v1 import BotLifecycleChangedV1
from kairos_messaging import (
    Bus,
    ConsumerLost,
    DeadLetter,
    Delivery,
    PublishFailed,
    Tuning,
)
from kairos_telemetry.metrics import REGISTRY
from kairos_testkit.servers import Servers

pytestmark = pytest.mark.servers

MakeBus: TypeAlias = Callable[..., Bus]
Send: TypeAlias = Callable[..., Awaitable[UUID]]
Eventually: TypeAlias = Callable[..., Awaitable[Any]]
Record: TypeAlias = Callable[..., Any]
CollectDead: TypeAlias = Callable[[Bus], list[DeadLetter]]
Changed: TypeAlias = Callable[..., BotLifecycleChangedV1]


async def test_a_publish_without_a_connection_fails_within_its_deadline(
    make_bus: MakeBus, changed: Changed
) -> None:
    with pytest.raises(PublishFailed):
        await make_bus().publish(changed("x"), organisation_id=None)


async def test_check_passes_when_all_is_well_and_raises_before_the_start(
    record: Record, make_bus: MakeBus, queue: str
) -> None:
    bus = make_bus()
    bus.consume(queue, record())
    with pytest.raises(ConsumerLost):
        await bus.check()
    await bus.start()
    await bus.check()


async def test_check_notices_a_vanished_consumer(
    record: Record, make_bus: MakeBus, eventually: Eventually, servers: Servers, broker_url: str, queue: str
) -> None:
    bus = make_bus()
    bus.consume(queue, record())
    await bus.start()
    await bus.check()
    vhost = broker_url.rpartition("/")[2]
    await asyncio.to_thread(servers.management.call, "DELETE", f"/api/queues/{vhost}/{queue}")

    async def unhealthy() -> bool:
        try:
            await bus.check()
        except ConsumerLost:
            return True
        return False

    await eventually(unhealthy)


async def test_a_deleted_queue_is_declared_again_with_its_bindings(
    record: Record,
    make_bus: MakeBus,
    send: Send,
    eventually: Eventually,
    servers: Servers,
    broker_url: str,
    queue: str,
    fast: Tuning,
) -> None:
    bus, got = make_bus(tuning=replace(fast, guard_interval=0.2)), record()
    bus.consume(queue, got)
    await bus.start()
    vhost = broker_url.rpartition("/")[2]
    await asyncio.to_thread(servers.management.call, "DELETE", f"/api/queues/{vhost}/{queue}")

    async def sent() -> bool:
        try:
            await send(bus, "after")
        except PublishFailed:
            return False
        return True

    await eventually(sent)
    await eventually(lambda: "after" in got.done)

    async def healthy() -> bool:
        try:
            await bus.check()
        except ConsumerLost:
            return False
        return True

    await eventually(healthy)


async def test_connections_that_stay_broken_are_made_anew(
    record: Record, make_bus: MakeBus, send: Send, eventually: Eventually, queue: str, fast: Tuning
) -> None:
    bus, got = make_bus(tuning=replace(fast, guard_interval=0.1)), record()
    bus.consume(queue, got)
    await bus.start()
    subscriptions = bus._subscriptions
    assert subscriptions is not None
    # The driver takes a consumer we cancelled for one nobody wants, so it never comes back by itself.
    await subscriptions.cancel()
    with pytest.raises(ConsumerLost):
        await bus.check()
    await eventually(lambda: bus._subscriptions not in {None, subscriptions})

    async def sent() -> bool:
        try:
            await send(bus, "after")
        except PublishFailed:
            return False
        return True

    await eventually(sent)
    await eventually(lambda: "after" in got.done)
    await bus.check()


async def ready(broker_url: str, queue: str) -> int:
    """How many messages lie in the queue for whoever asks."""
    connection = await aio_pika.connect(broker_url)
    async with connection:
        found = await (await connection.channel()).declare_queue(queue, passive=True)
        return found.declaration_result.message_count or 0


def returned(queue: str) -> float:
    labels = {"queue": queue, "outcome": "returned"}
    return REGISTRY.get_sample_value("kairos_messages_consumed_total", labels) or 0.0


async def test_stop_finishes_running_handlers_and_gives_the_rest_back(
    record: Record, broker_url: str, make_bus: MakeBus, send: Send, eventually: Eventually, queue: str
) -> None:
    first = make_bus()
    entered, release = asyncio.Event(), asyncio.Event()
    finished: list[str] = []

    async def slow(delivery: Delivery[Any]) -> None:
        entered.set()
        await release.wait()
        finished.append(delivery.message.reason)

    first.consume(queue, slow, concurrency=1)
    await first.start()
    for number in range(6):
        await send(first, f"m{number}")
    await entered.wait()
    before = returned(queue)
    stopping = asyncio.create_task(first.stop(grace=10))

    async def given_back() -> bool:
        return await ready(broker_url, queue) == 5 and returned(queue) > before

    # While the handler still runs, what the process had fetched is there for others, and it gets no more.
    await eventually(given_back)
    second, rest = make_bus(), record()
    second.consume(queue, rest)
    await second.start()
    await send(second, "late")
    await eventually(lambda: "late" in rest.done)
    assert not stopping.done()
    release.set()
    await stopping
    await eventually(lambda: len(finished) + len(rest.done) == 7)
    assert len(finished) == 1
    assert returned(queue) == before + 1
    assert sorted(finished + rest.done) == ["late", *(f"m{number}" for number in range(6))]


async def test_stop_does_not_wait_longer_than_the_grace(
    record: Record, make_bus: MakeBus, send: Send, eventually: Eventually, queue: str
) -> None:
    bus = make_bus()
    entered = asyncio.Event()

    async def stuck(delivery: Delivery[Any]) -> None:
        entered.set()
        await asyncio.Event().wait()

    bus.consume(queue, stuck)
    await bus.start()
    await send(bus, "stuck")
    await entered.wait()
    async with asyncio.timeout(8):
        await bus.stop(grace=0.2)
    second, got = make_bus(), record()
    second.consume(queue, got)
    await second.start()
    await eventually(lambda: got.done == ["stuck"])


async def test_publishing_and_consuming_have_connections_of_their_own_with_a_short_heartbeat(
    record: Record, make_bus: MakeBus, eventually: Eventually, queue: str, servers: Servers, broker_url: str
) -> None:
    bus = make_bus()
    bus.consume(queue, record(), concurrency=4)
    await bus.start()
    vhost = broker_url.rpartition("/")[2]

    async def connections() -> dict[str, Any] | None:
        rows = await asyncio.to_thread(servers.management.call, "GET", f"/api/vhosts/{vhost}/connections")
        found = {row.get("client_properties", {}).get("connection_name"): row.get("timeout") for row in rows}
        return found if len(found) == 2 and None not in found.values() else None

    assert await eventually(connections) == {"bot-worker.publish": 10, "bot-worker.consume": 10}

    async def prefetch() -> list[int]:
        rows = await asyncio.to_thread(servers.management.call, "GET", f"/api/consumers/{vhost}")
        return [row["prefetch_count"] for row in rows]

    assert await eventually(prefetch) == [8]


async def test_a_publish_to_a_broker_that_hangs_fails_within_its_deadline(
    record: Record,
    make_bus: MakeBus,
    send: Send,
    eventually: Eventually,
    queue: str,
    servers: Servers,
    fast: Tuning,
) -> None:
    bus, got = make_bus(tuning=replace(fast, publish_timeout=0.5)), record()
    bus.consume(queue, got)
    await bus.start()
    await asyncio.to_thread(servers.rabbitmq.pause)
    try:
        async with asyncio.timeout(3):
            with pytest.raises(PublishFailed, match="TimeoutError"):
                await send(bus, "maybe")
    finally:
        await asyncio.to_thread(servers.rabbitmq.resume)
    await send(bus, "surely")
    # The first one may have arrived: an unconfirmed publish has an unknown fate.
    await eventually(lambda: "surely" in got.done)
