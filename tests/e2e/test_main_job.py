"""A customer's message comes in and its answer goes out: exactly charged, audited, live, in order."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp
import openai
import pytest
from tests.e2e.live_client import Api, LiveFeed
from tests.e2e.people import (
    Json,
    Visitor,
    chat_ids,
    conversation_of,
    door,
    messages_of,
    new_bot,
    replies_of,
    until,
)

from kairos_contracts.audit_chain import link_hash
from kairos_testkit.fake_provider import ProviderRecord
from kairos_testkit.faults_script import Fault
from kairos_testkit.stack import Stack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

# The prices of the stack's deployment `fake`, in nano-USD per token.
INPUT_PRICE: Final = 150
OUTPUT_PRICE: Final = 600
MAIN_JOB_EVENTS: Final = {
    "conversation.message.received.v1",
    "conversation.turn.opened.v1",
    "llm.usage.recorded.v1",
    "llm.completion.completed.v1",
    "conversation.turn.answered.v1",
    "conversation.reply.sent.v1",
}


def record_of(stack: Stack, text: str) -> ProviderRecord:
    (record,) = [each for each in list(stack.provider.records) if each.text == text]
    return record


def price(record: ProviderRecord) -> int:
    return record.input_tokens * INPUT_PRICE + record.output_tokens * OUTPUT_PRICE


def posted(stack: Stack, attempt_id: str | None) -> list[Json]:
    """The transfers that charged an attempt to the seeded budget, once they are there.

    Other tests of the session make budgets of their own, which an attempt is charged to as well.
    """
    ledger = door(stack, "budget-analytics")

    def transfers() -> list[Json]:
        found = ledger.get("/ledger/transfers", attempt_id=str(attempt_id))["items"]
        seeded = stack.seeded.budget_id
        return [each for each in found if each["kind"] == "post" and each["budget_id"] == seeded]

    return until("the ledger's posting", transfers)


def spend(stack: Stack, group_by: str) -> dict[str | None, Json]:
    items = door(stack, "budget-analytics").items("/spend", group_by=group_by)
    return {each["key"]: each for each in items}


def cost_in(rows: dict[str | None, Json], key: str) -> int:
    return int(rows[key]["cost"]["nano_usd"]) if key in rows else 0


def test_an_answer_costs_what_the_provider_counted_and_spend_shows_it(stack: Stack) -> None:
    bot = new_bot(stack, "Priced")
    before = {grouping: spend(stack, grouping) for grouping in ("model", "day")}
    visitor = Visitor(stack, bot["id"])
    visitor.say("what does this cost?")
    assert visitor.wait_replies(1) == ["echo: what does this cost?"]
    record = record_of(stack, "what does this cost?")
    (transfer,) = posted(stack, record.attempt_id)
    assert transfer["amount"]["nano_usd"] == price(record) > 0
    assert (transfer["source"], transfer["target"]) == ("leased", "settled")
    (of_bot,) = [row for key, row in spend(stack, "bot").items() if key == bot["id"]]
    assert of_bot["cost"]["nano_usd"] == price(record)
    assert (of_bot["attempts"], of_bot["unknown_attempts"]) == (1, 0)
    assert (of_bot["input_tokens"], of_bot["output_tokens"]) == (record.input_tokens, record.output_tokens)
    day = transfer["created_at"][:10]
    for grouping, key in (("model", "fake-echo"), ("day", day)):
        after = spend(stack, grouping)
        assert cost_in(after, key) - cost_in(before[grouping], key) == price(record)
    assert door(stack, "budget-analytics").get("/ledger/check") == {
        "balanced": True,
        "imbalance": {"nano_usd": 0, "usd": "0.00"},
        "findings": [],
    }


def test_a_telegram_message_is_answered_and_its_conversation_is_readable(stack: Stack) -> None:
    chat = next(chat_ids)
    stack.say(chat, "hello from Telegram")
    (sent,) = stack.telegram.wait_sent(1, chat_id=chat, timeout=60)
    assert sent.text == "echo: hello from Telegram"
    conversation = conversation_of(stack, chat)
    incoming, outgoing = messages_of(stack, conversation)
    assert (incoming["direction"], incoming["delivery"], incoming["sequence"]) == ("in", "received", 1)
    assert (outgoing["direction"], outgoing["source"], outgoing["sequence"]) == ("out", "model", 2)
    assert incoming["turn_id"] == outgoing["turn_id"]
    until("the delivery state", lambda: messages_of(stack, conversation)[1]["delivery"] == "sent")
    (transfer,) = posted(stack, record_of(stack, "hello from Telegram").attempt_id)
    assert transfer["amount"]["nano_usd"] == price(record_of(stack, "hello from Telegram"))


def test_the_audit_entry_of_a_bots_creation_verifies_here_there_and_offline(
    stack: Stack, tmp_path: Path
) -> None:
    bot = new_bot(stack, "Audited")
    auth = door(stack, "auth-audit")

    def entries() -> list[Json]:
        found: list[Json] = auth.get("/audit/entries", action="bot.created", target=f"bot:{bot['id']}")[
            "items"
        ]
        return found

    (link,) = until("the audit entry", entries)
    entry = link["entry"]
    assert (entry["source"], entry["outcome"], entry["via"]) == ("bot-worker", "allowed", "rest")
    assert entry["actor"]["kind"] == "api_key"
    assert entry["after"]["name"] == "Audited"
    stream = stack.seeded.organisation_id
    assert link_hash(stream, link["seq"], link["prev_hash"], link["recorded_at"], entry) == link["hash"]
    report = auth.post("/audit/verify")
    assert (report["intact"], report["findings"]) == (True, [])
    assert report["entries"] >= link["seq"]
    export = tmp_path / "audit.ndjson"
    export.write_text(auth.get("/audit/export"))
    command = [sys.executable, "-m", "kairos_sdk.commands", "audit", "verify", "--export", str(export)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_live_events_arrive_through_the_front_door(stack: Stack) -> None:
    async def watch() -> list[Json]:
        async with aiohttp.ClientSession() as http:
            key = {"Authorization": f"Bearer {stack.seeded.api_key}"}
            feed = await LiveFeed.open(Api(http, stack.front_door, key))
            listening = asyncio.create_task(feed.listen())
            visitor = await asyncio.to_thread(Visitor, stack)
            await asyncio.to_thread(visitor.say, "watch me")

            def of_visitor() -> list[Json]:
                about = visitor.conversation
                trace = {e.event["trace_id"] for e in feed.events if e.data.get("conversation_id") == about}
                return [each.event for each in feed.events if each.event["trace_id"] in trace]

            await asyncio.to_thread(
                until, "the live events", lambda: {e["type"] for e in of_visitor()} >= MAIN_JOB_EVENTS
            )
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            return of_visitor()

    events = asyncio.run(watch())
    assert sorted(event["type"] for event in events) == sorted(MAIN_JOB_EVENTS)
    assert {event["organisation_id"] for event in events} == {stack.seeded.organisation_id}
    assert len({event["trace_id"] for event in events}) == 1
    # What people wrote is for those who may read conversations, not for everyone who watches.
    assert "watch me" not in json.dumps(events)
    stored = door(stack, "observability")

    def all_stored() -> bool:
        newest = stored.get("/events", limit=100)["items"]
        return {event["id"] for event in events} <= {each["id"] for each in newest}

    until("the stored events", all_stored)


def test_messages_that_come_while_an_answer_is_made_share_the_next_one(stack: Stack) -> None:
    chat = next(chat_ids)
    stack.provider.fail(Fault(match="slow question", delay_ms=2_000))
    stack.say(chat, "slow question")
    until(
        "the provider's request",
        lambda: [r for r in list(stack.provider.records) if r.text == "slow question"],
    )
    for text in ("and one", "and two", "and three"):
        stack.say(chat, text)
    sent = stack.telegram.wait_sent(2, chat_id=chat, timeout=60)
    assert [each.text for each in sent] == ["echo: slow question", "echo: and three"]
    messages = messages_of(stack, conversation_of(stack, chat))
    turns = [each["turn_id"] for each in messages if each["direction"] == "in"]
    assert len(set(turns[1:])) == 1
    assert turns[0] != turns[1]
    (request,) = [each for each in stack.provider.records if each.text == "and three"]
    # The model was asked once and saw the whole conversation.
    assert request.input_tokens >= sum(len(each["text"]) // 4 for each in messages[:-1])


def test_each_conversation_keeps_its_order_and_waits_for_no_other(stack: Stack) -> None:
    slow, quick = next(chat_ids), next(chat_ids)
    stack.provider.fail(Fault(match="slow 1", delay_ms=2_500))
    for number in (1, 2, 3):
        stack.say(slow, f"slow {number}")
        stack.say(quick, f"quick {number}")
        if number == 1:
            stack.telegram.wait_sent(1, chat_id=quick, timeout=60)
            assert stack.telegram.sent_to(slow) == [], "a slow answer held up another conversation"
    for chat, name in ((slow, "slow"), (quick, "quick")):
        until(f"the last {name} reply", partial(_ends_with, stack, chat, f"echo: {name} 3"))
        numbers = [int(text.rpartition(" ")[2]) for text in _sent(stack, chat)]
        assert numbers == sorted(set(numbers))
        conversation = conversation_of(stack, chat)
        messages = messages_of(stack, conversation)
        assert [each["sequence"] for each in messages] == list(range(1, len(messages) + 1))
        asked = [each["text"] for each in messages if each["direction"] == "in"]
        assert asked == [f"{name} {number}" for number in (1, 2, 3)]
        assert replies_of(stack, conversation) == _sent(stack, chat)


def _ends_with(stack: Stack, chat: int, text: str) -> bool:
    return _sent(stack, chat)[-1:] == [text]


def _sent(stack: Stack, chat: int) -> list[str]:
    return [each.text for each in stack.telegram.sent_to(chat)]


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    """The unmodified client of the real provider, pointed at the front door."""
    with openai.OpenAI(
        base_url=f"{stack.front_door}/v1", api_key=stack.seeded.api_key, timeout=30, max_retries=0
    ) as made:
        yield made


def test_the_openai_client_gets_a_plain_answer_and_its_exact_cost(
    stack: Stack, client: openai.OpenAI
) -> None:
    question: list[Any] = [{"role": "user", "content": "plain, please"}]
    raw = client.chat.completions.with_raw_response.create(model="default", messages=question)
    answer, record = raw.parse(), record_of(stack, "plain, please")
    assert answer.choices[0].message.content == "echo: plain, please"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    usage = (answer.usage.prompt_tokens, answer.usage.completion_tokens)
    assert usage == (record.input_tokens, record.output_tokens)
    assert raw.headers["x-kairos-cost-nano-usd"] == str(price(record))
    assert raw.headers["x-kairos-deployment"] == "fake"
    (transfer,) = posted(stack, record.attempt_id)
    assert transfer["amount"]["nano_usd"] == price(record)
    assert "default" in {model.id for model in client.models.list()}


def test_the_openai_client_streams_and_pays_for_what_was_streamed(
    stack: Stack, client: openai.OpenAI
) -> None:
    question: list[Any] = [{"role": "user", "content": "stream, please"}]
    chunks = list(
        client.chat.completions.create(
            model="default", messages=question, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "echo: stream, please"
    assert len([chunk for chunk in chunks if chunk.choices]) > 2
    record = record_of(stack, "stream, please")
    usage = chunks[-1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (record.input_tokens, record.output_tokens)
    (transfer,) = posted(stack, record.attempt_id)
    assert transfer["amount"]["nano_usd"] == price(record)


def test_the_demo_shows_both_messages_and_says_what_is_missing(stack: Stack, tmp_path: Path) -> None:
    connection = {
        "front_door": stack.front_door,
        "api_key": stack.seeded.api_key,
        "bot_id": stack.seeded.bot_id,
        "organisation_id": stack.seeded.organisation_id,
        "telegram_bot_id": stack.seeded.telegram_bot_id,
        "fake_telegram_url": stack.telegram.base_url,
    }
    file = tmp_path / "connection.json"
    file.write_text(json.dumps(connection))
    done = _demo(file, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    shown = json.loads(done.stdout)
    assert [each["channel"] for each in shown["messages"]] == ["telegram", "web"]
    for message in shown["messages"]:
        assert message["reply"] == f"echo: {message['said']}"
        assert message["ledger_nano_usd"] == message["cost_nano_usd"] > 0
        assert {event["type"] for event in message["events"]} >= MAIN_JOB_EVENTS
    assert shown["audit"]["hash"] == shown["audit"]["recomputed_hash"]
    assert shown["audit"]["verification"]["intact"] is True
    for_people = _demo(file)
    assert for_people.returncode == 0, for_people.stderr
    assert "echo: Hello from Telegram" in for_people.stdout
    assert "the log is intact" in for_people.stdout
    file.write_text(json.dumps(connection | {"api_key": "kairos_live_unknown"}))
    refused = _demo(file)
    assert refused.returncode == 1
    assert "401" in refused.stderr
    nothing = _demo(tmp_path / "nowhere.json")
    assert (nothing.returncode, "make up" in nothing.stderr) == (1, True)


def _demo(connection: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(Path(__file__).with_name("demo.py")), "--connection", str(connection)]
    return subprocess.run([*command, *more], capture_output=True, text=True, check=False, timeout=60)
