"""A service killed with SIGKILL: what callers see while it is away, and that nothing is lost.

Each test proves its row of the table "When a part is away" in docs/OPERATIONS_GUIDE.md.
"""

import asyncio
import sys
from collections.abc import Iterator
from functools import partial

import aiohttp
import pytest
from tests.e2e import test_outages_of_servers
from tests.e2e.fragile import Fragile
from tests.e2e.live_client import Api, Json, LiveFeed
from tests.e2e.people import door, new_bot, signed_in, until

from kairos_testkit.suite import SERVICES

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400)]

FALLBACK = "Sorry, I can't answer right now. Please try again later."
AWAY = 502
"""What the front door answers for a service that does not run."""


# The rows of the guide's table and the tests that prove them.
PROVED = {
    "RabbitMQ": "test_without_rabbitmq_channels_are_asked_to_come_again_and_nothing_is_lost",
    "PostgreSQL": "test_without_postgresql_channels_are_served_and_consumers_wait",
    "Redis": "test_without_redis_nothing_but_new_live_feeds_is_refused",
    "bot-worker": "test_without_bot_worker_telegram_comes_again_and_pages_too",
    "llm-router": "test_without_llm_router_turns_wait_and_then_give_the_fallback_text",
    "budget-analytics": "test_without_budget_analytics_only_running_leases_and_free_models_answer",
    "auth-audit": "test_without_auth_audit_known_callers_go_on_and_unknown_ones_wait",
    "observability": "test_without_observability_the_feed_ends_and_catches_up",
    "a provider": "test_an_answer_that_never_came_counts_in_full_until_it_is_reconciled",
}


@pytest.fixture(autouse=True)
def _well_before_and_after(fragile: Fragile) -> Iterator[None]:
    fragile.wait_well()
    yield
    for service in SERVICES:
        fragile.stack.start(service.name)
    fragile.wait_well()


def test_without_bot_worker_telegram_comes_again_and_pages_too(fragile: Fragile) -> None:
    visitor = fragile.visitor()
    fragile.stack.kill("bot-worker")
    chat = fragile.tell("nobody takes this")
    assert fragile.webhook("refused")[1].status_code == AWAY
    assert fragile.get("bot-worker/bots").status_code == AWAY
    assert fragile.complete("the others go on").status_code == 200
    fragile.stack.start("bot-worker")
    assert fragile.sent(chat) == ["echo: nobody takes this"]
    visitor.say("still the same session")
    assert visitor.wait_replies(1) == ["echo: still the same session"]
    fragile.wait_paid()
    fragile.assert_answered()


def test_without_llm_router_turns_wait_and_then_give_the_fallback_text(fragile: Fragile) -> None:
    fragile.stack.kill("llm-router")
    chat = fragile.tell("is the model there?")
    assert fragile.complete("by the API").status_code == AWAY
    until("the waiting command", lambda: fragile.waiting("llm-router.completions") == 1)
    assert fragile.stack.telegram.sent_to(chat) == []
    (fallback,) = fragile.sent(chat)
    assert fallback == FALLBACK
    fenced = fragile.metric("bot-worker", "bot_messages_processed_total", outcome="fenced")
    other = fragile.tell("answered when it is back")
    fragile.stack.start("llm-router")

    def late_answer_fenced() -> bool:
        now = fragile.metric("bot-worker", "bot_messages_processed_total", outcome="fenced")
        return now > fenced

    until("the late answer to be fenced off", late_answer_fenced)
    # A machine on which the start takes longer than the turn's deadline has the other ending.
    assert fragile.sent(other)[0] in {"echo: answered when it is back", FALLBACK}
    fragile.tell("and now?", chat=chat)
    assert fragile.sent(chat, 2) == [fallback, "echo: and now?"]
    fragile.reconcile_dead_router()
    # Nobody waited any more, so the provider was never asked.
    assert fragile.records("is the model there?") == []
    fragile.wait_paid()
    fragile.assert_answered()


def test_without_budget_analytics_only_running_leases_and_free_models_answer(fragile: Fragile) -> None:
    assert fragile.complete("a lease begins").status_code == 200
    fragile.wait_paid()
    settled, _ = fragile.settled()
    fragile.stack.kill("budget-analytics")
    assert fragile.complete("paid from a running lease").status_code == 200
    until("the waiting usage", lambda: fragile.waiting("budget-analytics.usage") >= 1)
    assert fragile.get("budget-analytics/budgets").status_code == AWAY
    until("the end of the leases", lambda: fragile.complete("no lease").status_code == 503)
    refused = fragile.complete("no lease")
    assert refused.json()["error"]["code"] == "budget_unavailable"
    assert int(refused.headers["retry-after"]) > 0
    assert fragile.complete("free of charge", model="free").status_code == 200
    visitor = fragile.visitor(model="free")
    visitor.say("free chat")
    assert visitor.wait_replies(1) == ["echo: free chat"]
    fragile.stack.start("budget-analytics")
    until("paid models", lambda: fragile.complete("leases again").status_code == 200)
    fragile.wait_paid()
    assert fragile.settled()[0] > settled
    posts = [
        each
        for record in fragile.records("paid from a running lease")
        for each in door(fragile.stack, "budget-analytics").items(
            "/ledger/transfers", attempt_id=str(record.attempt_id)
        )
    ]
    assert [each["kind"] for each in posts] == ["post"]


