"""From a contact's message to the sent reply."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from kairos_contracts.llm.v1 import CompletionFailedV1
from kairos_telemetry import configure

pytestmark = pytest.mark.servers


def _texts(sent: list[Any]) -> list[str]:
    return [message.text for message in sent]


async def _conversation(worker: Any, bot: dict[str, Any]) -> list[dict[str, Any]]:
    _, page = await worker.call("GET", f"/bots/{bot['id']}/conversations")
    _, messages = await worker.call("GET", f"/conversations/{page['items'][0]['id']}/messages")
    return list(messages["items"])


async def test_a_webhook_message_is_answered_in_its_chat(suite: Any, worker: Any) -> None:
    bot = await worker.telegram_bot(suite.telegram, 501)
    suite.telegram.say(501, 7, "hello")
    assert _texts(await suite.sent(1, 7)) == ["echo: hello"]
    messages = await _conversation(worker, bot)
    assert [(m["sequence"], m["direction"], m["text"]) for m in messages] == [
        (1, "in", "hello"),
        (2, "out", "echo: hello"),
    ]


async def test_quick_messages_share_one_answer(suite: Any, worker: Any, eventually: Any) -> None:
    await worker.telegram_bot(suite.telegram, 502, system_prompt="be kind")
    for text in ("one", "two", "three"):
        suite.telegram.say(502, 7, text)
    await suite.sent(1, 7)
    [request] = suite.router.requests
    assert [(m.role, m.content) for m in request.messages] == [
        ("system", "be kind"),
        ("user", "one"),
        ("user", "two"),
        ("user", "three"),
    ]
    suite.telegram.say(502, 7, "four")
    await suite.sent(2, 7)
    assert [m.content for m in suite.router.requests[1].messages][1:] == [
        "one",
        "two",
        "three",
        "echo: three",
        "four",
    ]


async def test_messages_that_come_while_an_answer_is_made_open_the_next_turn(
    suite: Any, worker: Any, eventually: Any, completed: Any
) -> None:
    await worker.telegram_bot(suite.telegram, 503)
    suite.router.respond = lambda _: None
    suite.telegram.say(503, 7, "first")
    await eventually(lambda: suite.router.requests, what="the first request")
    suite.telegram.say(503, 7, "second")
    await suite.delivered()
    await asyncio.sleep(0.5)
    assert len(suite.router.requests) == 1
    suite.router.respond = completed
    await suite.router.publish(completed(suite.router.requests[0]))
    assert _texts(await suite.sent(2, 7)) == ["echo: first", "echo: second"]


async def test_a_failed_completion_is_answered_with_the_fallback_text(suite: Any, worker: Any) -> None:
    await worker.telegram_bot(suite.telegram, 504)
    suite.router.respond = lambda request: CompletionFailedV1(
        completion_id=request.completion_id,
        turn_id=request.turn_id,
        conversation_id=request.conversation_id,
        bot_id=request.bot_id,
        epoch=request.epoch,
        code="budget_exceeded",
        message="the budget is spent",
    )
    suite.telegram.say(504, 7, "hello")
    assert _texts(await suite.sent(1, 7)) == ["fallback"]


async def test_a_turn_past_its_deadline_gets_the_fallback_text_and_a_late_answer_is_fenced(
    suite: Any, eventually: Any, completed: Any
) -> None:
    worker = await suite.start(turn_deadline_s=0.3)
    bot = await worker.telegram_bot(suite.telegram, 505)
    suite.router.respond = lambda _: None
    suite.telegram.say(505, 7, "hello")
    assert _texts(await suite.sent(1, 7)) == ["fallback"]
    await suite.router.publish(completed(suite.router.requests[0], "too late"))
    suite.router.respond = completed
    suite.telegram.say(505, 7, "again")
    assert _texts(await suite.sent(2, 7)) == ["fallback", "echo: again"]
    assert "too late" not in str(await _conversation(worker, bot))


async def test_a_change_of_mode_fences_off_the_answer_in_flight(
    suite: Any, worker: Any, eventually: Any, completed: Any
) -> None:
    bot = await worker.telegram_bot(suite.telegram, 506)
    suite.router.respond = lambda _: None
    suite.telegram.say(506, 7, "hello")
    await eventually(lambda: suite.router.requests, what="the request")
    status, _ = await worker.call("PATCH", f"/bots/{bot['id']}", json={"mode": "manual"})
    assert status == 200
    assert _texts(await suite.sent(1, 7)) == ["fallback"]
    await suite.router.publish(completed(suite.router.requests[0], "from the old epoch"))
    suite.telegram.say(506, 7, "again")
    assert _texts(await suite.sent(2, 7)) == ["fallback", "fallback"]


async def test_an_answer_is_counted_once_however_often_it_comes(
    suite: Any, worker: Any, completed: Any
) -> None:
    bot = await worker.telegram_bot(suite.telegram, 507)
    suite.telegram.say(507, 7, "hello")
    await suite.sent(1, 7)
    for _ in range(3):
        await suite.router.publish(completed(suite.router.requests[0], "once more"))
    suite.telegram.say(507, 7, "again")
    assert _texts(await suite.sent(2, 7)) == ["echo: hello", "echo: again"]
    assert len(await _conversation(worker, bot)) == 4


async def test_a_long_answer_arrives_in_parts_in_order(suite: Any, worker: Any, completed: Any) -> None:
    await worker.telegram_bot(suite.telegram, 508)
    suite.router.respond = lambda request: completed(request, "\n\n".join(c * 3000 for c in "abc"))
    suite.telegram.say(508, 7, "tell me more")
    assert [text[0] for text in _texts(await suite.sent(3, 7))] == ["a", "b", "c"]


async def test_two_replicas_answer_every_turn_once_and_in_order(
    suite: Any, worker: Any, eventually: Any
) -> None:
    other = await suite.start()
    await worker.telegram_bot(suite.telegram, 509)
    chats = range(20, 26)
    for number in range(4):
        for chat in chats:
            suite.telegram.say(509, chat, f"m{number}", delay_ms=150)
    for chat in chats:
        await eventually(lambda chat=chat: _last_is(suite, chat, "echo: m3"), what="the last answer")
    for chat in chats:
        sent = _texts(suite.telegram.sent_to(chat))
        assert sent == sorted(set(sent)), "one answer per turn, in order"
    said = [m.content for request in suite.router.requests for m in request.messages]
    assert {f"m{number}" for number in range(4)} <= set(said)
    assert other.base_url != worker.base_url


def _last_is(suite: Any, chat: int, text: str) -> bool:
    return _texts(suite.telegram.sent_to(chat))[-1:] == [text]


async def test_a_stopped_bot_keeps_its_messages_until_it_runs_again(
    suite: Any, worker: Any, eventually: Any
) -> None:
    bot = await worker.telegram_bot(suite.telegram, 510)
    path = f"/bots/{bot['id']}"
    await worker.call("PATCH", path, json={"desired_state": "stopped"})
    suite.telegram.say(510, 7, "anybody there?")
    await suite.delivered()
    await eventually(lambda: _observed(worker, path, "stopped"), what="the stopped bot")
    assert suite.telegram.sent_to(7) == []
    await worker.call("PATCH", path, json={"desired_state": "running"})
    assert _texts(await suite.sent(1, 7)) == ["echo: anybody there?"]


async def _observed(worker: Any, path: str, state: str) -> bool:
    _, bot = await worker.call("GET", path)
    return bool(bot["observed_state"] == state)


async def test_one_trace_leads_from_the_webhook_to_the_sent_reply(
    suite: Any, worker: Any, eventually: Any
) -> None:
    exporter = InMemorySpanExporter()
    telemetry = configure("bot-worker", otlp_endpoint=None, exporter=exporter)
    try:
        bot = await worker.telegram_bot(suite.telegram, 511)
        suite.telegram.say(511, 7, "first")
        suite.telegram.say(511, 7, "second")
        await suite.sent(1, 7)
        await eventually(lambda: _spans(exporter, "send telegram"), what="the send span")
    finally:
        telemetry.shutdown()
    [send] = _spans(exporter, "send telegram")
    trace = send.context.trace_id
    spans = {span.context.span_id: span for span in exporter.get_finished_spans()}
    chain = [send.name]
    parent = send.parent
    while parent is not None and parent.span_id in spans:
        assert parent.trace_id == trace
        chain.append(spans[parent.span_id].name)
        parent = spans[parent.span_id].parent
    assert chain[-1] == "POST /channels/telegram/{bot_id}"
    assert "turn opens" in chain
    [opens] = _spans(exporter, "turn opens")
    assert len(opens.links) == 1
    messages = await _conversation(worker, bot)
    assert {m["trace_id"] for m in messages if m["direction"] == "out"} == {f"{trace:032x}"}


def _spans(exporter: InMemorySpanExporter, name: str) -> list[Any]:
    return [span for span in exporter.get_finished_spans() if span.name == name]


async def test_a_message_of_no_known_bot_goes_to_the_dead_letters(
    suite: Any, worker: Any, eventually: Any
) -> None:
    from kairos_contracts.conversation.v1 import MessageReceivedV1

    bot = await worker.create_bot(web_enabled=True)
    message = MessageReceivedV1(
        bot_id=uuid4(),
        channel="web",
        external_update_id="1",
        external_chat_id="x",
        external_message_id="1",
        order=1,
        contact_external_id="x",
        text="hello",
        sent_at=bot["created_at"],
    )
    letters: list[Any] = []

    async def keep(letter: Any) -> None:
        letters.append(letter)

    from kairos_messaging import Bus

    bus = Bus(suite.settings.amqp_url.get_secret_value(), service="observability")
    bus.consume_raw("observability.dead-letters", keep)
    await bus.start()
    try:
        await worker.parts.bus.publish(message, organisation_id=uuid4(), message_id=uuid4())
        await worker.parts.bus.publish(message, organisation_id=None, message_id=uuid4())
        await eventually(lambda: len(letters) == 2, what="dead letters")
    finally:
        await bus.stop(2)
