"""Delivery on the real broker: who gets a message, how often and in which order."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import aio_pika
import pytest

from kairos_contracts.auth.v1 import OrganisationCreatedV1
from kairos_contracts.conversation.v1 import BotLifecycleChangedV1
from kairos_messaging import (
    Bus,
    DeadLetter,
    Delivery,
    PublishFailed,
    Tuning,
)
from kairos_messaging.topology import from_catalogue
from kairos_testkit.servers import Servers

pytestmark = pytest.mark.servers

MakeBus: TypeAlias = Callable[..., Bus]
Send: TypeAlias = Callable[..., Awaitable[UUID]]
Eventually: TypeAlias = Callable[..., Awaitable[Any]]
Record: TypeAlias = Callable[..., Any]
CollectDead: TypeAlias = Callable[[Bus], list[DeadLetter]]
Changed: TypeAlias = Callable[..., BotLifecycleChangedV1]


async def test_a_published_event_reaches_its_consumer_with_its_envelope(
    record: Record, make_bus: MakeBus, send: Send, eventually: Eventually, queue: str
) -> None:
    bus, got = make_bus(), record()
    bus.consume(queue, got)
    await bus.start()
    message_id = await send(bus, "hello")
    await eventually(lambda: got.done)
    (delivery,) = got.calls
    assert isinstance(delivery.message, BotLifecycleChangedV1)
    assert delivery.envelope.id == message_id
    assert delivery.envelope.source == "bot-worker"
    assert delivery.envelope.subject == str(delivery.message.bot_id)
    assert (delivery.attempt, delivery.queue) == (1, queue)


async def test_an_unroutable_publish_raises(make_bus: MakeBus) -> None:
    bus = make_bus()
    await bus.start()
    with pytest.raises(PublishFailed, match="NO_ROUTE"):
        await bus.publish(OrganisationCreatedV1(organisation_id=uuid4(), name="x"), organisation_id=None)


async def test_messages_of_one_aggregate_are_handled_in_order_while_others_run_beside(
    make_bus: MakeBus, send: Send, eventually: Eventually, queue: str
) -> None:
    bus = make_bus()
    running: dict[str, int] = {}
    widest = 0
    seen: dict[str, list[int]] = {}

    async def handle(delivery: Delivery[Any]) -> None:
        nonlocal widest
        subject = delivery.envelope.subject
        running[subject] = running.get(subject, 0) + 1
        assert running[subject] == 1
        widest = max(widest, sum(running.values()))
        number = int(delivery.message.reason)
        # The earlier a message, the longer it takes: without lanes the later ones would win.
        await asyncio.sleep(0.03 if number % 2 == 0 else 0)
        seen.setdefault(subject, []).append(number)
        running[subject] -= 1

    bus.consume(queue, handle, concurrency=8, ordered=True)
    await bus.start()
    bots = [uuid4() for _ in range(5)]
    for number in range(100):
        await send(bus, str(number), bots[number % 5])
    await eventually(lambda: sum(map(len, seen.values())) == 100)
    assert all(numbers == sorted(numbers) for numbers in seen.values())
    assert widest > 1


async def test_every_replica_gets_its_own_copy(
    record: Record, make_bus: MakeBus, send: Send, eventually: Eventually, queue: str
) -> None:
    first, second, third = make_bus(), make_bus(), make_bus()
    copies = [record(), record()]
    for bus, copy in zip((first, second), copies, strict=True):
        bus.on_replica([BotLifecycleChangedV1], copy)
        await bus.start()
    await third.start()
    await send(third, "for all")
    await eventually(lambda: all(copy.done == ["for all"] for copy in copies))


async def test_a_replica_needs_a_line_in_the_catalogue(record: Record, make_bus: MakeBus) -> None:
    with pytest.raises(ValueError, match="catalogue"):
        make_bus(service="budget-analytics").on_replica([BotLifecycleChangedV1], record())


async def test_a_failing_replica_handler_loses_its_copy_and_goes_on(
    record: Record, make_bus: MakeBus, send: Send, eventually: Eventually
) -> None:
    bus = make_bus()
    got = record(lambda call: RuntimeError("x") if call.message.reason == "bad" else None)
    bus.on_replica([BotLifecycleChangedV1], got)
    await bus.start()
    await send(bus, "bad")
    await send(bus, "good")
    await eventually(lambda: got.done == ["good"])
    assert len(got.calls) == 2


async def test_a_queue_outside_the_catalogue_is_refused(record: Record, make_bus: MakeBus) -> None:
    with pytest.raises(ValueError, match="not a queue"):
        make_bus().consume("bot-worker.typo", record())


async def test_the_whole_catalogue_is_declared_by_services_that_start_at_once(
    make_bus: MakeBus, fast: Tuning, broker_url: str, servers: Servers
) -> None:
    whole = from_catalogue(fast.retry_delays)
    buses = [make_bus(topology=whole) for _ in range(5)]
    await asyncio.gather(*(bus.start() for bus in buses))
    vhost = broker_url.rpartition("/")[2]
    found = {row["name"]: row for row in await asyncio.to_thread(servers.management.queues, vhost)}
    assert set(found) == {each.name for each in whole.queues}
    for each in whole.queues:
        assert found[each.name]["arguments"] == dict(each.arguments)


async def test_an_event_published_before_its_consumer_ever_started_waits(
    record: Record, make_bus: MakeBus, send: Send, eventually: Eventually, queue: str
) -> None:
    early = make_bus()
    await early.start()
    await send(early, "early")
    late, got = make_bus(), record()
    late.consume(queue, got)
    await late.start()
    await eventually(lambda: got.done == ["early"])


async def test_messages_are_persistent_json_and_carry_their_id_and_type(
    make_bus: MakeBus, send: Send, queue: str, broker_url: str
) -> None:
    bus = make_bus()
    await bus.start()
    message_id = await send(bus, "on disk")
    connection = await aio_pika.connect(broker_url)
    async with connection:
        work = await (await connection.channel()).get_queue(queue, ensure=False)
        message = await work.get(no_ack=True)
    assert message is not None
    assert message.delivery_mode is aio_pika.DeliveryMode.PERSISTENT
    assert (message.message_id, message.type) == (str(message_id), BotLifecycleChangedV1.TYPE)
    assert message.content_type == "application/json"
    assert message.headers["cloudEvents_specversion"] == "1.0"
