"""Buses on the real broker with short delays, and helpers every test here uses."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID, uuid4

import psycopg
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from kairos_contracts.conversation.v1 import BotLifecycleChangedV1
from kairos_messaging import DEAD_LETTERS, Bus, DeadLetter, Delivery, RawDelivery, Tuning
from kairos_messaging.topology import Topology, from_catalogue
from kairos_persistence import Database, create_engine
from kairos_persistence.schema import create_messaging_tables
from kairos_telemetry import configure
from kairos_testkit.databases import Provisioned

QUEUE = "observability.events"
TYPE = BotLifecycleChangedV1.TYPE
ORGANISATION = UUID("00000000-0000-4000-8000-00000000000a")

FAST = Tuning(
    connect_pause_first=0.05,
    connect_pause_longest=0.2,
    check_again=0.1,
    retry_delays=(0.05, 0.1, 0.15, 0.2),
    pause_first=0.05,
    pause_longest=0.2,
    publish_timeout=10.0,
    guard_interval=60.0,
)


class Eventually(Protocol):
    def __call__(
        self, what: Callable[[], object | Awaitable[object]], *, within: float = 15.0
    ) -> Awaitable[Any]: ...


class MakeBus(Protocol):
    def __call__(
        self, *, tuning: Tuning = FAST, topology: Topology | None = None, service: str = "bot-worker"
    ) -> Bus: ...


@pytest.fixture
def queue() -> str:
    return QUEUE


@pytest.fixture
def fast() -> Tuning:
    return FAST


@pytest.fixture
def small() -> Topology:
    """One work queue instead of the whole catalogue: quorum queues cost time to make."""
    return from_catalogue(FAST.retry_delays, {QUEUE: (TYPE,)})


@pytest.fixture
async def make_bus(broker_url: str, small: Topology) -> AsyncIterator[MakeBus]:
    made: list[Bus] = []

    def make(*, tuning: Tuning = FAST, topology: Topology | None = None, service: str = "bot-worker") -> Bus:
        bus = Bus(broker_url, service=service, tuning=tuning, topology=topology or small)
        made.append(bus)
        return bus

    yield make
    for bus in made:
        await bus.stop(grace=2.0)


@pytest.fixture
def changed() -> Callable[..., BotLifecycleChangedV1]:
    """An event about a bot; `reason` tells one from another."""

    def make(reason: str, bot_id: UUID | None = None) -> BotLifecycleChangedV1:
        return BotLifecycleChangedV1(
            bot_id=bot_id or uuid4(), name="demo", from_state=None, to_state="running", reason=reason
        )

    return make


@pytest.fixture
def send(changed: Callable[..., BotLifecycleChangedV1]) -> Callable[..., Awaitable[UUID]]:
    """Publish one event through a bus; returns its id."""

    async def publish(bus: Bus, reason: str, bot_id: UUID | None = None) -> UUID:
        message_id = uuid4()
        await bus.publish(changed(reason, bot_id), organisation_id=ORGANISATION, message_id=message_id)
        return message_id

    return publish


@pytest.fixture
def eventually() -> Eventually:
    """Wait until something holds, at most `within` seconds; returns what it gave."""

    async def poll(what: Callable[[], Any], *, within: float = 15.0) -> Any:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        while True:
            value = what()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return value
            assert loop.time() < deadline, f"not within {within} s"
            await asyncio.sleep(0.02)

    return poll


class Recorder:
    """Notes every call, and fails the way it is told to."""

    def __init__(self, fail: Any = None) -> None:
        self.calls: list[Delivery[Any]] = []
        self.done: list[str] = []
        self._fail = fail

    async def __call__(self, delivery: Delivery[Any]) -> None:
        self.calls.append(delivery)
        if self._fail is not None:
            error = self._fail(delivery)
            if error is not None:
                raise error
        self.done.append(delivery.message.reason)


@pytest.fixture
def record() -> type[Recorder]:
    """Makes handlers that note their calls: `record()`, or `record(lambda delivery: error or None)`."""
    return Recorder


@pytest.fixture
def collect_dead() -> Callable[[Bus], list[DeadLetter]]:
    """Register a consumer of the dead letters before the start; returns the list it fills."""

    def register(bus: Bus) -> list[DeadLetter]:
        letters: list[DeadLetter] = []

        async def keep(raw: RawDelivery) -> None:
            letters.append(DeadLetter.of(raw))

        bus.consume_raw(DEAD_LETTERS, keep)
        return letters

    return register


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    telemetry = configure("test", otlp_endpoint=None, exporter=exporter)
    yield exporter
    telemetry.shutdown()


class _Ddl:
    """The part of Alembic's `op` that the messaging tables need, on a plain connection."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def execute(self, sqltext: str) -> object:
        return self._connection.execute(sqltext.encode())


@dataclass(frozen=True)
class Outbox:
    """A database with messaging tables and nothing else; `open` gives what one more process would have."""

    url: str

    def open(self) -> Database:
        return Database(create_engine(self.url, application_name="test", pool_size=4), service="bot-worker")


@pytest.fixture
def outbox(provisioned: Provisioned) -> Outbox:
    fresh = provisioned.database()
    with psycopg.connect(fresh.owner_url, autocommit=True) as connection:
        connection.execute("SET search_path TO bots")
        create_messaging_tables(_Ddl(connection))
    return Outbox(provisioned.role_url("bots", fresh.name))


@pytest.fixture
async def open_database(outbox: Outbox) -> AsyncIterator[Callable[[], Database]]:
    opened: list[Database] = []

    def make() -> Database:
        opened.append(outbox.open())
        return opened[-1]

    yield make
    for database in opened:
        await database.dispose()


@pytest.fixture
def emit(changed: Callable[..., BotLifecycleChangedV1]) -> Callable[..., Awaitable[UUID]]:
    """Commit one event into the outbox; returns its id."""

    async def write(database: Database, reason: str, bot_id: UUID | None = None) -> UUID:
        async with database.unit_of_work(ORGANISATION) as unit:
            return unit.emit(changed(reason, bot_id))

    return write
