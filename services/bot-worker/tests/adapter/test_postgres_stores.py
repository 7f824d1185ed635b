"""The stores on PostgreSQL: tenants apart, holders apart, numbers without gaps."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from kairos_bots.adapters.postgres import PostgresWorks
from kairos_bots.application.open_turn import OpeningRules, open_turn
from kairos_bots.application.receive_message import Received, receive_message
from kairos_bots.domain.bot import Bot, Mode, ObservedState, observed
from kairos_bots.domain.turn import QuietWindow
from kairos_persistence import Database, create_engine

pytestmark = pytest.mark.servers
NO_WINDOW = QuietWindow(timedelta(0), timedelta(0))
RULES = OpeningRules(timedelta(seconds=60))
LEASE = timedelta(seconds=10)


@pytest.fixture
async def works(provisioned: Any) -> AsyncIterator[PostgresWorks]:
    url = provisioned.service_database("kairos_bots", "bots")
    database = Database(create_engine(url, application_name="test"), service="bot-worker")
    yield PostgresWorks(database)
    await database.dispose()


@pytest.fixture
async def bot(works: PostgresWorks, kit: Any) -> Bot:
    made: Bot = kit.bot(mode=Mode.MANUAL)
    async with works.tenant(made.organisation_id) as work:
        await work.bots.add(made)
    return made


async def _arrive(works: PostgresWorks, kit: Any, bot: Bot, number: int, chat: str = "7") -> Received:
    async with works.tenant(bot.organisation_id) as work:
        received = await receive_message(
            work,
            kit.message(bot, external_update_id=str(number), external_chat_id=chat, order=number),
            event_id=uuid4(),
            organisation_id=bot.organisation_id,
            window=NO_WINDOW,
            wakes=kit.Wakes(),
            traceparent=None,
        )
    assert received is not None
    return received


async def _open_all(works: PostgresWorks, kit: Any) -> int:
    opened = 0
    while True:
        async with works.system() as work:
            held = await work.turns.hold_due()
            if held is None:
                return opened
            await open_turn(work, held, rules=RULES, wakes=kit.Wakes())
            opened += 1


async def test_a_bot_comes_back_as_it_was_stored(works: PostgresWorks, bot: Bot) -> None:
    async with works.tenant(bot.organisation_id) as work:
        assert await work.bots.get(bot.id) == bot
    async with works.tenant(uuid4()) as work:
        assert await work.bots.get(bot.id) is None
        assert await work.bots.page(None, 10) == []
    async with works.system() as work:
        assert await work.bots.everything() == [bot]
        assert await work.bots.some([uuid4()]) == []


async def test_concurrent_messages_of_one_chat_are_numbered_without_gaps(
    works: PostgresWorks, kit: Any, bot: Bot
) -> None:
    received = await asyncio.gather(*(_arrive(works, kit, bot, number) for number in range(12)))
    assert sorted(each.sequence for each in received) == list(range(1, 13))
    assert len({each.turn_id for each in received}) == 1
    assert await _open_all(works, kit) == 1
    async with works.tenant(bot.organisation_id) as work:
        stored = await work.messages.after(received[0].conversation_id, 0, 100)
    assert [message.sequence for message in stored] == list(range(1, 14))
    assert stored[-1].text == "fallback"


async def test_a_turn_one_transaction_holds_is_nobody_elses(works: PostgresWorks, kit: Any, bot: Bot) -> None:
    await _arrive(works, kit, bot, 1)
    async with works.system() as one:
        held = await one.turns.hold_due()
        assert held is not None
        async with works.system() as other:
            assert await other.turns.hold_due() is None
    async with works.system() as work:
        assert await work.turns.hold_due() is not None


async def test_a_conversation_collects_in_one_turn_and_answers_one(
    works: PostgresWorks, kit: Any, bot: Bot
) -> None:
    received = await _arrive(works, kit, bot, 1)
    copy = (
        "INSERT INTO turns (id, organisation_id, conversation_id, bot_id, channel, state, epoch,"
        " message_count, created_at, due_at) SELECT gen_random_uuid(), organisation_id, conversation_id,"
        " bot_id, channel, :state, 1, 1, now(), now() FROM turns WHERE id = :id"
    )
    for states in (("collecting",), ("answering", "reopened")):
        with pytest.raises(IntegrityError, match="turns_one_"):
            await _copy_turn(works, copy, received.turn_id, states)


async def _copy_turn(works: PostgresWorks, statement: str, turn_id: UUID, states: tuple[str, ...]) -> None:
    async with works._database.system_unit_of_work() as unit:
        for state in states:
            await unit.session.execute(text(statement), {"state": state, "id": turn_id})


async def test_replies_are_claimed_one_per_conversation_in_order(
    works: PostgresWorks, kit: Any, bot: Bot
) -> None:
    for number, chat in ((1, "7"), (2, "8")):
        await _arrive(works, kit, bot, number, chat)
    await _open_all(works, kit)
    await _arrive(works, kit, bot, 3, "7")
    await _open_all(works, kit)
    async with works.system() as work:
        ready = await work.replies.hold_ready(10)
        assert sorted((reply.external_chat_id, reply.sequence) for reply in ready) == [("7", 2), ("8", 2)]
        async with works.system() as other:
            assert await other.replies.hold_ready(10) == []
        for reply in ready:
            await work.replies.start(reply, uuid4(), LEASE)
    async with works.system() as work:
        assert await work.replies.hold_ready(10) == []


async def test_settings_are_applied_by_one_replica_per_version(works: PostgresWorks, bot: Bot) -> None:
    async with works.system() as work:
        claimed = await work.bots.claim_unapplied(LEASE)
        assert claimed == bot
    async with works.system() as work:
        assert await work.bots.claim_unapplied(LEASE) is None
        seen = observed(bot, ObservedState.RUNNING, "", await work.now())
        assert await work.bots.applied(seen)
    async with works.system() as work:
        await work.bots.apply_again(bot.id)
    async with works.system() as work:
        again = await work.bots.claim_unapplied(LEASE)
        assert again is not None
        assert await work.bots.retry_later(again, timedelta(seconds=30))
    async with works.system() as work:
        assert await work.bots.claim_unapplied(LEASE) is None


async def test_one_replica_leads_a_bot_until_it_lets_go(works: PostgresWorks, bot: Bot) -> None:
    async def lead(holder: str) -> Any:
        async with works.tenant(bot.organisation_id) as work:
            return await work.pollers.lead(bot.id, bot.organisation_id, holder, LEASE)

    assert (await lead("one")).next_offset is None
    assert await lead("other") is None
    async with works.tenant(bot.organisation_id) as work:
        await work.pollers.advance(bot.id, "one", 42)
        await work.pollers.advance(bot.id, "other", 7)
    assert (await lead("one")).next_offset == 42
    async with works.system() as work:
        await work.pollers.release("one")
    assert (await lead("other")).next_offset == 42
    assert await lead("one") is None
