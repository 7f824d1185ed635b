"""Replies on a channel that pauses, fails, or keeps its answer to itself."""

from typing import Any

import pytest

import kairos_faults
from kairos_faults import Action
from kairos_telemetry import metrics
from kairos_testkit.faults_script import Fault

pytestmark = pytest.mark.servers


def _count(outcome: str) -> float:
    counter = metrics.counter("kairos_replies_sent_total").labels(channel="telegram", outcome=outcome)
    return float(counter._value.get())


async def _last(worker: Any, bot: dict[str, Any]) -> dict[str, Any]:
    _, page = await worker.call("GET", f"/bots/{bot['id']}/conversations")
    _, messages = await worker.call("GET", f"/conversations/{page['items'][0]['id']}/messages")
    return dict(messages["items"][-1])


async def _delivery(worker: Any, bot: dict[str, Any], state: str) -> dict[str, Any] | None:
    last = await _last(worker, bot)
    return last if last["delivery"] == state else None


async def test_a_429_pauses_that_chat_and_no_other(suite: Any, worker: Any, eventually: Any) -> None:
    bot = await worker.telegram_bot(suite.telegram, 801)
    suite.telegram.fail(Fault(method="sendMessage", match="7 ", status=429, retry_after=2))
    suite.telegram.say(801, 7, "hello")
    await eventually(
        lambda: any(call.status == 429 for call in suite.telegram.calls), what="the refused call"
    )
    refused = next(call for call in suite.telegram.calls if call.status == 429)
    suite.telegram.say(801, 8, "me too")
    [other] = await suite.sent(1, 8)
    [paused] = await suite.sent(1, 7)
    assert paused.at - refused.at >= 1.9
    assert other.at < paused.at
    last = await eventually(lambda: _last_sent(worker, bot), what="the recorded delivery")
    assert last["ambiguous"] == 0


async def _last_sent(worker: Any, bot: dict[str, Any]) -> dict[str, Any] | None:
    _, page = await worker.call("GET", f"/bots/{bot['id']}/conversations")
    for conversation in page["items"]:
        if conversation["external_chat_id"] == "7":
            _, messages = await worker.call("GET", f"/conversations/{conversation['id']}/messages")
            last = dict(messages["items"][-1])
            return last if last["delivery"] == "sent" else None
    return None


async def test_a_server_error_is_tried_again(suite: Any, worker: Any, eventually: Any) -> None:
    bot = await worker.telegram_bot(suite.telegram, 802)
    suite.telegram.fail(Fault(method="sendMessage", status=502, times=2))
    suite.telegram.say(802, 7, "hello")
    assert [m.text for m in await suite.sent(1, 7)] == ["echo: hello"]
    last = await eventually(lambda: _delivery(worker, bot, "sent"), what="the recorded delivery")
    assert last["attempts"] == 3


async def test_a_contact_who_blocked_the_bot_fails_the_reply_and_not_the_next(
    suite: Any, worker: Any, eventually: Any
) -> None:
    bot = await worker.telegram_bot(suite.telegram, 803)
    suite.telegram.fail(Fault(method="sendMessage", status=403))
    suite.telegram.say(803, 7, "hello")
    failed = await eventually(lambda: _failed(worker, bot), what="the failed delivery")
    assert "scripted failure" in failed["error"]
    suite.telegram.say(803, 7, "unblocked")
    assert [m.text for m in await suite.sent(1, 7)] == ["echo: unblocked"]


async def _failed(worker: Any, bot: dict[str, Any]) -> dict[str, Any] | None:
    _, page = await worker.call("GET", f"/bots/{bot['id']}/conversations")
    return await _delivery(worker, bot, "failed") if page["items"] else None


async def test_an_answer_that_got_lost_is_counted_as_ambiguous(
    suite: Any, worker: Any, eventually: Any
) -> None:
    bot = await worker.telegram_bot(suite.telegram, 804)
    before = _count("ambiguous")
    suite.telegram.fail(Fault(method="sendMessage", drop=True))
    suite.telegram.say(804, 7, "hello")
    sent = await suite.sent(2, 7)
    assert [message.text for message in sent] == ["echo: hello"] * 2
    last = await eventually(lambda: _delivery(worker, bot, "sent"), what="the recorded delivery")
    assert (last["attempts"], last["ambiguous"]) == (2, 1)
    assert _count("ambiguous") == before + 1


async def test_a_sender_that_dies_after_the_send_leaves_a_reply_that_is_known_to_be_ambiguous(
    suite: Any, worker: Any, eventually: Any
) -> None:
    bot = await worker.telegram_bot(suite.telegram, 805)
    before = _count("ambiguous")
    kairos_faults.arm("bots.send.accepted", Action("error", times=1))
    try:
        suite.telegram.say(805, 7, "hello")
        await suite.sent(2, 7)
    finally:
        kairos_faults.disarm("bots.send.accepted")
    last = await eventually(lambda: _delivery(worker, bot, "sent"), what="the recorded delivery")
    assert (last["attempts"], last["ambiguous"]) == (2, 1)
    assert _count("ambiguous") == before + 1


async def test_a_chat_is_paced(suite: Any, completed: Any) -> None:
    worker = await suite.start(telegram_chat_per_s=2, telegram_chat_burst=1)
    await worker.telegram_bot(suite.telegram, 807)
    suite.router.respond = lambda request: completed(request, "a" * 9_000)
    suite.telegram.say(807, 7, "hello")
    sent = await suite.sent(3, 7)
    # Two messages a second: the third leaves a second after the first. Single gaps jitter on the way.
    assert sent[-1].at - sent[0].at >= 0.9


async def test_a_turn_that_can_not_be_opened_does_not_hold_up_the_others(
    suite: Any, worker: Any, eventually: Any
) -> None:
    await worker.telegram_bot(suite.telegram, 808)
    errors = metrics.counter("session_errors_total")._value
    before = errors.get()
    kairos_faults.arm("bots.turn.claimed", Action("error", times=1))
    try:
        suite.telegram.say(808, 7, "unlucky")
        await eventually(lambda: errors.get() > before, what="the failed opening")
        suite.telegram.say(808, 8, "lucky")
        assert [m.text for m in await suite.sent(1, 8)] == ["echo: lucky"]
    finally:
        kairos_faults.disarm("bots.turn.claimed")
    assert suite.telegram.sent_to(7) == []


async def test_a_revoked_token_keeps_the_reply_until_it_is_replaced(
    suite: Any, worker: Any, eventually: Any
) -> None:
    bot = await worker.telegram_bot(suite.telegram, 809)
    suite.telegram.revoked.add(809)
    suite.telegram.say(809, 7, "hello")
    await eventually(
        lambda: any(call.status == 401 for call in suite.telegram.calls), what="the refused call"
    )
    suite.telegram.revoked.discard(809)
    assert [m.text for m in await suite.sent(1, 7)] == ["echo: hello"]
    last = await eventually(lambda: _delivery(worker, bot, "sent"), what="the recorded delivery")
    assert last["ambiguous"] == 0
