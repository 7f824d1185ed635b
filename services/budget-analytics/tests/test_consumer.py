"""Usage through the real broker into the real ledger."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
from fastapi import FastAPI

from kairos_budget.application.ports import Usage
from kairos_budget.bootstrap import build_app
from kairos_contracts.auth.v1 import AccessChangedV1
from kairos_contracts.llm.v1 import UsageBatchRecordedV1
from kairos_contracts.permissions import Actor, Role
from kairos_messaging import Bus, RawDelivery
from kairos_testkit.databases import ClonedDatabase

from .conftest import Bench, settings_of  # noqa: TID252 - tests have no importable package name

pytestmark = pytest.mark.servers

DEADLINE_S = 120.0


async def until(done: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not await done():  # noqa: ASYNC110 - a database row is no event to wait for
            await asyncio.sleep(0.05)


@asynccontextmanager
async def serving(cloned: ClonedDatabase, broker_url: str) -> AsyncIterator[FastAPI]:
    app = build_app(settings_of(cloned.urls["budget"], amqp_url=broker_url, sweep_every_s=0.1))

    async def consumes() -> bool:
        try:
            await app.state.parts.bus.check()
        except Exception:  # noqa: BLE001 - not yet, for whatever reason
            return False
        return True

    async with app.router.lifespan_context(app):
        await until(consumes)
        yield app


@pytest.fixture
async def llm_router(broker_url: str) -> AsyncIterator[Bus]:
    bus = Bus(broker_url, service="llm-router")
    await bus.start()
    yield bus
    await bus.stop()


async def publish(bus: Bus, usage: Usage, times: int = 1) -> None:
    for _ in range(times):
        await bus.publish(usage.message, organisation_id=usage.organisation_id, message_id=usage.message_id)


async def test_usage_published_many_times_settles_once(
    bench: Bench, cloned: ClonedDatabase, broker_url: str, llm_router: Bus
) -> None:
    budget = await bench.budget(100_000)
    lease = (await bench.lease(50_000)).lease
    usages = [bench.usage(lease.id, cost=10, hold=20) for _ in range(300)]
    # Published before the service starts: the queue keeps them.
    await asyncio.gather(*(publish(llm_router, usage, times=2) for usage in usages[:100]))
    async with serving(cloned, broker_url):
        await asyncio.gather(*(publish(llm_router, usage) for usage in usages[100:]))

        async def settled() -> bool:
            return (await bench.reading(budget)).balances.settled == 3_000

        await until(settled)
    assert (await bench.reading(budget)).balances.leased == 47_000
    await bench.assert_balanced()


async def test_the_threshold_event_reaches_the_broker_under_the_usage_events_trace(
    bench: Bench, cloned: ClonedDatabase, broker_url: str, llm_router: Bus
) -> None:
    await bench.budget(100)
    usage = bench.usage(None, cost=60)
    async with serving(cloned, broker_url):
        await llm_router.publish(
            usage.message,
            organisation_id=usage.organisation_id,
            message_id=usage.message_id,
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )

        async def announced() -> bool:
            return bool(await bench.emitted("budget.threshold.reached.v1"))

        await until(announced)
    query = "SELECT headers ->> 'traceparent' FROM outbox WHERE type = 'budget.threshold.reached.v1'"
    assert "0af7651916cd43dd8448eb211c80319c" in await bench.scalar(
        query + " AND organisation_id = :organisation", organisation=bench.organisation
    )


async def test_a_usage_event_of_nobody_is_a_dead_letter_and_stops_nobody(
    bench: Bench, cloned: ClonedDatabase, broker_url: str, llm_router: Bus
) -> None:
    budget = await bench.budget(100)
    dead: asyncio.Queue[RawDelivery] = asyncio.Queue()
    graveyard = Bus(broker_url, service="observability")
    graveyard.consume_raw("observability.dead-letters", dead.put)
    await graveyard.start()
    try:
        async with serving(cloned, broker_url):
            await llm_router.publish(bench.usage(None, cost=1).message, organisation_id=None)
            await publish(llm_router, bench.usage(None, cost=5))
            async with asyncio.timeout(DEADLINE_S):
                letter = await dead.get()

            async def settled() -> bool:
                return (await bench.reading(budget)).balances.settled == 5

            await until(settled)
        assert "llm.usage.recorded.v1" in str(letter.headers)
    finally:
        await graveyard.stop()


async def test_a_silent_holder_is_swept_without_being_asked(
    bench: Bench, cloned: ClonedDatabase, broker_url: str
) -> None:
    budget = await bench.budget(100)
    lease = (await bench.lease(40)).lease
    async with serving(cloned, broker_url):
        await bench.execute("UPDATE leases SET suspend_after = clock_timestamp() WHERE id = :id", id=lease.id)

        async def suspended() -> bool:
            return (await bench.reading(budget)).balances.suspense == 40

        await until(suspended)
    await bench.assert_balanced()


async def test_a_revoked_credential_is_forgotten_at_once(cloned: ClonedDatabase, broker_url: str) -> None:
    auth = Bus(broker_url, service="auth-audit")
    await auth.start()
    member = uuid4()
    async with serving(cloned, broker_url) as app:
        remote = app.state.parts.remote
        actor = Actor(kind="member", id=str(member), organisation_id=uuid4(), role=Role.ADMIN)
        before = remote._changes
        changed = AccessChangedV1(kind="member", subject_id=member)
        await auth.publish(changed, organisation_id=actor.organisation_id)

        async def forgotten() -> bool:
            return bool(remote._changes > before)

        await until(forgotten)
    await auth.stop()


async def test_a_batch_of_attempts_is_charged_once_however_often_it_comes(
    bench: Bench, cloned: ClonedDatabase, broker_url: str, llm_router: Bus
) -> None:
    budget = await bench.budget(1_000_000)
    lease = (await bench.lease(500_000)).lease
    records = tuple(bench.usage(lease.id, cost=10, hold=20).message for _ in range(400))
    batch = UsageBatchRecordedV1(batch_id=uuid4(), records=records)
    again = UsageBatchRecordedV1(batch_id=uuid4(), records=records[:100])
    async with serving(cloned, broker_url):
        for message in (batch, batch, again):
            await llm_router.publish(message, organisation_id=bench.organisation, message_id=message.batch_id)
        # What comes after the batches tells that they were handled.
        await publish(llm_router, bench.usage(lease.id, cost=7))

        async def settled() -> bool:
            return (await bench.reading(budget)).balances.settled >= 4_007

        await until(settled)
    assert (await bench.reading(budget)).balances.settled == 4_007
    await bench.assert_balanced()


async def test_a_bad_record_of_a_batch_does_not_keep_the_others_from_being_charged(
    bench: Bench, cloned: ClonedDatabase, broker_url: str, llm_router: Bus
) -> None:
    budget = await bench.budget(1_000_000)
    lease = (await bench.lease(500_000)).lease
    good = [bench.usage(lease.id, cost=10, hold=20).message for _ in range(5)]
    bad = good[0].model_copy(update={"attempt_id": uuid4(), "cost_nano_usd": 2**70})
    batch = UsageBatchRecordedV1(batch_id=uuid4(), records=(*good[:3], bad, *good[3:]))
    async with serving(cloned, broker_url):
        await llm_router.publish(batch, organisation_id=bench.organisation, message_id=batch.batch_id)

        async def settled() -> bool:
            return (await bench.reading(budget)).balances.settled == 50

        await until(settled)
    await bench.assert_balanced()
