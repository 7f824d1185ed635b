"""Delivery on the real broker: who gets a message, how often, in which order, and where it ends."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import aio_pika
import pytest

from kairos_contracts.auth.v1 import OrganisationCreatedV1
from kairos_contracts.conversation.v1 import BotLifecycleChangedV1
from kairos_faults import Action, arm, disarm
from kairos_messaging import (
    DEAD_LETTERS,
    Bus,
    ConsumerLost,
    DeadLetter,
    Delivery,
    InfrastructureUnavailable,
    PermanentError,
    PublishFailed,
    RawDelivery,
    Tuning,
)
from kairos_messaging.topology import from_catalogue
from kairos_persistence import DatabaseUnavailable
from kairos_telemetry.metrics import REGISTRY
from kairos_testkit.servers import Servers

pytestmark = pytest.mark.servers

MakeBus: TypeAlias = Callable[..., Bus]
Send: TypeAlias = Callable[..., Awaitable[UUID]]
Eventually: TypeAlias = Callable[..., Awaitable[Any]]
CollectDead: TypeAlias = Callable[[Bus], list[DeadLetter]]
Changed: TypeAlias = Callable[..., BotLifecycleChangedV1]


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


async def test_a_published_event_reaches_its_consumer_with_its_envelope(
    make_bus: MakeBus, send: Send, eventually: Eventually, queue: str
) -> None:
    bus, got = make_bus(), Recorder()
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


async def test_a_publish_without_a_connection_fails_within_its_deadline(
    make_bus: MakeBus, changed: Changed
) -> None:
    with pytest.raises(PublishFailed):
        await make_bus().publish(changed("x"), organisation_id=None)


async def test_a_failing_message_climbs_the_ladder_and_dies_after_five_attempts(
    make_bus: MakeBus, send: Send, eventually: Eventually, queue: str, collect_dead: CollectDead
) -> None:
    bus = make_bus()
    got = Recorder(lambda _: RuntimeError("no luck; password=hunter2secret"))
    bus.consume(queue, got)
    letters = collect_dead(bus)
    await bus.start()
    message_id = await send(bus, "poison")
    await eventually(lambda: letters)
    assert [call.attempt for call in got.calls] == [1, 2, 3, 4, 5]
    (letter,) = letters
    assert letter.message_id == str(message_id)
    assert (letter.queue, letter.error_class, letter.attempts) == (queue, "RuntimeError", 5)
    assert "no luck" in letter.error_text
    assert "hunter2" not in letter.error_text
    assert letter.traceparent is None or letter.traceparent.startswith("00-")
    assert len(letter.payload_sha256) == 64


async def test_a_message_that_recovers_on_the_ladder_is_handled_once(
    make_bus: MakeBus, send: Send, eventually: Eventually, queue: str
) -> None:
    bus = make_bus()
    got = Recorder(lambda call: RuntimeError("later") if call.attempt < 3 else None)
    bus.consume(queue, got)
    await bus.start()
    await send(bus, "flaky")
    await eventually(lambda: got.done)
    assert [call.attempt for call in got.calls] == [1, 2, 3]
    assert len({call.envelope.id for call in got.calls}) == 1


async def test_a_permanent_error_goes_to_the_dead_letters_on_the_first_failure(
    make_bus: MakeBus, send: Send, eventually: Eventually, queue: str, collect_dead: CollectDead
) -> None:
    bus = make_bus()
    got = Recorder(lambda _: PermanentError("not allowed"))
    bus.consume(queue, got)
    letters = collect_dead(bus)
    await bus.start()
    await send(bus, "forbidden")
    await eventually(lambda: letters)
    assert len(got.calls) == 1
    assert (letters[0].error_class, letters[0].attempts) == ("PermanentError", 1)


@pytest.mark.parametrize(
    ("headers", "body", "error_class"),
    [
        ({}, b"{}", "ValidationError"),
        ({"cloudEvents_type": "no.such.type.v1"}, b"{}", "UnknownMessageType"),
        ({"cloudEvents_type": BotLifecycleChangedV1.TYPE}, b"not json \x00\xff", "ValidationError"),
        (
            {"cloudEvents_type": BotLifecycleChangedV1.TYPE, "kairos-attempt": "many"},
            b"[]",
            "ValidationError",
        ),
    ],
)
async def test_a_malformed_message_is_dead_at_once_and_shows_no_value(
    make_bus: MakeBus,
    eventually: Eventually,
    queue: str,
    collect_dead: CollectDead,
    headers: dict[str, str],
    body: bytes,
    error_class: str,
) -> None:
    bus, got = make_bus(), Recorder()
    bus.consume(queue, got)
    letters = collect_dead(bus)
    await bus.start()
    envelope = {
        "cloudEvents_id": str(uuid4()),
        "cloudEvents_source": "test",
        "cloudEvents_subject": "s",
        "cloudEvents_time": "2026-01-01T00:00:00+00:00",
    }
    full = {**envelope, **headers} if headers else {}
    await bus.publish_prepared(headers=full, body=body, exchange="", routing_key=queue)
    await eventually(lambda: letters)
    assert (letters[0].error_class, letters[0].queue, letters[0].body) == (error_class, queue, body)
    assert "not json" not in letters[0].error_text
    assert not got.calls


async def test_poison_does_not_hold_up_other_messages(
    make_bus: MakeBus, send: Send, eventually: Eventually, queue: str, collect_dead: CollectDead
) -> None:
    bus = make_bus()
    got = Recorder(lambda call: RuntimeError("bad") if call.message.reason.startswith("bad") else None)
    bus.consume(queue, got, concurrency=4)
    letters = collect_dead(bus)
    await bus.start()
    for number in range(60):
        await send(bus, f"bad{number}" if number % 10 == 0 else f"good{number}")
    await eventually(lambda: len(got.done) == 54)
    await eventually(lambda: len(letters) == 6)
    assert all(reason.startswith("good") for reason in got.done)


@pytest.mark.parametrize("trouble", [DatabaseUnavailable("away"), InfrastructureUnavailable("away")])
async def test_infrastructure_trouble_pauses_the_consumer_and_burns_no_attempt(
    make_bus: MakeBus,
    send: Send,
    eventually: Eventually,
    queue: str,
    collect_dead: CollectDead,
    trouble: Exception,
) -> None:
    bus = make_bus()
    away = True
    got = Recorder(lambda _: trouble if away else None)
    bus.consume(queue, got, concurrency=4)
    letters = collect_dead(bus)
    await bus.start()
    for number in range(30):
        await send(bus, f"m{number}")
    # Longer than the whole ladder would take, and far more rounds than there are attempts.
    await eventually(lambda: len(got.calls) > 12)
    # No hot loop: four tried at once, after that one probe at a time with a growing delay.
    calls, started = len(got.calls), asyncio.get_running_loop().time()
    await eventually(lambda: len(got.calls) >= calls + 5)
    assert asyncio.get_running_loop().time() - started > 5 * 0.2 * 0.7
    away = False
    await eventually(lambda: len(got.done) == 30)
    assert {call.attempt for call in got.calls} == {1}
    assert sorted(got.done) == sorted(f"m{number}" for number in range(30))
    assert not letters


async def test_a_message_held_too_long_is_parked_and_keeps_its_attempts(
    make_bus: MakeBus, send: Send, eventually: Eventually, queue: str, fast: Tuning
) -> None:
    bus = make_bus(tuning=replace(fast, hold_longest=0.3))
    away = True
    got = Recorder(lambda _: DatabaseUnavailable("away") if away else None)
    bus.consume(queue, got, concurrency=2)
    await bus.start()
    ids = {await send(bus, f"m{number}") for number in range(3)}
    started = asyncio.get_running_loop().time()
    await eventually(lambda: asyncio.get_running_loop().time() - started > 1.5)
    away = False
    await eventually(lambda: len(got.done) == 3)
    assert {call.envelope.id for call in got.calls} == ids
    assert {call.attempt for call in got.calls} == {1}


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
    make_bus: MakeBus, send: Send, eventually: Eventually, queue: str
) -> None:
    first, second, third = make_bus(), make_bus(), make_bus()
    copies = [Recorder(), Recorder()]
    for bus, copy in zip((first, second), copies, strict=True):
        bus.on_replica([BotLifecycleChangedV1], copy)
        await bus.start()
    await third.start()
    await send(third, "for all")
    await eventually(lambda: all(copy.done == ["for all"] for copy in copies))


async def test_a_replica_needs_a_line_in_the_catalogue(make_bus: MakeBus) -> None:
    with pytest.raises(ValueError, match="catalogue"):
        make_bus(service="budget-analytics").on_replica([BotLifecycleChangedV1], Recorder())


async def test_a_failing_replica_handler_loses_its_copy_and_goes_on(
    make_bus: MakeBus, send: Send, eventually: Eventually
) -> None:
    bus = make_bus()
    got = Recorder(lambda call: RuntimeError("x") if call.message.reason == "bad" else None)
    bus.on_replica([BotLifecycleChangedV1], got)
    await bus.start()
    await send(bus, "bad")
    await send(bus, "good")
    await eventually(lambda: got.done == ["good"])
    assert len(got.calls) == 2


async def test_a_queue_outside_the_catalogue_is_refused(make_bus: MakeBus) -> None:
    with pytest.raises(ValueError, match="not a queue"):
        make_bus().consume("bot-worker.typo", Recorder())


async def test_a_dead_letter_is_replayed_with_its_id_into_its_queue_only(
    make_bus: MakeBus, send: Send, eventually: Eventually, queue: str, collect_dead: CollectDead
) -> None:
    bus = make_bus()
    broken = True
    got = Recorder(lambda _: PermanentError("bug") if broken else None)
    bus.consume(queue, got)
    letters = collect_dead(bus)
    await bus.start()
    message_id = await send(bus, "again")
    await eventually(lambda: letters)
    broken = False
    await bus.replay(letters[0])
    await eventually(lambda: got.done)
    assert [(call.envelope.id, call.attempt) for call in got.calls] == [(message_id, 1)] * 2


async def test_a_dead_letter_its_reader_cannot_store_is_kept(
    make_bus: MakeBus, send: Send, eventually: Eventually, queue: str
) -> None:
    bus = make_bus()
    attempts: list[int] = []
    letters: list[DeadLetter] = []

    async def store(raw: RawDelivery) -> None:
        attempts.append(raw.attempt)
        if len(attempts) < 8:
            raise RuntimeError("disk full")
        letters.append(DeadLetter.of(raw))

    bus.consume(queue, Recorder(lambda _: PermanentError("first story")))
    bus.consume_raw(DEAD_LETTERS, store)
    await bus.start()
    await send(bus, "poison")
    await eventually(lambda: letters)
    assert attempts == [1, 2, 3, 4, 5, 6, 7, 8]
    assert (letters[0].error_text, letters[0].queue) == ("first story", queue)


async def test_check_passes_when_all_is_well_and_raises_before_the_start(
    make_bus: MakeBus, queue: str
) -> None:
    bus = make_bus()
    bus.consume(queue, Recorder())
    with pytest.raises(ConsumerLost):
        await bus.check()
    await bus.start()
    await bus.check()


async def test_check_notices_a_vanished_consumer(
    make_bus: MakeBus, eventually: Eventually, servers: Servers, broker_url: str, queue: str
) -> None:
    bus = make_bus()
    bus.consume(queue, Recorder())
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
    make_bus: MakeBus,
    send: Send,
    eventually: Eventually,
    servers: Servers,
    broker_url: str,
    queue: str,
    fast: Tuning,
) -> None:
    bus, got = make_bus(tuning=replace(fast, guard_interval=0.2)), Recorder()
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


async def test_stop_finishes_running_handlers_and_gives_the_rest_back(
    make_bus: MakeBus, send: Send, eventually: Eventually, queue: str
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
    stopping = asyncio.create_task(first.stop(grace=10))
    second, rest = make_bus(), Recorder()
    second.consume(queue, rest)
    await second.start()
    # The consumer is cancelled before the handler ends: the other process gets what comes next.
    await send(second, "late")
    await eventually(lambda: "late" in rest.done)
    assert not stopping.done()
    release.set()
    await stopping
    await eventually(lambda: len(finished) + len(rest.done) == 7)
    assert len(finished) == 1
    assert sorted(finished + rest.done) == ["late", *(f"m{number}" for number in range(6))]


async def test_stop_does_not_wait_longer_than_the_grace(
    make_bus: MakeBus, send: Send, eventually: Eventually, queue: str
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
    second, got = make_bus(), Recorder()
    second.consume(queue, got)
    await second.start()
    await eventually(lambda: got.done == ["stuck"])


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
    make_bus: MakeBus, send: Send, eventually: Eventually, queue: str
) -> None:
    early = make_bus()
    await early.start()
    await send(early, "early")
    late, got = make_bus(), Recorder()
    late.consume(queue, got)
    await late.start()
    await eventually(lambda: got.done == ["early"])


@pytest.mark.parametrize("escape", [SystemExit(3), asyncio.CancelledError(), BaseException("panic")])
async def test_a_handler_that_raises_no_ordinary_error_fails_its_message_only(
    make_bus: MakeBus, send: Send, eventually: Eventually, queue: str, escape: BaseException
) -> None:
    bus = make_bus()
    got: list[str] = []

    async def handle(delivery: Delivery[Any]) -> None:
        if delivery.message.reason == "bad" and delivery.attempt < 3:
            raise escape
        got.append(f"{delivery.message.reason}{delivery.attempt}")

    bus.consume(queue, handle)
    await bus.start()
    await send(bus, "bad")
    await send(bus, "good")
    await eventually(lambda: sorted(got) == ["bad3", "good1"])
    await bus.check()


async def test_a_drill_that_fails_the_acknowledgement_makes_a_duplicate_and_no_stuck_message(
    make_bus: MakeBus, send: Send, eventually: Eventually, queue: str
) -> None:
    bus, got = make_bus(), Recorder()
    bus.consume(queue, got)
    await bus.start()
    arm("message.handled", Action(kind="error", times=1))
    try:
        await send(bus, "twice")
        await eventually(lambda: got.done == ["twice", "twice"])
    finally:
        disarm("message.handled")


async def test_a_message_that_is_returned_too_often_is_buried_by_the_broker(
    make_bus: MakeBus,
    send: Send,
    eventually: Eventually,
    queue: str,
    collect_dead: CollectDead,
    broker_url: str,
) -> None:
    bus = make_bus()
    letters = collect_dead(bus)
    await bus.start()
    message_id = await send(bus, "kills its consumer")
    connection = await aio_pika.connect(broker_url)
    async with connection:
        work = await (await connection.channel()).get_queue(queue, ensure=False)

        async def crash() -> bool:
            message = await work.get(fail=False)
            if message is not None:
                await message.nack(requeue=True)
            return bool(letters)

        await eventually(crash, within=30)
    assert (letters[0].queue, letters[0].error_class) == (queue, "delivery_limit")
    assert letters[0].message_id == str(message_id)
    await bus.replay(letters[0])
    second, got = make_bus(), Recorder()
    second.consume(queue, got)
    await second.start()
    await eventually(lambda: [call.envelope.id for call in got.calls] == [message_id])


async def test_publishing_and_consuming_have_connections_of_their_own_with_a_short_heartbeat(
    make_bus: MakeBus, eventually: Eventually, queue: str, servers: Servers, broker_url: str
) -> None:
    bus = make_bus()
    bus.consume(queue, Recorder(), concurrency=4)
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
    make_bus: MakeBus, send: Send, eventually: Eventually, queue: str, servers: Servers, fast: Tuning
) -> None:
    bus, got = make_bus(tuning=replace(fast, publish_timeout=0.5)), Recorder()
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


async def test_outcomes_are_counted_per_queue(
    make_bus: MakeBus, send: Send, eventually: Eventually, queue: str
) -> None:
    def count(outcome: str) -> float:
        labels = {"queue": queue, "outcome": outcome}
        return REGISTRY.get_sample_value("kairos_messages_consumed_total", labels) or 0.0

    before = {outcome: count(outcome) for outcome in ("handled", "retried", "dead")}
    bus = make_bus()
    bus.consume(queue, Recorder(lambda call: RuntimeError() if call.message.reason == "bad" else None))
    await bus.start()
    await send(bus, "bad")
    await send(bus, "good")
    await eventually(lambda: count("dead") > before["dead"])
    assert {outcome: count(outcome) - before[outcome] for outcome in before} == {
        "handled": 1,
        "retried": 4,
        "dead": 1,
    }


async def test_a_service_tells_which_of_its_queues_are_paused(
    make_bus: MakeBus, send: Send, eventually: Eventually, queue: str
) -> None:
    bus = make_bus()
    bus.consume(queue, Recorder(lambda _: InfrastructureUnavailable()))
    await bus.start()
    assert bus.paused == ()
    await send(bus, "x")
    await eventually(lambda: bus.paused == (queue,))
