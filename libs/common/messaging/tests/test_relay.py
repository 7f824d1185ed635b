"""The outbox relay on real PostgreSQL and RabbitMQ."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from kairos_contracts.auth.v1 import OrganisationCreatedV1
from kairos_messaging import Bus, Delivery, OutboxRelay
from kairos_messaging.topology import from_catalogue
from kairos_persistence import Database, create_engine
from kairos_telemetry.metrics import REGISTRY

pytestmark = pytest.mark.servers

MakeBus: TypeAlias = Callable[..., Bus]
Emit: TypeAlias = Callable[..., Awaitable[UUID]]
Eventually: TypeAlias = Callable[..., Awaitable[Any]]
OpenDatabase: TypeAlias = Callable[[], Database]

EXPIRE = "UPDATE outbox SET claimed_until = now() - interval '1 second' WHERE published_at IS NULL"


async def run_sql(database: Database, statement: str) -> Any:
    async with database.system_unit_of_work() as unit:
        result = await unit.session.execute(text(statement))
        return result.all() if result.returns_rows else None


async def pending(database: Database) -> int:
    rows = await run_sql(database, "SELECT count(*) FROM outbox WHERE published_at IS NULL")
    return int(rows[0][0])


class Seen:
    """What arrived, in the order of arrival per aggregate."""

    def __init__(self) -> None:
        self.ids: list[UUID] = []
        self.reasons: dict[str, list[int]] = {}

    async def __call__(self, delivery: Delivery[Any]) -> None:
        self.ids.append(delivery.envelope.id)
        self.reasons.setdefault(delivery.envelope.subject, []).append(int(delivery.message.reason))


async def test_a_committed_event_is_published_as_it_was_emitted_and_marked(
    make_bus: MakeBus, open_database: OpenDatabase, emit: Emit, eventually: Eventually, queue: str
) -> None:
    bus, database = make_bus(), open_database()
    got: list[Delivery[Any]] = []

    async def handle(delivery: Delivery[Any]) -> None:
        got.append(delivery)

    bus.consume(queue, handle)
    await bus.start()
    message_id = await emit(database, "1")
    assert await OutboxRelay(database, bus).relay_once() == 1
    await eventually(lambda: got)
    assert got[0].envelope.id == message_id
    assert got[0].envelope.source == "bot-worker"
    assert str(got[0].envelope.organisation_id) == "00000000-0000-4000-8000-00000000000a"
    assert await pending(database) == 0
    assert await OutboxRelay(database, bus).relay_once() == 0


async def test_two_relays_publish_each_row_once_and_in_order(
    make_bus: MakeBus, open_database: OpenDatabase, emit: Emit, eventually: Eventually, queue: str
) -> None:
    bus, seen = make_bus(), Seen()
    bus.consume(queue, seen, concurrency=1, ordered=True)
    await bus.start()
    writer = open_database()
    relays = [OutboxRelay(open_database(), bus, batch=7, poll=0.01) for _ in range(2)]
    running = [asyncio.create_task(relay.run()) for relay in relays]
    bots = [uuid4() for _ in range(10)]

    async def write(bot: UUID) -> None:
        for number in range(30):
            await emit(writer, str(number), bot)

    await asyncio.gather(*(write(bot) for bot in bots[:5]))
    await asyncio.gather(*(write(bot) for bot in bots[5:]))
    await eventually(lambda: len(seen.ids) >= 300, within=40)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    assert await pending(writer) == 0
    assert len(seen.ids) == len(set(seen.ids)) == 300
    assert all(numbers == list(range(30)) for numbers in seen.reasons.values())


@pytest.mark.chaos
async def test_a_relay_killed_between_confirm_and_mark_makes_a_duplicate_that_the_inbox_absorbs(
    make_bus: MakeBus,
    open_database: OpenDatabase,
    emit: Emit,
    eventually: Eventually,
    queue: str,
    outbox: Any,
    broker_url: str,
) -> None:
    bus, database = make_bus(topology=from_catalogue()), open_database()
    await bus.start()
    message_id = await emit(database, "once")
    program = Path(__file__).with_name("relay_process.py")
    killed = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, str(program), broker_url, outbox.url, "outbox.published=kill"],
        timeout=60,
        check=False,
    )
    assert killed.returncode == -9
    assert await pending(database) == 1
    # Its claim protects the row until the lease ends; the next relay then publishes it again.
    assert await OutboxRelay(database, bus).relay_once() == 0
    await run_sql(database, EXPIRE)
    assert await OutboxRelay(database, bus).relay_once() == 1

    deliveries: list[UUID] = []
    effects: list[UUID] = []

    async def handle(delivery: Delivery[Any]) -> None:
        async with database.unit_of_work(delivery.envelope.organisation_id) as unit:
            if await unit.first_time("test", delivery.envelope.id):
                effects.append(delivery.envelope.id)
        deliveries.append(delivery.envelope.id)

    reader = make_bus(topology=from_catalogue())
    reader.consume(queue, handle)
    await reader.start()
    await eventually(lambda: len(deliveries) == 2)
    assert deliveries == [message_id] * 2
    assert effects == [message_id]


async def test_a_relay_that_slept_past_its_lease_marks_nothing(
    make_bus: MakeBus, open_database: OpenDatabase, emit: Emit
) -> None:
    bus, database = make_bus(), open_database()
    await bus.start()
    await emit(database, "1")
    sleeper, token = OutboxRelay(database, bus), uuid4()
    rows = await sleeper._claim(token)
    await run_sql(database, EXPIRE)
    other = uuid4()
    assert await OutboxRelay(database, bus)._claim(other)
    await sleeper._settle(rows, {rows[0].id}, token)
    found = await run_sql(database, "SELECT published_at, claim_token FROM outbox")
    assert found == [(None, other)]


async def test_a_row_that_cannot_be_published_holds_back_its_aggregate_only(
    make_bus: MakeBus, open_database: OpenDatabase, emit: Emit, eventually: Eventually, queue: str
) -> None:
    bus, database, seen = make_bus(), open_database(), Seen()
    bus.consume(queue, seen)
    await bus.start()
    stuck, free = uuid4(), uuid4()
    async with database.unit_of_work(None) as unit:
        # The small topology has no queue for this type, so the broker returns it.
        unit.emit(OrganisationCreatedV1(organisation_id=stuck, name="x"))
    await emit(database, "1", stuck)
    await emit(database, "2", free)
    relay = OutboxRelay(database, bus)
    assert await relay.relay_once() == 1
    assert await relay.relay_once() == 0
    await eventually(lambda: seen.reasons)
    assert seen.reasons == {str(free): [2]}
    rows = await run_sql(database, "SELECT attempts FROM outbox WHERE published_at IS NULL ORDER BY sequence")
    assert rows == [(1,), (1,)]


async def test_rows_wait_while_the_broker_is_away_and_leave_when_it_is_back(
    make_bus: MakeBus, open_database: OpenDatabase, emit: Emit, eventually: Eventually, queue: str
) -> None:
    bus, database, seen = make_bus(), open_database(), Seen()
    bus.consume(queue, seen)
    relay = asyncio.create_task(OutboxRelay(database, bus, poll=0.02).run())
    for number in range(20):
        await emit(database, str(number))

    async def tried() -> bool:
        rows = await run_sql(database, "SELECT min(attempts) FROM outbox")
        return bool(rows[0][0] >= 1)

    await eventually(tried)
    assert await pending(database) == 20
    await bus.start()
    await eventually(lambda: len(seen.ids) == 20, within=30)
    relay.cancel()
    await asyncio.gather(relay, return_exceptions=True)
    assert await pending(database) == 0


async def test_the_relay_outlives_a_database_that_is_away(make_bus: MakeBus, eventually: Eventually) -> None:
    nowhere = create_engine("postgresql://x:x@127.0.0.1:1/x", application_name="test")
    database = Database(nowhere, service="bot-worker")
    relay = OutboxRelay(database, make_bus(), poll=0.01)
    running = asyncio.create_task(relay.run())
    for _ in range(3):
        database.outbox_written.set()
        await eventually(lambda: not database.outbox_written.is_set())
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await database.dispose()


async def test_a_cancelled_relay_finishes_the_batch_in_hand(
    make_bus: MakeBus, open_database: OpenDatabase, emit: Emit, eventually: Eventually
) -> None:
    bus, database = make_bus(), open_database()
    await bus.start()
    for number in range(50):
        await emit(database, str(number))
    running = asyncio.create_task(OutboxRelay(database, bus).run())

    async def claimed() -> bool:
        rows = await run_sql(database, "SELECT count(*) FROM outbox WHERE attempts > 0")
        return bool(rows[0][0])

    await eventually(claimed)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert await pending(database) == 0


async def test_pending_rows_and_their_age_are_measured(
    make_bus: MakeBus, open_database: OpenDatabase, emit: Emit
) -> None:
    database = open_database()
    await emit(database, "1")
    await run_sql(database, "UPDATE outbox SET claimed_until = now() + interval '1 hour'")
    await run_sql(database, "UPDATE outbox SET created_at = created_at - interval '1 minute'")
    await OutboxRelay(database, make_bus())._measure()
    assert REGISTRY.get_sample_value("kairos_outbox_pending") == 1
    assert (REGISTRY.get_sample_value("kairos_outbox_oldest_age_seconds") or 0) > 59
