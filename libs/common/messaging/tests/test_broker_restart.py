"""What a broker that dies and comes back does to publishers and consumers."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias
from uuid import UUID

import pytest

from kairos_contracts.conversation.v1 import BotLifecycleChangedV1
from kairos_messaging import DEAD_LETTERS, Bus, ConsumerLost, Delivery, PublishFailed, RawDelivery
from kairos_testkit.servers import Servers

pytestmark = [pytest.mark.servers, pytest.mark.chaos]

MakeBus: TypeAlias = Callable[..., Bus]
Send: TypeAlias = Callable[..., Awaitable[UUID]]
Eventually: TypeAlias = Callable[..., Awaitable[Any]]


async def healthy(bus: Bus) -> bool:
    try:
        await bus.check()
    except ConsumerLost:
        return False
    return True


async def kill_and_restart(servers: Servers) -> None:
    await asyncio.to_thread(servers.rabbitmq.kill)
    await asyncio.to_thread(servers.rabbitmq.start)


async def test_what_was_confirmed_survives_kill_9_and_consumers_come_back(
    make_bus: MakeBus, send: Send, eventually: Eventually, queue: str, servers: Servers
) -> None:
    bus = make_bus()
    received: set[UUID] = set()
    copies: list[str] = []
    dead: list[RawDelivery] = []

    async def handle(delivery: Delivery[Any]) -> None:
        received.add(delivery.envelope.id)

    async def replica(delivery: Delivery[Any]) -> None:
        copies.append(delivery.message.reason)

    async def bury(raw: RawDelivery) -> None:
        dead.append(raw)

    bus.consume(queue, handle, concurrency=8)
    bus.consume_raw(DEAD_LETTERS, bury)
    bus.on_replica([BotLifecycleChangedV1], replica)
    await bus.start()
    confirmed: list[UUID] = []
    failed = 0
    publishing = True

    async def publisher(name: int) -> None:
        nonlocal failed
        number = 0
        while publishing:
            number += 1
            try:
                confirmed.append(await send(bus, f"{name}/{number}"))
            except PublishFailed:
                failed += 1
                await asyncio.sleep(0.05)

    publishers = [asyncio.create_task(publisher(name)) for name in range(5)]
    await eventually(lambda: len(confirmed) > 100)
    await kill_and_restart(servers)
    before = len(confirmed)
    await eventually(lambda: len(confirmed) > before + 100, within=30)
    publishing = False
    await asyncio.gather(*publishers)
    await eventually(lambda: received >= set(confirmed), within=30)
    assert failed, "the kill must have hit publishes under way"
    await eventually(lambda: healthy(bus), within=30)
    await send(bus, "replica again")
    await eventually(lambda: "replica again" in copies)
    assert not dead


async def test_a_bus_started_without_a_broker_waits_for_it(
    make_bus: MakeBus, send: Send, eventually: Eventually, queue: str, servers: Servers
) -> None:
    bus = make_bus()
    got: list[str] = []

    async def handle(delivery: Delivery[Any]) -> None:
        got.append(delivery.message.reason)

    bus.consume(queue, handle)
    await asyncio.to_thread(servers.rabbitmq.stop)
    starting = asyncio.create_task(bus.start())
    try:
        with pytest.raises(PublishFailed):
            await send(bus, "too early")
        assert not await healthy(bus)
    finally:
        await asyncio.to_thread(servers.rabbitmq.start)
    async with asyncio.timeout(30):
        await starting
    await send(bus, "now")
    await eventually(lambda: got == ["now"])
    assert await healthy(bus)


async def test_a_start_without_a_broker_can_be_cancelled(make_bus: MakeBus, servers: Servers) -> None:
    bus = Bus("amqp://guest:guest@127.0.0.1:1/", service="bot-worker")
    starting = asyncio.create_task(bus.start())
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await bus.stop()


async def test_a_cut_connection_is_repaired_and_the_message_in_hand_comes_again(
    make_bus: MakeBus, send: Send, eventually: Eventually, queue: str, servers: Servers, broker_url: str
) -> None:
    bus = make_bus()
    calls: list[UUID] = []
    entered, release = asyncio.Event(), asyncio.Event()

    async def handle(delivery: Delivery[Any]) -> None:
        calls.append(delivery.envelope.id)
        entered.set()
        await release.wait()

    bus.consume(queue, handle)
    await bus.start()
    message_id = await send(bus, "in hand")
    await entered.wait()
    vhost = broker_url.rpartition("/")[2]

    async def both_known() -> bool:
        path = f"/api/vhosts/{vhost}/connections"
        return len(await asyncio.to_thread(servers.management.call, "GET", path)) == 2

    # The statistics of the management API are some seconds old.
    await eventually(both_known, within=30)
    assert await asyncio.to_thread(servers.management.close_connections, vhost) == 2
    release.set()
    await eventually(lambda: len(calls) >= 2, within=30)
    assert set(calls) == {message_id}
    await eventually(lambda: healthy(bus), within=30)
