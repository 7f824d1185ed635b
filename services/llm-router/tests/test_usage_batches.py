"""Usage of HTTP callers leaves in batches: what they hold, when they go, and that none is lost or new."""

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from kairos_contracts.llm.v1 import UsageBatchRecordedV1, UsageRecordedV1
from kairos_contracts.message import Envelope
from kairos_router.adapters.usage_journal import MOST_RECORDS, UsageJournal
from kairos_router.application.ports import JournalFull
from kairos_router.application.usage import usage_event
from kairos_router.domain.ask import Caller
from kairos_router.domain.attempt import Attempt, Hold, Settlement
from kairos_router.domain.lease import Scope
from kairos_router.domain.pricing import Usage


class Broker:
    """A broker that confirms, unless it is away or its confirmation gets lost."""

    def __init__(self) -> None:
        self.messages: list[tuple[Envelope, bytes]] = []
        self.away = False
        self.losing = 0

    async def publish_prepared(self, *, headers: Any, body: bytes) -> None:
        if self.away:
            raise ConnectionError
        self.messages.append((Envelope.from_headers(dict(headers)), body))
        if self.losing:
            self.losing -= 1
            raise ConnectionError

    def batches(self) -> list[UsageBatchRecordedV1]:
        return [UsageBatchRecordedV1.model_validate_json(body) for _, body in self.messages]


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
async def journal(broker: Broker) -> Any:
    journal = UsageJournal(broker, capacity=1_000)
    task = asyncio.create_task(journal.buffer.run())
    yield journal
    task.cancel()


@pytest.fixture
def attempt_of(kit: SimpleNamespace) -> Any:
    def make(organisation_id: UUID = kit.organisation, **more: Any) -> Attempt:
        attempt_id = uuid4()
        caller = Caller(Scope(organisation_id, uuid4(), uuid4()), uuid4())
        hold = Hold(attempt_id, caller, 500, uuid4(), 0.0)
        values: dict[str, Any] = {"degraded": None, "stream": False, "started_at": datetime.now(UTC)}
        return Attempt(attempt_id, uuid4(), kit.deployment(), 64, hold=hold, **(values | more))

    return make


USAGES = [
    Usage(24, 20),
    Usage(24, 20, cached_input_tokens=8, reasoning_tokens=5, estimated=True),
    Usage(9, 9, cache_write_tokens=3, cache_write_1h_tokens=2, audio_input_tokens=4, audio_output_tokens=1),
]


@pytest.mark.parametrize("usage", USAGES)
@pytest.mark.parametrize("outcome", ["settled", "released", "unknown"])
async def test_a_record_on_the_wire_is_the_contracts_own(
    journal: UsageJournal, broker: Broker, attempt_of: Any, kit: Any, usage: Usage, outcome: Any
) -> None:
    attempt = attempt_of(stream=True)
    settlement = Settlement(outcome, usage, 321, 200, 17, 5)
    journal.abandoned(attempt, settlement)
    await kit.until(lambda: broker.messages)
    (batch,) = broker.batches()
    assert batch.records == (usage_event(attempt, settlement),)
    told = UsageRecordedV1(**batch.records[0].model_dump())
    assert told.cached_input_tokens == usage.cached_input_tokens
    assert told.cache_write_tokens == usage.cache_write_tokens + usage.cache_write_1h_tokens


async def test_a_batch_is_of_one_organisation_and_its_id_is_the_messages(
    journal: UsageJournal, broker: Broker, attempt_of: Any, kit: Any
) -> None:
    organisations = [uuid4(), uuid4()]
    for number in range(10):
        journal.abandoned(attempt_of(organisations[number % 2]), Settlement("settled", USAGES[0], 1, 200, 1))
    await kit.until(lambda: len(broker.messages) == 2)
    envelopes = [envelope for envelope, _ in broker.messages]
    assert [each.organisation_id for each in envelopes] == organisations
    assert [each.id for each in envelopes] == [batch.batch_id for batch in broker.batches()]
    assert {each.type for each in envelopes} == {UsageBatchRecordedV1.TYPE}
    assert [len(batch.records) for batch in broker.batches()] == [5, 5]


async def test_a_full_batch_does_not_wait_for_company(
    journal: UsageJournal, broker: Broker, attempt_of: Any
) -> None:
    for _ in range(MOST_RECORDS):
        journal.abandoned(attempt_of(), Settlement("settled", USAGES[0], 1, 200, 1))
    for _ in range(5):
        await asyncio.sleep(0)
    assert [len(batch.records) for batch in broker.batches()] == [MOST_RECORDS]


async def test_a_lost_confirmation_sends_the_same_batch_again(
    journal: UsageJournal, broker: Broker, attempt_of: Any, kit: Any
) -> None:
    broker.losing = 2
    journal.abandoned(attempt_of(), Settlement("settled", USAGES[0], 1, 200, 1))
    await kit.until(lambda: len(broker.messages) == 3)
    first, *others = broker.messages
    assert all(other == first for other in others)
    await kit.until(lambda: not len(journal.buffer))


async def test_a_router_whose_usage_waits_for_the_broker_takes_no_more_work(
    broker: Broker, attempt_of: Any, kit: Any
) -> None:
    journal = UsageJournal(broker, capacity=3)
    broker.away = True
    task = asyncio.create_task(journal.buffer.run())
    for _ in range(3):
        await journal.dispatched(attempt_of())
        journal.abandoned(attempt_of(), Settlement("settled", USAGES[0], 1, 200, 1))
    with pytest.raises(JournalFull):
        await journal.dispatched(attempt_of())
    broker.away = False
    await kit.until(lambda: not journal.full)
    await journal.dispatched(attempt_of())
    task.cancel()


async def test_what_still_waits_for_company_leaves_at_the_end(broker: Broker, attempt_of: Any) -> None:
    journal = UsageJournal(broker)
    journal.abandoned(attempt_of(), Settlement("settled", USAGES[0], 1, 200, 1))
    assert await journal.flush(5.0) == 0
    assert [len(batch.records) for batch in broker.batches()] == [1]


async def test_while_the_broker_is_away_answers_of_the_cache_do_not_pile_up(broker: Broker) -> None:
    journal = UsageJournal(broker, capacity=2)
    for _ in range(5):
        journal.note_if_room(uuid4(), {"cost_nano_usd": 0})
    assert journal.full
    assert await journal.flush(1.0) == 0
    assert len(broker.messages) == 2
    journal.note_if_room(uuid4(), {"cost_nano_usd": 0})
    await journal.flush(1.0)
    assert len(broker.messages) == 3
