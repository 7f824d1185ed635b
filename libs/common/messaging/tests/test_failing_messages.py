"""Where a message ends that can't be handled: held, retried, buried, replayed."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import aio_pika
import pytest

from kairos_contracts.conversation.v1 import BotLifecycleChangedV1
from kairos_faults import Action, arm, disarm
from kairos_messaging import (
    DEAD_LETTERS,
    Bus,
    DeadLetter,
    Delivery,
    InfrastructureUnavailable,
    PermanentError,
    RawDelivery,
    Tuning,
)
from kairos_persistence import DatabaseUnavailable
from kairos_telemetry.metrics import REGISTRY
from kairos_testkit.servers import Servers

pytestmark = pytest.mark.servers

MakeBus: TypeAlias = Callable[..., Bus]
Send: TypeAlias = Callable[..., Awaitable[UUID]]
Eventually: TypeAlias = Callable[..., Awaitable[Any]]
Record: TypeAlias = Callable[..., Any]
CollectDead: TypeAlias = Callable[[Bus], list[DeadLetter]]
Changed: TypeAlias = Callable[..., BotLifecycleChangedV1]


async def test_a_failing_message_climbs_the_ladder_and_dies_after_five_attempts(
    record: Record,
    make_bus: MakeBus,
    send: Send,
    eventually: Eventually,
    queue: str,
    collect_dead: CollectDead,
) -> None:
    bus = make_bus()
    got = record(lambda _: RuntimeError("no luck; password=hunter2secret"))
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
    record: Record, make_bus: MakeBus, send: Send, eventually: Eventually, queue: str
) -> None:
    bus = make_bus()
    got = record(lambda call: RuntimeError("later") if call.attempt < 3 else None)
    bus.consume(queue, got)
    await bus.start()
    await send(bus, "flaky")
    await eventually(lambda: got.done)
    assert [call.attempt for call in got.calls] == [1, 2, 3]
    assert len({call.envelope.id for call in got.calls}) == 1


async def test_a_permanent_error_goes_to_the_dead_letters_on_the_first_failure(
    record: Record,
    make_bus: MakeBus,
    send: Send,
    eventually: Eventually,
    queue: str,
    collect_dead: CollectDead,
) -> None:
    bus = make_bus()
    got = record(lambda _: PermanentError("not allowed"))
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
    record: Record,
    make_bus: MakeBus,
    eventually: Eventually,
    queue: str,
    collect_dead: CollectDead,
    headers: dict[str, str],
    body: bytes,
    error_class: str,
) -> None:
    bus, got = make_bus(), record()
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
    record: Record,
    make_bus: MakeBus,
    send: Send,
    eventually: Eventually,
    queue: str,
    collect_dead: CollectDead,
) -> None:
    bus = make_bus()
    got = record(lambda call: RuntimeError("bad") if call.message.reason.startswith("bad") else None)
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
    record: Record,
    make_bus: MakeBus,
    send: Send,
    eventually: Eventually,
    queue: str,
    collect_dead: CollectDead,
    trouble: Exception,
) -> None:
    bus = make_bus()
    away = True
    got = record(lambda _: trouble if away else None)
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
    record: Record, make_bus: MakeBus, send: Send, eventually: Eventually, queue: str, fast: Tuning
) -> None:
    bus = make_bus(tuning=replace(fast, hold_longest=0.3))
    away = True
    got = record(lambda _: DatabaseUnavailable("away") if away else None)
    bus.consume(queue, got, concurrency=2)
    await bus.start()
    ids = {await send(bus, f"m{number}") for number in range(3)}
    started = asyncio.get_running_loop().time()
    await eventually(lambda: asyncio.get_running_loop().time() - started > 1.5)
    away = False
    await eventually(lambda: len(got.done) == 3)
    assert {call.envelope.id for call in got.calls} == ids
    assert {call.attempt for call in got.calls} == {1}


async def test_a_dead_letter_is_replayed_with_its_id_into_its_queue_only(
    record: Record,
    make_bus: MakeBus,
    send: Send,
    eventually: Eventually,
    queue: str,
    collect_dead: CollectDead,
) -> None:
    bus = make_bus()
    broken = True
    got = record(lambda _: PermanentError("bug") if broken else None)
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
    record: Record, make_bus: MakeBus, send: Send, eventually: Eventually, queue: str
) -> None:
    bus = make_bus()
    attempts: list[int] = []
    letters: list[DeadLetter] = []

    async def store(raw: RawDelivery) -> None:
        attempts.append(raw.attempt)
        if len(attempts) < 8:
            raise RuntimeError("disk full")
        letters.append(DeadLetter.of(raw))

    bus.consume(queue, record(lambda _: PermanentError("first story")))
    bus.consume_raw(DEAD_LETTERS, store)
    await bus.start()
    await send(bus, "poison")
    await eventually(lambda: letters)
    assert attempts == [1, 2, 3, 4, 5, 6, 7, 8]
    assert (letters[0].error_text, letters[0].queue) == ("first story", queue)


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
    record: Record, make_bus: MakeBus, send: Send, eventually: Eventually, queue: str
) -> None:
    bus, got = make_bus(), record()
    bus.consume(queue, got)
    await bus.start()
    arm("message.handled", Action(kind="error", times=1))
    try:
        await send(bus, "twice")
        await eventually(lambda: got.done == ["twice", "twice"])
    finally:
        disarm("message.handled")


async def test_a_message_that_is_returned_too_often_is_buried_by_the_broker(
    record: Record,
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
    second, got = make_bus(), record()
    second.consume(queue, got)
    await second.start()
    await eventually(lambda: [call.envelope.id for call in got.calls] == [message_id])


async def test_outcomes_are_counted_per_queue(
    record: Record, make_bus: MakeBus, send: Send, eventually: Eventually, queue: str
) -> None:
    def count(outcome: str) -> float:
        labels = {"queue": queue, "outcome": outcome}
        return REGISTRY.get_sample_value("kairos_messages_consumed_total", labels) or 0.0

    before = {outcome: count(outcome) for outcome in ("handled", "retried", "dead")}
    bus = make_bus()
    bus.consume(queue, record(lambda call: RuntimeError() if call.message.reason == "bad" else None))
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
    record: Record, make_bus: MakeBus, send: Send, eventually: Eventually, queue: str
) -> None:
    bus = make_bus()
    bus.consume(queue, record(lambda _: InfrastructureUnavailable()))
    await bus.start()
    assert bus.paused == ()
    await send(bus, "x")
    await eventually(lambda: bus.paused == (queue,))


async def test_a_failed_message_whose_retry_queue_is_gone_waits_until_it_is_declared_again(
    record: Record,
    make_bus: MakeBus,
    send: Send,
    eventually: Eventually,
    queue: str,
    servers: Servers,
    broker_url: str,
    fast: Tuning,
) -> None:
    bus = make_bus(tuning=replace(fast, guard_interval=0.5))
    got = record(lambda call: RuntimeError("once") if call.attempt == 1 else None)
    bus.consume(queue, got)
    await bus.start()
    vhost = broker_url.rpartition("/")[2]
    path = f"/api/queues/{vhost}/{queue}.retry.50ms"
    await asyncio.to_thread(servers.management.call, "DELETE", path)
    await send(bus, "patient")
    await eventually(lambda: got.calls)
    assert not got.done
    await eventually(lambda: got.done == ["patient"])
    assert [call.attempt for call in got.calls] == [1, 2]


async def test_stopping_gives_back_a_message_that_cannot_be_moved(
    record: Record,
    make_bus: MakeBus,
    send: Send,
    eventually: Eventually,
    queue: str,
    servers: Servers,
    broker_url: str,
) -> None:
    bus, got = make_bus(), record(lambda _: RuntimeError("bad"))
    bus.consume(queue, got)
    await bus.start()
    vhost = broker_url.rpartition("/")[2]
    path = f"/api/queues/{vhost}/{queue}.retry.50ms"
    await asyncio.to_thread(servers.management.call, "DELETE", path)
    message_id = await send(bus, "stuck")
    await eventually(lambda: got.calls)
    await bus.stop(grace=5)
    second, rest = make_bus(), record()
    second.consume(queue, rest)
    await second.start()
    await eventually(lambda: rest.done == ["stuck"])
    assert rest.calls[0].envelope.id == message_id


async def test_a_replica_copy_held_too_long_is_dropped(
    record: Record, make_bus: MakeBus, send: Send, eventually: Eventually, fast: Tuning
) -> None:
    bus = make_bus(tuning=replace(fast, hold_longest=0.1))
    got = record(lambda call: DatabaseUnavailable("x") if call.message.reason == "old" else None)
    bus.on_replica([BotLifecycleChangedV1], got)
    await bus.start()
    await send(bus, "old")
    await send(bus, "new")
    await eventually(lambda: got.done == ["new"])
