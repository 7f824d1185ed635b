import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.exceptions import (
    TelegramNetworkError,
    TelegramRetryAfter,
    TelegramServerError,
    TelegramUnauthorizedError,
)
from aiohttp import web

from kairos_testkit.fake_server import FakeServer
from kairos_testkit.fake_telegram import FakeTelegram
from kairos_testkit.faults_script import Fault
from kairos_testkit.telegram_delivery import SECRET_HEADER

TOKEN = "42:secret"


class Receiver(FakeServer):
    """A webhook that refuses the first attempts it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.refuse = 0
        self.texts: list[tuple[int, str]] = []
        self.secrets: set[str | None] = set()

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/hook", self._hook)]

    async def _hook(self, request: web.Request) -> web.Response:
        message = (await request.json())["message"]
        self.secrets.add(request.headers.get(SECRET_HEADER))
        if self.refuse:
            self.refuse -= 1
            return web.Response(status=503)
        self.texts.append((message["chat"]["id"], message["text"]))
        return web.Response()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


def bot(telegram: FakeTelegram) -> Bot:
    session = AiohttpSession(api=TelegramAPIServer.from_base(telegram.base_url), timeout=3)
    return Bot(TOKEN, session=session)


async def test_a_bot_sends_and_telegram_remembers(fake_telegram: FakeTelegram) -> None:
    async with bot(fake_telegram) as client:
        assert (await client.get_me()).id == 42
        message = await client.send_message(7, "hello")
        await client.send_chat_action(7, "typing")
    (sent,) = fake_telegram.wait_sent(1, chat_id=7)
    assert (sent.text, sent.message_id, sent.bot_id) == ("hello", message.message_id, 42)
    async with httpx.AsyncClient(base_url=fake_telegram.base_url) as http:
        assert (await http.get("/_sent", params={"chat_id": 8})).json() == {"sent": []}


async def test_limits_failures_and_revoked_tokens_look_like_telegrams(fake_telegram: FakeTelegram) -> None:
    fake_telegram.fail(Fault(status=429, retry_after=2, method="sendMessage"))
    fake_telegram.fail(Fault(status=502, method="sendMessage"))
    async with bot(fake_telegram) as client:
        with pytest.raises(TelegramRetryAfter) as limited:
            await client.send_message(7, "one")
        assert limited.value.retry_after == 2
        with pytest.raises(TelegramServerError):
            await client.send_message(7, "two")
        fake_telegram.revoked.add(42)
        with pytest.raises(TelegramUnauthorizedError):
            await client.get_me()
    assert fake_telegram.sent == []


async def test_a_message_can_be_accepted_without_an_answer(fake_telegram: FakeTelegram) -> None:
    fake_telegram.fail(Fault(drop=True, method="sendMessage"))
    async with bot(fake_telegram) as client:
        with pytest.raises(TelegramNetworkError):
            await client.send_message(7, "did it arrive?")
    assert [(sent.text, sent.answered) for sent in fake_telegram.sent] == [("did it arrive?", False)]


async def test_updates_wait_for_a_poller_until_confirmed(fake_telegram: FakeTelegram) -> None:
    async with bot(fake_telegram) as client:
        polling = asyncio.create_task(client.get_updates(timeout=2))
        await asyncio.sleep(0)
        first = fake_telegram.say(42, 7, "hi")
        (update,) = await polling
        assert update.update_id == first
        assert update.message is not None
        assert update.message.text == "hi"
        assert await client.get_updates(offset=first + 1) == []


def test_a_webhook_gets_updates_in_order_until_it_accepts(
    fake_telegram: FakeTelegram, receiver: Receiver
) -> None:
    receiver.refuse = 2
    fake_telegram.use_webhook(42, f"{receiver.base_url}/hook", "sesame")
    for number in range(5):
        fake_telegram.say(42, 7, f"m{number}")
    fake_telegram.wait_delivered()
    assert receiver.texts == [(7, f"m{number}") for number in range(5)]
    assert receiver.secrets == {"sesame"}
    assert [attempt.status for attempt in fake_telegram.deliveries.attempts][:3] == [503, 503, 200]


def test_a_stuck_chat_does_not_hold_up_another(fake_telegram: FakeTelegram, receiver: Receiver) -> None:
    fake_telegram.use_webhook(42, f"{receiver.base_url}/hook")
    fake_telegram.say(42, 1, "slow", delay_ms=500)
    fake_telegram.say(42, 2, "fast")
    fake_telegram.wait_delivered()
    assert receiver.texts == [(2, "fast"), (1, "slow")]


async def test_what_nobody_polled_goes_to_the_webhook_that_is_set(
    fake_telegram: FakeTelegram, receiver: Receiver
) -> None:
    fake_telegram.say(42, 7, "early")
    async with bot(fake_telegram) as client:
        await client.set_webhook(f"{receiver.base_url}/hook")
    await asyncio.to_thread(fake_telegram.wait_delivered)
    assert receiver.texts == [(7, "early")]


def test_the_same_update_can_arrive_twice(fake_telegram: FakeTelegram, receiver: Receiver) -> None:
    fake_telegram.use_webhook(42, f"{receiver.base_url}/hook")
    body = {"bot_id": 42, "chat_id": 7, "text": "again", "copies": 2}
    httpx.post(f"{fake_telegram.base_url}/_say", json=body).raise_for_status()
    fake_telegram.wait_delivered()
    assert receiver.texts == [(7, "again"), (7, "again")]
    assert httpx.get(f"{fake_telegram.base_url}/_deliveries").json()["pending"] == 0


async def test_webhooks_outlive_a_restart(tmp_path: Path) -> None:
    state = tmp_path / "telegram.json"
    with FakeTelegram(state=state) as telegram:
        async with bot(telegram) as client:
            await client.set_webhook("http://127.0.0.1:1/hook", secret_token="sesame")
        first = telegram.say(42, 7, "before")
    with FakeTelegram(state=state) as telegram:
        async with bot(telegram) as client:
            assert (await client.get_webhook_info()).url == "http://127.0.0.1:1/hook"
            assert await client.delete_webhook()
        assert telegram.say(42, 7, "after") > first
    assert state.read_text() == "{}"


def test_unknown_methods_and_malformed_tokens_are_not_found(fake_telegram: FakeTelegram) -> None:
    assert httpx.post(f"{fake_telegram.base_url}/bot42:x/fly").status_code == 404
    assert httpx.post(f"{fake_telegram.base_url}/botnobody/getMe").status_code == 404
    assert httpx.post(f"{fake_telegram.base_url}/bot42:x/sendMessage", json={"chat_id": 1}).status_code == 400
