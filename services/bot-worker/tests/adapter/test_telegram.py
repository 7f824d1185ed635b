"""The Bot API as aiogram sees it, against the fake server."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from kairos_bots.adapters.telegram import AiogramParser, AiogramTelegram
from kairos_bots.application.ports import TelegramAwayError, TelegramRefusedError
from kairos_bots.domain.delivery import Accepted, NotTaken, Paced, Refused, Unsure
from kairos_bots.domain.errors import MalformedUpdateError
from kairos_testkit.fake_telegram import FakeTelegram
from kairos_testkit.faults_script import Fault
from kairos_testkit.ports import free_port

TOKEN = "5:token"


@pytest.fixture
async def telegram(fake_telegram: FakeTelegram) -> AsyncIterator[AiogramTelegram]:
    client = AiogramTelegram(fake_telegram.base_url, send_timeout=1)
    yield client
    await client.close()


async def test_a_sent_text_gives_its_message_id(
    telegram: AiogramTelegram, fake_telegram: FakeTelegram
) -> None:
    outcome = await telegram.send_text(TOKEN, "7", "*not* markup <b>")
    [sent] = fake_telegram.sent
    assert outcome == Accepted(str(sent.message_id))
    assert sent.text == "*not* markup <b>"


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault(status=429, retry_after=7), Paced(timedelta(seconds=7))),
        (Fault(status=403), Refused),
        (Fault(status=400), Refused),
        (Fault(status=401), NotTaken),
        (Fault(status=500), Unsure),
        (Fault(status=502), Unsure),
        (Fault(drop=True), Unsure),
        (Fault(delay_ms=1_500), Unsure),
    ],
)
async def test_each_failure_tells_whether_the_reply_may_have_arrived(
    telegram: AiogramTelegram, fake_telegram: FakeTelegram, fault: Fault, expected: Any
) -> None:
    fake_telegram.fail(fault)
    outcome = await telegram.send_text(TOKEN, "7", "hello")
    assert outcome == expected if isinstance(expected, Paced) else isinstance(outcome, expected)


async def test_an_unreachable_server_surely_took_nothing() -> None:
    client = AiogramTelegram(f"http://127.0.0.1:{free_port()}", send_timeout=1)
    try:
        assert isinstance(await client.send_text(TOKEN, "7", "hello"), NotTaken)
        with pytest.raises(TelegramAwayError):
            await client.delete_webhook(TOKEN)
    finally:
        await client.close()


async def test_a_malformed_token_is_blamed(telegram: AiogramTelegram) -> None:
    outcome = await telegram.send_text("nonsense", "7", "hello")
    assert isinstance(outcome, NotTaken)
    assert outcome.credential
    with pytest.raises(TelegramRefusedError):
        await telegram.set_webhook("nonsense", "https://bots.test/x", "s")


async def test_updates_are_asked_for_from_the_offset(
    telegram: AiogramTelegram, fake_telegram: FakeTelegram
) -> None:
    first = fake_telegram.say(5, 7, "one")
    second = fake_telegram.say(5, 7, "two")
    updates = await telegram.get_updates(TOKEN, None, timedelta(0))
    assert [(u.update_id, u.message and u.message.text) for u in updates] == [
        (first, "one"),
        (second, "two"),
    ]
    assert [u.update_id for u in await telegram.get_updates(TOKEN, second, timedelta(0))] == [second]
    fake_telegram.use_webhook(5, "http://x")
    with pytest.raises(TelegramAwayError):
        await telegram.get_updates(TOKEN, None, timedelta(0))


async def test_one_update_nobody_understands_does_not_hold_back_the_others(
    telegram: AiogramTelegram, fake_telegram: FakeTelegram
) -> None:
    odd = {"update_id": 1, "message": {"nobody": "understands"}}
    fake_telegram.here(lambda: fake_telegram.deliveries.put(5, 7, odd))
    understood = fake_telegram.say(5, 7, "hello")
    updates = await telegram.get_updates(TOKEN, None, timedelta(0))
    assert [(u.update_id, u.message is None) for u in updates] == [(1, True), (understood, False)]


@pytest.mark.parametrize(
    "body", [None, [], "x", {}, {"update_id": True}, {"update_id": -1}, {"update_id": 2**60}]
)
def test_what_is_no_update_is_malformed(body: object) -> None:
    with pytest.raises(MalformedUpdateError):
        AiogramParser().parse(body)


def test_a_group_message_names_group_and_sender() -> None:
    update = AiogramParser().parse(
        {
            "update_id": 3,
            "message": {
                "message_id": 4,
                "date": 1_700_000_000,
                "chat": {"id": -100, "type": "group", "title": "Crew"},
                "from": {
                    "id": 9,
                    "is_bot": False,
                    "first_name": "Ada",
                    "last_name": "L",
                    "language_code": "en",
                },
                "text": "hi",
            },
        }
    )
    assert update.message is not None
    assert (update.message.chat_id, update.message.sender_id) == ("-100", "9")
    assert (update.message.sender_name, update.message.language) == ("Ada L", "en")
