"""RabbitMQ, PostgreSQL, Redis, the provider: what callers see while one is away, and that nothing is lost.

Each test proves its row of the table "When a part is away" in docs/OPERATIONS_GUIDE.md.
"""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import aiohttp
import httpx
import pytest
from tests.e2e.fragile import REFUSAL_S, Fragile, cost_of
from tests.e2e.live_client import Api, LiveFeed
from tests.e2e.people import Json, door, new_bot, until

from kairos_testkit.faults_script import Fault

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400)]


MANAGEMENT: Final = (
    "bot-worker/bots",
    "budget-analytics/budgets",
    "auth-audit/members",
    "observability/events",
)


@pytest.fixture(autouse=True)
def _well_before_and_after(fragile: Fragile) -> Iterator[None]:
    servers = fragile.stack.servers
    fragile.wait_well()
    yield
    for server in (servers.rabbitmq, servers.postgres, servers.redis):
        server.start()
    fragile.wait_well()


def assert_unavailable(answer: httpx.Response, code: str = "unavailable") -> None:
    """503, a code, and when to come again."""
    body = answer.json()
    assert (answer.status_code, body.get("code") or body["error"]["code"]) == (503, code)
    assert int(answer.headers["retry-after"]) > 0


def test_without_rabbitmq_channels_are_asked_to_come_again_and_nothing_is_lost(fragile: Fragile) -> None:
    visitor = fragile.visitor()
    assert fragile.complete("before the outage").status_code == 200
    fragile.stack.servers.rabbitmq.kill()
    chat = fragile.tell("sent while the broker was away")
    with ThreadPoolExecutor() as pool:
        began = time.monotonic()
        webhook = pool.submit(fragile.webhook, "refused for now")
        headers = dict(visitor.page.headers)
        body = {"sequence": 1, "text": "asked while the broker was away"}
        page = pool.submit(fragile.http.post, "/api/bot-worker/web/messages", json=body, headers=headers)
        refusals = [webhook.result()[1], page.result()]
        assert time.monotonic() - began < REFUSAL_S + 5
    for refusal in refusals:
        assert_unavailable(refusal)
    # What needs no broker goes on: changes commit with their messages, completions are answered.
    bot = new_bot(fragile.stack, "Made without a broker")
    assert fragile.complete("completed without a broker").status_code == 200
    assert fragile.unpublished("bots") > 0
    assert fragile.stack.telegram.sent_to(chat) == []
    fragile.stack.servers.rabbitmq.start()
    assert fragile.sent(chat) == ["echo: sent while the broker was away"]
    until("the page's second try", lambda: visitor.page.post("/messages", body))
    assert visitor.wait_replies(1) == ["echo: asked while the broker was away"]
    assert fragile.audited(bot)["entry"]["outcome"] == "allowed"
    until("an empty outbox", lambda: fragile.unpublished("bots") == 0)
    fragile.wait_paid()
    fragile.assert_answered()
    fragile.assert_nothing_dead()


def retried(fragile: Fragile) -> float:
    return fragile.metric("bot-worker", "kairos_messages_consumed_total", outcome="retried")


def test_without_postgresql_channels_are_served_and_consumers_wait(fragile: Fragile) -> None:
    visitor = fragile.visitor()
    assert fragile.complete("before the outage").status_code == 200
    before = retried(fragile)
    fragile.stack.servers.postgres.kill()
    assert fragile.complete("on a running lease").status_code == 200
    chat = fragile.tell("one", "two", "three")
    direct, answer = fragile.webhook("taken without a database")
    assert answer.status_code == 200
    assert visitor.say("taken without a database, too")["sequence"] == 1
    for path in (*MANAGEMENT, f"llm-router/decisions/{fragile.stack.seeded.bot_id}"):
        began = time.monotonic()
        assert_unavailable(fragile.get(path))
        assert time.monotonic() - began < REFUSAL_S
    # Leases can't be renewed: when they end, only what costs nothing goes on.
    until("the end of the leases", lambda: fragile.complete("no lease").status_code == 503)
    assert_unavailable(fragile.complete("no lease"), "budget_unavailable")
    assert fragile.complete("free", model="free").status_code == 200
    assert fragile.stack.telegram.sent_to(chat) == []
    fragile.stack.servers.postgres.start()
    until("the answer to all three", lambda: fragile.sent(chat)[-1] == "echo: three")
    assert fragile.sent(direct) == ["echo: taken without a database"]
    assert visitor.wait_replies(1) == ["echo: taken without a database, too"]
    until("management", lambda: fragile.get("bot-worker/bots").status_code == 200)
    until("paid models", lambda: fragile.complete("after the outage").status_code == 200)
    assert retried(fragile) == before, "waiting for the database burnt an attempt"
    fragile.wait_paid()
    fragile.assert_answered()
    fragile.assert_nothing_dead()


