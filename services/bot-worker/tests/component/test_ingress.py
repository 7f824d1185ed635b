"""What the webhook answers to whom."""

import json
from typing import Any
from uuid import uuid4

import pytest

from kairos_telemetry import metrics

pytestmark = pytest.mark.servers
SECRET = {"X-Telegram-Bot-Api-Secret-Token": "webhook-secret"}


def update(update_id: int = 1, **message: Any) -> dict[str, Any]:
    chat = {"id": 9, "type": "private"}
    sender = {"id": 9, "is_bot": False, "first_name": "Ada"}
    values = {"message_id": 5, "date": 1_700_000_000, "chat": chat, "from": sender, "text": "hello"}
    return {"update_id": update_id, "message": values | message}


async def _post(worker: Any, bot: dict[str, Any], **kwargs: Any) -> tuple[int, Any]:
    kwargs.setdefault("headers", SECRET)
    status, body = await worker.call("POST", bot["webhook_path"], role=None, **kwargs)
    return status, body


async def test_each_bad_request_gets_its_documented_answer(suite: Any, worker: Any) -> None:
    bot = await worker.telegram_bot(suite.telegram, 601)
    wrong = {"X-Telegram-Bot-Api-Secret-Token": "webhook-secreT"}
    cases = [
        (401, "wrong_secret", {"json": update(), "headers": wrong}),
        (401, "wrong_secret", {"json": update(), "headers": {}}),
        (400, "malformed_update", {"data": b"{not json"}),
        (400, "malformed_update", {"data": b"[" * 100_000}),
        (400, "malformed_update", {"json": ["no", "update"]}),
        (400, "malformed_update", {"json": {"update_id": "text"}}),
        (413, "body_too_large", {"data": b'{"update_id": 1, "x": "' + b"x" * 300_000 + b'"}'}),
    ]
    for status, code, request in cases:
        assert (await _post(worker, bot, **request))[0] == status, request
        _, problem = await _post(worker, bot, **request)
        assert problem["code"] == code
    assert suite.telegram.sent_to(9) == []


async def test_an_unknown_bot_is_not_found(worker: Any) -> None:
    status, problem = await _post(worker, {"webhook_path": f"/channels/telegram/{uuid4()}"}, json=update())
    assert (status, problem["code"]) == (404, "bot_unknown")
    web_only = await worker.create_bot(web_enabled=True)
    assert (await _post(worker, web_only, json=update()))[0] == 404
    assert (await _post(worker, {"webhook_path": "/channels/telegram/x"}, json=update()))[0] == 422


async def test_updates_of_other_kinds_are_taken_counted_and_not_answered(suite: Any, worker: Any) -> None:
    bot = await worker.telegram_bot(suite.telegram, 602)
    counter = metrics.counter("bot_messages_processed_total").labels(
        service="bot-worker", outcome="unsupported"
    )
    before = counter._value.get()
    bodies = [
        {"update_id": 1, "callback_query": {"id": "1"}},
        {"update_id": 2, "some_future_kind": {"x": 1}},
        {"update_id": 3, "message": {"nobody": "understands"}},
        update(4, text=None, sticker={"file_id": "x"}),
    ]
    for body in bodies:
        assert await _post(worker, bot, json=body) == (200, {"ok": True})
    assert counter._value.get() - before == len(bodies)


async def test_a_repeated_webhook_is_answered_once(suite: Any, worker: Any, eventually: Any) -> None:
    bot = await worker.telegram_bot(suite.telegram, 603)
    body = json.dumps(update(77))
    for _ in range(5):
        assert (await _post(worker, bot, data=body))[0] == 200
    await suite.sent(1, 9)
    assert (await _post(worker, bot, data=body))[0] == 200
    assert (await _post(worker, bot, json=update(78, message_id=6, text="next")))[0] == 200
    sent = await suite.sent(2, 9)
    assert [message.text for message in sent] == ["echo: hello", "echo: next"]


async def test_text_the_database_can_not_hold_is_cleaned(suite: Any, worker: Any) -> None:
    bot = await worker.telegram_bot(suite.telegram, 604)
    assert (await _post(worker, bot, json=update(1, text="nul\x00inside")))[0] == 200
    assert [message.text for message in await suite.sent(1, 9)] == ["echo: nulinside"]


async def test_late_messages_of_one_turn_are_put_in_the_order_of_the_chat(suite: Any, worker: Any) -> None:
    bot = await worker.telegram_bot(suite.telegram, 605)
    for update_id, message_id, text in ((30, 3, "third"), (10, 1, "first"), (20, 2, "second")):
        body = update(update_id, message_id=message_id, text=text)
        assert (await _post(worker, bot, json=body))[0] == 200
    await suite.sent(1, 9)
    [request] = suite.router.requests
    assert [message.content for message in request.messages] == ["first", "second", "third"]
