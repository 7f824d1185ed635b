"""Servers go away and come back; nothing is lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180)]


@asynccontextmanager
async def stopped(server: Any) -> AsyncIterator[None]:
    await asyncio.to_thread(server.kill)
    try:
        yield
    finally:
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(server.wait_ready)


async def _webhook(worker: Any, bot: dict[str, Any], update_id: int, text: str) -> tuple[int, str | None]:
    body = {
        "update_id": update_id,
        "message": {
            "message_id": update_id,
            "date": 1_700_000_000,
            "chat": {"id": 9, "type": "private"},
            "from": {"id": 9, "is_bot": False, "first_name": "Ada"},
            "text": text,
        },
    }
    headers = {"X-Telegram-Bot-Api-Secret-Token": "webhook-secret"}
    async with worker.http.post(
        worker.base_url + bot["webhook_path"], json=body, headers=headers
    ) as response:
        return response.status, response.headers.get("Retry-After")


async def test_without_postgresql_messages_are_taken_and_answered_when_it_is_back(
    suite: Any, worker: Any, servers: Any, eventually: Any
) -> None:
    bot = await worker.telegram_bot(suite.telegram, 701)
    async with stopped(servers.postgres):
        for number in range(1, 4):
            assert (await _webhook(worker, bot, number, f"m{number}"))[0] == 200
        assert (await worker.call("GET", "/health/ready"))[0] == 200
        status, problem = await worker.call("GET", "/bots")
        assert (status, problem["code"]) == (503, "unavailable")
    await eventually(lambda: _heard(suite)[-1:] == ["m3"], what="the last message", timeout=60)
    assert list(dict.fromkeys(_heard(suite))) == ["m1", "m2", "m3"]
    turns = len(suite.router.requests)
    assert len(await suite.sent(turns, 9)) == turns


def _heard(suite: Any) -> list[str]:
    return [m.content for request in suite.router.requests for m in request.messages if m.role == "user"]


async def test_without_rabbitmq_telegram_is_asked_to_come_again_and_then_answered(
    suite: Any, worker: Any, servers: Any, eventually: Any
) -> None:
    bot = await worker.telegram_bot(suite.telegram, 702)
    async with stopped(servers.rabbitmq):
        status, retry_after = await _webhook(worker, bot, 1, "hello")
        assert status == 503
        assert retry_after is not None
        assert int(retry_after) >= 1
        suite.telegram.say(702, 8, "are you there?")
    sent = await suite.sent(1, 8, timeout=90)
    assert [message.text for message in sent] == ["echo: are you there?"]


async def test_without_redis_replies_still_go_out(suite: Any, worker: Any, servers: Any) -> None:
    await worker.telegram_bot(suite.telegram, 703)
    async with stopped(servers.redis):
        suite.telegram.say(703, 7, "hello")
        sent = await suite.sent(1, 7)
        assert [message.text for message in sent] == ["echo: hello"]
        assert (await worker.call("GET", "/health/ready"))[0] == 200
