"""From a contact's message to the sent reply."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytestmark = pytest.mark.servers

Eventually = Callable[..., Awaitable[Any]]


async def test_a_webhook_message_is_answered_in_its_chat(suite: Any, worker: Any) -> None:
    bot = await worker.telegram_bot(suite.telegram, 501)
    suite.telegram.say(501, 7, "hello")
    sent = await suite.sent(1, 7)
    assert [message.text for message in sent] == ["echo: hello"]
    status, page = await worker.call("GET", f"/bots/{bot['id']}/conversations")
    assert status == 200
    conversation = page["items"][0]
    _, messages = await worker.call("GET", f"/conversations/{conversation['id']}/messages")
    shown = [(m["sequence"], m["direction"], m["text"], m["delivery"]) for m in messages["items"]]
    assert shown == [(1, "in", "hello", "received"), (2, "out", "echo: hello", "sent")]