def test_without_redis_nothing_but_new_live_feeds_is_refused(fragile: Fragile) -> None:
    key = {"Authorization": f"Bearer {fragile.stack.seeded.api_key}"}

    def without_redis() -> int:
        fragile.stack.servers.redis.kill()
        chat = fragile.tell("without redis")
        assert fragile.sent(chat) == ["echo: without redis"]
        visitor = fragile.visitor()
        visitor.say("without redis, on the page")
        assert visitor.wait_replies(1) == ["echo: without redis, on the page"]
        assert fragile.complete("without redis, by the API").status_code == 200
        for path in MANAGEMENT:
            assert fragile.get(path).status_code == 200
        # Tickets live in Redis: pages poll the event store meanwhile.
        assert_unavailable(fragile.http.post("/api/observability/tickets", headers=key))
        return chat

    async def watched() -> None:
        async with aiohttp.ClientSession() as http:
            feed = await LiveFeed.open(Api(http, fragile.stack.front_door, key))
            listening = asyncio.create_task(feed.listen())
            await asyncio.to_thread(without_redis)
            types = {event.type for event in feed.events}
            assert "conversation.reply.sent.v1" in types, "an open feed stood still"
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    asyncio.run(watched())
    fragile.stack.servers.redis.start()
    until("tickets", lambda: door(fragile.stack, "observability").post("/tickets")["ticket"])
    fragile.wait_paid()
    fragile.assert_answered()


def test_a_dead_provider_is_passed_over_and_told_apart(fragile: Fragile) -> None:
    assert_unavailable(fragile.complete("nobody there", model="dead"), "provider_unreachable")
    passed = fragile.complete("somebody else", model="resilient")
    assert (passed.status_code, passed.headers["x-kairos-deployment"]) == (200, "fake")
    visitor = fragile.visitor(model="dead", fallback_text="Nobody is there.")
    visitor.say("is anybody there?")
    assert visitor.wait_replies(1) == ["Nobody is there."]

    def rests() -> bool:
        answer = fragile.complete("again", model="dead")
        return bool(answer.json()["error"]["code"] == "provider_unavailable")

    until("the open circuit", rests)
    assert_unavailable(fragile.complete("again", model="dead"), "provider_unavailable")
    fragile.wait_paid()


def test_an_answer_that_never_came_counts_in_full_until_it_is_reconciled(fragile: Fragile) -> None:
    fragile.wait_paid()
    settled, _ = fragile.settled()
    fragile.provider.fail(Fault(match="took too long", delay_ms=4_000))
    answer = fragile.complete("took too long", model="slow")
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "provider_timeout")
    (record,) = fragile.records("took too long")
    cost = cost_of(record)

    def in_doubt() -> bool:
        spent, suspense = fragile.settled()
        return spent == settled and suspense > cost

    until("the whole hold in suspense", in_doubt)
    line: Json = {"attempt_id": record.attempt_id, "cost_nano_usd": cost}
    result = door(fragile.stack, "budget-analytics").post("/reconciliations", {"records": [line]})
    assert [each["attempt_id"] for each in result["results"]] == [record.attempt_id]
    fragile.wait_paid()
