"""Completions from the queue, on real servers: every attempt written down, every end told once."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from kairos_contracts.budget.v1 import BudgetChangedV1
from kairos_contracts.llm.v1 import ChatMessage, CompletionCompletedV1, CompletionRequestV1
from kairos_messaging import PublishFailed
from kairos_router.application.answer_completion import ClaimLost
from kairos_router.application.usage import usage_event
from kairos_router.domain.ask import Caller
from kairos_router.domain.attempt import Attempt, Hold, unknown
from kairos_router.domain.lease import Scope
from kairos_testkit.fake_provider import Fault as Script

pytestmark = pytest.mark.servers

COMPLETED = "llm.completion.completed.v1"
FAILED = "llm.completion.failed.v1"
USAGE = "llm.usage.recorded.v1"


def command(text_: str = "hello", **fields: Any) -> CompletionRequestV1:
    values: dict[str, Any] = {
        "completion_id": uuid4(),
        "turn_id": uuid4(),
        "conversation_id": uuid4(),
        "bot_id": uuid4(),
        "epoch": 3,
        "model": "default",
        "messages": (ChatMessage(role="user", content=text_),),
        "max_tokens": 100,
        "deadline": datetime.now(UTC) + timedelta(seconds=30),
    }
    return CompletionRequestV1(**(values | fields))


async def send(
    service: Any, kit: SimpleNamespace, request: CompletionRequestV1, message_id: UUID | None = None
) -> None:
    """Publish as every publisher does: what has an unknown fate is told again under the same id."""
    message_id = message_id or uuid4()
    while True:
        try:
            await service.router.bus.publish(request, organisation_id=kit.organisation, message_id=message_id)
        except PublishFailed:
            continue
        return


async def rows(service: Any, query: str, **values: Any) -> list[Any]:
    async with service.router.database.system_unit_of_work() as unit:
        return list(await unit.session.execute(text(query), values))


async def test_a_command_is_answered_charged_and_traced(service_of: Any, kit: SimpleNamespace) -> None:
    async with service_of(limit=10**9) as service:
        request = command("hello")
        await send(service, kit, request)
        (completed,) = await service.events.expect(COMPLETED)
        (usage,) = await service.events.expect(USAGE)
        (booked,) = service.first.records
        cost = booked.input_tokens * 100 + booked.output_tokens * 400
        for name in ("completion_id", "turn_id", "conversation_id", "bot_id"):
            assert completed[name] == str(getattr(request, name))
        assert (completed["content"], completed["epoch"]) == ("echo: hello", 3)
        assert completed["cost_nano_usd"] == usage["cost_nano_usd"] == cost
        assert usage["attempt_id"] == booked.attempt_id
        assert usage["bot_id"] == str(request.bot_id)
        ((state, outcome, document),) = await rows(service, "SELECT state, outcome, request FROM completions")
        assert (state, outcome, document) == ("done", "completed", None)


async def test_a_command_is_held_for_its_contact_and_project_with_its_priority(
    service_of: Any, kit: SimpleNamespace
) -> None:
    async with service_of(limit=10**9) as service:
        request = command(contact_id=uuid4(), project_id=uuid4(), priority="interactive")
        await send(service, kit, request)
        (usage,) = await service.events.expect(USAGE)
        ((scope, priority), *_) = service.budgets.asked
        assert (scope.contact_id, scope.project_id) == (request.contact_id, request.project_id)
        assert (scope.bot_id, priority) == (request.bot_id, "interactive")
        assert (usage["contact_id"], usage["priority"]) == (str(request.contact_id), "interactive")


async def test_a_command_delivered_twice_is_answered_once(service_of: Any, kit: SimpleNamespace) -> None:
    async with service_of(limit=10**9) as service:
        request, message_id = command(), uuid4()
        for _ in range(3):
            await send(service, kit, request, message_id)
        await send(service, kit, request)
        await service.events.expect(COMPLETED)
        await send(service, kit, other := command())
        await kit.until(
            lambda: str(other.completion_id) in {e["completion_id"] for e in service.events.bodies(COMPLETED)}
        )
        assert len(service.first.records) == 2
        assert len(service.events.bodies(COMPLETED)) == 2


async def test_many_commands_are_worked_on_at_once_and_the_sums_agree(
    service_of: Any, kit: SimpleNamespace
) -> None:
    async with service_of(limit=10**9, worker_concurrency=16) as service:
        # A broker that is busy with the tests before us may take long, so nobody is in a hurry here.
        late = datetime.now(UTC) + timedelta(minutes=5)
        requests = [command(f"message {number}", deadline=late) for number in range(40)]
        await asyncio.gather(*(send(service, kit, request) for request in requests))
        completed = await service.events.expect(COMPLETED, 40, 90.0)
        usage = await service.events.expect(USAGE, 40, 90.0)
        assert Counter(each["completion_id"] for each in completed) == Counter(
            str(request.completion_id) for request in requests
        )
        records = service.first.records
        assert sum(each["cost_nano_usd"] for each in usage) == sum(
            record.input_tokens * 100 + record.output_tokens * 400 for record in records
        )
        spent = sum(lease.balance.settled for lease in service.router.wallet.leases())
        assert spent == sum(each["cost_nano_usd"] for each in usage)


async def test_when_every_provider_fails_the_asker_is_told_why(service_of: Any, kit: SimpleNamespace) -> None:
    async with service_of(limit=10**9) as service:
        service.first.fail(Script(status=500))
        service.second.fail(Script(drop=True))
        await send(service, kit, request := command())
        (failed,) = await service.events.expect(FAILED)
        assert (failed["completion_id"], failed["code"]) == (str(request.completion_id), "provider_error")
        outcomes = {each["deployment"]: each["outcome"] for each in await service.events.expect(USAGE, 2)}
        assert outcomes == {"first": "released", "second": "unknown"}


async def test_a_used_up_budget_fails_with_a_decision(service_of: Any, kit: SimpleNamespace) -> None:
    async with service_of(limit=5) as service:
        await send(service, kit, command())
        (failed,) = await service.events.expect(FAILED)
        assert failed["code"] == "budget_exceeded"
        decision = await service.router.decisions.find(kit.organisation, UUID(failed["decision_id"]))
        assert str(decision.completion_id) == failed["completion_id"]
        assert await service.router.decisions.find(uuid4(), UUID(failed["decision_id"])) is None
        assert service.first.records == []


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"model": "nobody"}, "model_not_found"),
        ({"deadline": datetime(2026, 1, 1, tzinfo=UTC)}, "deadline_exceeded"),
    ],
)
async def test_a_command_that_can_not_be_answered_fails_at_once(
    service_of: Any, kit: SimpleNamespace, fields: dict[str, Any], code: str
) -> None:
    async with service_of(limit=10**9) as service:
        await send(service, kit, command(**fields))
        (failed,) = await service.events.expect(FAILED)
        assert failed["code"] == code
        assert service.first.records == []


async def test_completions_wait_for_budgets_to_come_back_until_their_deadline(
    service_of: Any, kit: SimpleNamespace
) -> None:
    async with service_of(limit=10**9) as service:
        service.budgets.away = True
        patient, hasty = command(), command(deadline=datetime.now(UTC) + timedelta(seconds=1))
        await send(service, kit, patient)
        await send(service, kit, hasty)
        (failed,) = await service.events.expect(FAILED)
        assert failed["completion_id"] == str(hasty.completion_id)
        service.budgets.away = False
        (completed,) = await service.events.expect(COMPLETED)
        assert completed["completion_id"] == str(patient.completion_id)


async def test_a_crash_in_the_middle_of_an_attempt_makes_it_unknown_and_tries_again(
    service_of: Any, kit: SimpleNamespace
) -> None:
    async with service_of(limit=10**9, claim_ttl_s=1.0) as service:
        service.first.fail(Script(delay_ms=900))
        await send(service, kit, command())
        await kit.until(lambda: service.first.records)
        # What SIGKILL leaves behind: a dispatched attempt and a claim that nobody renews.
        for _, task in list(service.router.worker._running.values()):
            task.cancel()
        (completed,) = await service.events.expect(COMPLETED)
        usage = await service.events.expect(USAGE, 2)
        outcomes = {each["attempt_id"]: each["outcome"] for each in usage}
        first, second = (record.attempt_id for record in service.first.records)
        assert outcomes == {first: "unknown", second: "settled"}
        lost = next(each for each in usage if each["outcome"] == "unknown")
        assert lost["hold_nano_usd"] > 0
        assert lost["cost_nano_usd"] == 0
        spent = sum(lease.balance.settled for lease in service.router.wallet.leases())
        assert spent == lost["hold_nano_usd"] + completed["cost_nano_usd"]


async def test_a_worker_that_slept_past_its_claim_can_not_write(
    service_of: Any, kit: SimpleNamespace
) -> None:
    async with service_of(limit=10**9, claim_ttl_s=0.5) as service:
        await service.router.work.stop()
        store = service.router.store
        request = command()
        await store.accept(request, kit.organisation, uuid4(), None)
        (asleep,) = await store.claim(10)
        attempt = attempt_of(kit, request)
        await store.dispatched(asleep, attempt)
        (awake,) = await kit.until(lambda: store.claim(10))
        assert awake.epoch == asleep.epoch + 1
        assert await store.renew([asleep]) == set()
        settlement = unknown(status=0, latency_ms=1)
        with pytest.raises(ClaimLost):
            await store.dispatched(asleep, attempt_of(kit, request))
        with pytest.raises(ClaimLost):
            await store.complete(
                asleep, attempt, settlement, usage_event(attempt, settlement), completed_of(request)
            )
        assert await store.renew([awake]) == {request.completion_id}
        (usage,) = await service.events.expect(USAGE)
        assert (usage["attempt_id"], usage["outcome"]) == (str(attempt.attempt_id), "unknown")


def attempt_of(kit: SimpleNamespace, request: CompletionRequestV1) -> Attempt:
    attempt_id = uuid4()
    hold = Hold(attempt_id, Caller(Scope(kit.organisation, None, request.bot_id)), 700, uuid4(), 0.0)
    return Attempt(
        attempt_id,
        request.completion_id,
        kit.deployment(),
        10,
        None,
        hold,
        stream=False,
        started_at=datetime.now(UTC),
    )


def completed_of(request: CompletionRequestV1) -> Any:
    same = {
        name: getattr(request, name)
        for name in ("completion_id", "turn_id", "conversation_id", "bot_id", "epoch")
    }
    return CompletionCompletedV1(
        **same,
        content="x",
        finish_reason="stop",
        model="m",
        deployment="d",
        input_tokens=1,
        output_tokens=1,
        cost_nano_usd=1,
        latency_ms=1,
    )


async def test_an_end_written_twice_is_told_once(service_of: Any, kit: SimpleNamespace) -> None:
    async with service_of(limit=10**9) as service:
        await service.router.work.stop()
        store, request = service.router.store, command()
        await store.accept(request, kit.organisation, uuid4(), None)
        (claim,) = await store.claim(1)
        attempt = attempt_of(kit, request)
        await store.dispatched(claim, attempt)
        settlement = unknown(status=0, latency_ms=1)
        # As after a commit whose answer was lost: the same write comes again.
        for _ in range(2):
            await store.complete(
                claim, attempt, settlement, usage_event(attempt, settlement), completed_of(request)
            )
        await service.events.expect(COMPLETED)
        told = "SELECT count(*) FROM outbox WHERE type <> 'llm.catalogue.changed.v1'"
        assert await rows(service, told) == [(2,)]


async def test_ended_completions_are_removed_with_their_attempts_after_their_time(
    service_of: Any, kit: SimpleNamespace
) -> None:
    async with service_of(limit=10**9) as service:
        await send(service, kit, command())
        await service.events.expect(COMPLETED)
        assert await service.router.store.purge(7) == 0
        await rows(service, "UPDATE completions SET ended_at = now() - interval '8 days' RETURNING 1")
        assert await service.router.store.purge(7) == 1
        assert await rows(service, "SELECT 1 FROM attempts") == []


async def test_a_changed_budget_is_asked_anew_at_once(service_of: Any, kit: SimpleNamespace) -> None:
    async with service_of() as service:
        await send(service, kit, command())
        await service.events.expect(COMPLETED)
        change = BudgetChangedV1(
            budget_id=uuid4(), scope="organisation", scope_id=kit.organisation, limit_nano_usd=1, active=True
        )
        service.budgets.limit = 1
        await service.router.bus.publish(change, organisation_id=kit.organisation)
        await kit.until(lambda: all(lease.retired for lease in service.router.wallet.leases()))
        await send(service, kit, command())
        (failed,) = await service.events.expect(FAILED)
        assert failed["code"] == "budget_exceeded"


async def test_a_tenant_sees_only_its_own_rows(service_of: Any, kit: SimpleNamespace) -> None:
    async with service_of(limit=10**9) as service:
        await send(service, kit, command())
        await service.events.expect(COMPLETED)
        async with service.router.database.unit_of_work(uuid4()) as unit:
            for table in ("completions", "attempts", "decisions"):
                found = await unit.session.execute(text(f"SELECT count(*) FROM {table}"))  # noqa: S608 - three names above
                assert found.scalar_one() == 0