def test_without_auth_audit_known_callers_go_on_and_unknown_ones_wait(fragile: Fragile) -> None:
    made = signed_in(fragile.stack, "unknown@kairos.example").post("/api-keys", {"name": "unknown"})
    unknown: str = made["key"]
    known = ("bot-worker/bots", "budget-analytics/budgets", "observability/events")
    for path in known:
        assert fragile.get(path).status_code == 200
    assert fragile.complete("known caller").status_code == 200
    fragile.stack.kill("auth-audit")
    for path in known:
        assert fragile.get(path).status_code == 200
        refused = fragile.get(path, api_key=unknown)
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        assert int(refused.headers["retry-after"]) > 0
    assert fragile.complete("still known").status_code == 200
    refused = fragile.complete("not known yet", api_key=unknown)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "auth_unavailable")
    assert fragile.get("auth-audit/members").status_code == AWAY
    # Channels need nobody's permission, and what is critical waits to be chained.
    chat = fragile.tell("without auth-audit")
    assert fragile.sent(chat) == ["echo: without auth-audit"]
    bots = [new_bot(fragile.stack, f"Made without an auditor {number}") for number in (1, 2)]
    until("the waiting entries", lambda: fragile.waiting("auth-audit.entries") >= 2)
    fragile.stack.start("auth-audit")
    for bot in bots:
        entry = fragile.audited(bot)
        # The order in the chain is that of chaining; what happened when is in the entry.
        assert entry["entry"]["occurred_at"] < entry["recorded_at"]
    until("the unknown caller", lambda: fragile.get("bot-worker/bots", api_key=unknown).status_code == 200)
    fragile.assert_answered()


def test_without_observability_the_feed_ends_and_catches_up(fragile: Fragile) -> None:
    events = door(fragile.stack, "observability")
    position = events.get("/events")["head"]

    async def watch(resume: Json | None) -> tuple[Json, list[Json]]:
        """The frames up to `ready`, the way a page (re)opens the feed."""
        async with aiohttp.ClientSession() as http:
            key = {"Authorization": f"Bearer {fragile.stack.seeded.api_key}"}
            feed = await LiveFeed.open(Api(http, fragile.stack.front_door, key), resume=resume)
            if resume is None:
                fragile.stack.kill("observability")
                with pytest.raises(Exception, match="closed"):
                    await asyncio.wait_for(feed.listen(), 20)
            return feed.opening[-1], feed.opening

    ready, _ = asyncio.run(watch(None))
    chat = fragile.tell("nobody watches")
    assert fragile.sent(chat) == ["echo: nobody watches"]
    assert fragile.get("observability/services").status_code == AWAY
    until("the waiting events", lambda: fragile.waiting("observability.events") > 0)
    fragile.stack.start("observability")
    _, opening = asyncio.run(watch({"epoch": ready["epoch"], "seq": ready["seq"]}))
    assert [frame["t"] for frame in opening] == ["hello", "gap", "snap", "ready"]
    assert opening[1]["reason"] == "epoch"
    missed = {"conversation.message.received.v1", "conversation.reply.sent.v1"}

    def caught_up() -> bool:
        found = events.get("/events", after=position, limit=200)["items"]
        return missed <= {each["type"] for each in found}

    until("the missed events", caught_up)
    fragile.assert_answered()


def test_every_row_of_the_guide_has_its_test(request: pytest.FixtureRequest) -> None:
    guide = (request.config.rootpath / "docs" / "OPERATIONS_GUIDE.md").read_text()
    table = guide.partition("## When a part is away")[2].partition("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")][1:]
    assert rows == list(PROVED)
    here = sys.modules[__name__]
    assert all(hasattr(here, name) or hasattr(test_outages_of_servers, name) for name in PROVED.values())


def _published(fragile: Fragile, schema: str) -> bool:
    return fragile.unpublished(schema) == 0


def test_after_all_outages_everything_was_answered_once_and_paid_exactly(fragile: Fragile) -> None:
    assert len(fragile.said) >= 5
    fragile.assert_answered()
    fragile.wait_paid()
    fragile.assert_nothing_dead()
    for schema in ("bots", "router", "budget", "auth", "ops"):
        until(f"the outbox of {schema} to be empty", partial(_published, fragile, schema))
    assert door(fragile.stack, "auth-audit").post("/audit/verify")["intact"] is True
