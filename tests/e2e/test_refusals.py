"""Every refusal gives the documented answer, changes nothing, and costs nothing.

`docs/OPERATIONS_GUIDE.md` has the same answers in its table "When a request is refused".
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
import openai
import pytest
from tests.e2e.people import (
    Json,
    Visitor,
    chat_ids,
    conversation_of,
    door,
    messages_of,
    new_bot,
    signed_in,
    until,
)

from kairos_testkit.api_client import ApiError
from kairos_testkit.faults_script import Fault
from kairos_testkit.stack import Stack
from kairos_testkit.telegram_delivery import SECRET_HEADER, Webhook

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

GUIDE: Final = Path(__file__).parents[2] / "docs" / "OPERATIONS_GUIDE.md"
WEBHOOK_LIMIT: Final = 262_144
V1_LIMIT: Final = 8 * 1024 * 1024
NOBODY: Final = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def http(stack: Stack) -> Iterator[httpx.Client]:
    """Raw requests to the front door."""
    with httpx.Client(base_url=stack.front_door, timeout=30) as client:
        yield client


@pytest.fixture
def hook(stack: Stack) -> Webhook:
    """Where Telegram delivers the demo bot's updates, and with which secret."""
    return stack.telegram.deliveries.webhooks[stack.seeded.telegram_bot_id or 0]


def key(stack: Stack) -> dict[str, str]:
    return {"Authorization": f"Bearer {stack.seeded.api_key}"}


def update(chat: int, text: str, update_id: int | None = None) -> Json:
    person = {"id": chat, "is_bot": False, "first_name": "Person"}
    message = {
        "message_id": 1,
        "from": person,
        "chat": {"id": chat, "type": "private"},
        "date": 1,
        "text": text,
    }
    return {"update_id": update_id or uuid4().int % 2**31, "message": message}


def question(text: str, model: str = "default") -> Json:
    return {"model": model, "messages": [{"role": "user", "content": text}]}


def assert_problem(answer: httpx.Response, status: int, code: str) -> Json:
    """A problem document (RFC 9457) that the guide tells of."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: Json = answer.json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["type"] == f"urn:kairos:problem:{code}"
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert_documented(status, code)
    return problem


def assert_openai_error(answer: Any, status: int, code: str) -> Json:
    """OpenAI's error envelope, with a code that the guide tells of."""
    assert answer.status_code == status, answer.text
    error: Json = answer.json()["error"]
    assert error["code"] == code
    assert {"message", "type", "param"} <= error.keys()
    assert_documented(status, code)
    return error


def assert_documented(status: int, code: str) -> None:
    assert f"{status} `{code}`" in GUIDE.read_text(), f"the guide does not tell of {status} {code}"


def asked(stack: Stack, text: str) -> int:
    """How often the provider was asked about this."""
    return len([record for record in list(stack.provider.records) if record.text == text])


def test_a_webhook_that_comes_again_is_accepted_and_answered_once(
    stack: Stack, http: httpx.Client, hook: Webhook
) -> None:
    chat = next(chat_ids)
    stack.say(chat, "only once", copies=3)
    stack.telegram.wait_sent(1, chat_id=chat, timeout=60)
    same = update(next(chat_ids), "again and again")
    path = hook.url.removeprefix(stack.front_door)
    for _ in range(3):
        assert http.post(path, json=same, headers={SECRET_HEADER: hook.secret or ""}).status_code == 200
    again = int(same["message"]["chat"]["id"])
    stack.telegram.wait_sent(1, chat_id=again, timeout=60)
    # A later message of the same chats is answered after whatever the copies could still cause.
    for each in (chat, again):
        stack.say(each, f"after the copies {each}")
        stack.telegram.wait_sent(2, chat_id=each, timeout=60)
        directions = [message["direction"] for message in messages_of(stack, conversation_of(stack, each))]
        assert directions == ["in", "out", "in", "out"]
    assert (asked(stack, "only once"), asked(stack, "again and again")) == (1, 1)


@pytest.mark.parametrize("secret", ["wrong", "", None])
def test_a_webhook_without_the_right_secret_is_refused(
    stack: Stack, http: httpx.Client, hook: Webhook, secret: str | None
) -> None:
    headers = {} if secret is None else {SECRET_HEADER: secret}
    chat = next(chat_ids)
    path = hook.url.removeprefix(stack.front_door)
    assert_problem(http.post(path, json=update(chat, "let me in"), headers=headers), 401, "wrong_secret")
    assert asked(stack, "let me in") == 0
    assert stack.telegram.sent_to(chat) == []


def test_an_oversized_body_is_refused_announced_or_not(
    stack: Stack, http: httpx.Client, hook: Webhook
) -> None:
    path, headers = hook.url.removeprefix(stack.front_door), {SECRET_HEADER: hook.secret or ""}
    body = json.dumps(update(next(chat_ids), "x" * WEBHOOK_LIMIT)).encode()
    # Again and again: a service that closes the connection under the body makes some of them a 502.
    for _ in range(20):
        assert_problem(http.post(path, content=body, headers=headers), 413, "body_too_large")
        pieces = (body[start : start + 65_536] for start in range(0, len(body), 65_536))
        assert_problem(http.post(path, content=pieces, headers=headers), 413, "body_too_large")
    large = json.dumps(question("x" * V1_LIMIT)).encode()
    for _ in range(5):
        answer = http.post("/v1/chat/completions", content=large, headers=key(stack))
        assert_openai_error(answer, 413, "body_too_large")


def test_no_service_reads_a_head_without_end(stack: Stack) -> None:
    for service in ("bot-worker", "llm-router", "budget-analytics", "auth-audit", "observability"):
        # Not through the front door, which has a limit of its own.
        answer = httpx.get(f"{stack.url(service)}/health", headers={"X-Long": "x" * 70_000}, timeout=30)
        assert (answer.status_code, answer.json()["code"]) == (431, "head_too_large"), service
    assert_documented(431, "head_too_large")
    assert_documented(408, "head_too_slow")


@pytest.mark.parametrize("body", [b"{", b"[]", b'"text"', b'{"message": {}}', b"\xff\xfe", b"[" * 100_000])
def test_a_webhook_body_that_is_no_update_is_refused(
    stack: Stack, http: httpx.Client, hook: Webhook, body: bytes
) -> None:
    path = hook.url.removeprefix(stack.front_door)
    answer = http.post(path, content=body, headers={SECRET_HEADER: hook.secret or ""})
    assert_problem(answer, 400, "malformed_update")


def test_invalid_json_is_refused_everywhere(stack: Stack, http: httpx.Client) -> None:
    headers = {**key(stack), "Content-Type": "application/json"}
    answer = http.post("/v1/chat/completions", content=b"{", headers=headers)
    assert_openai_error(answer, 400, "invalid_json")
    answer = http.post("/v1/chat/completions", json={"model": "default"}, headers=headers)
    assert_openai_error(answer, 400, "invalid_request")
    for path in ("bot-worker/bots", "budget-analytics/budgets", "auth-audit/api-keys"):
        assert_problem(http.post(f"/api/{path}", content=b"{", headers=headers), 422, "invalid_request")


def test_what_does_not_exist_is_not_found(stack: Stack, http: httpx.Client) -> None:
    assert_problem(http.post(f"/channels/telegram/{NOBODY}", json={}), 404, "bot_unknown")
    assert_problem(http.post(f"/api/bot-worker/web/{NOBODY}/sessions"), 404, "web_chat_unknown")
    assert_problem(http.get(f"/api/bot-worker/bots/{NOBODY}", headers=key(stack)), 404, "bot_unknown")
    assert_problem(http.get("/api/bot-worker/nothing", headers=key(stack)), 404, "not_found")
    answer = http.post("/v1/chat/completions", json=question("hi", model="nobody"), headers=key(stack))
    assert_openai_error(answer, 404, "model_not_found")
    # What services say to each other has no address outside.
    assert http.post("/api/auth-audit/internal/token", json={}).status_code == 404


def test_a_caller_nobody_vouches_for_is_refused(stack: Stack, http: httpx.Client) -> None:
    for headers in ({}, {"Authorization": "Bearer kairos_live_nobody"}, {"Authorization": "Basic eDp5"}):
        for path in (
            "bot-worker/bots",
            "budget-analytics/budgets",
            "auth-audit/members",
            "observability/events",
        ):
            answer = http.get(f"/api/{path}", headers=headers)
            assert_problem(answer, 401, "unauthenticated")
            assert answer.headers["www-authenticate"] == "Bearer"
        answer = http.post("/v1/chat/completions", json=question("hi"), headers=headers)
        assert_openai_error(answer, 401, "invalid_api_key")


def test_a_caller_without_the_permission_is_refused_and_it_is_audited(
    stack: Stack, http: httpx.Client
) -> None:
    auth, member = door(stack, "auth-audit"), signed_in(stack, "reader@kairos.example")
    reader = member.post("/api-keys", {"name": "reader", "scopes": ["bots.read"]})
    headers = {"Authorization": f"Bearer {reader['key']}"}
    assert http.get("/api/bot-worker/bots", headers=headers).status_code == 200
    wishes = {
        "/api/bot-worker/bots": "bots.write",
        "/api/budget-analytics/budgets": "budgets.write",
        "/api/auth-audit/api-keys": "keys.write",
        "/api/observability/tickets": "health.read",
    }
    for path, permission in wishes.items():
        problem = assert_problem(http.post(path, json={}, headers=headers), 403, "forbidden")
        assert problem["permission"] == permission
    answer = http.post("/v1/chat/completions", json=question("not mine"), headers=headers)
    assert_openai_error(answer, 403, "forbidden")
    assert asked(stack, "not mine") == 0
    expected = {*wishes.values(), "completions.create"}

    def audited() -> bool:
        found = auth.get("/audit/entries", action="access.denied", actor=reader["id"])["items"]
        return {each["entry"]["reason"] for each in found} == expected

    until("an audit entry for every denial", audited)
    assert auth.post("/audit/verify")["intact"] is True


def test_an_unknown_role_is_refused(stack: Stack, http: httpx.Client) -> None:
    body = {"email": "caesar@kairos.example", "role": "emperor"}
    problem = assert_problem(
        http.post("/api/auth-audit/members", json=body, headers=key(stack)), 422, "invalid_request"
    )
    assert [error["at"] for error in problem["errors"]] == ["body/role"]
    members = door(stack, "auth-audit").items("/members")
    assert "caesar@kairos.example" not in {member["email"] for member in members}


def test_a_full_budget_answers_402_with_the_decision_that_explains_it(stack: Stack) -> None:
    auth, budgets = door(stack, "auth-audit"), door(stack, "budget-analytics")
    project = auth.post("/projects", {"name": "Spent"})
    member = signed_in(stack, "spender@kairos.example")
    made = member.post("/api-keys", {"name": "spender", "project_id": project["id"]})
    limit = {"name": "nothing left", "scope": "project", "scope_id": project["id"], "limit_nano_usd": 1}
    budget = budgets.post("/budgets", limit)
    client = openai.OpenAI(base_url=f"{stack.front_door}/v1", api_key=made["key"], max_retries=0, timeout=30)
    messages: list[Any] = question("too dear")["messages"]
    with client, pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(model="default", messages=messages)
    error = assert_openai_error(refused.value.response, 402, "budget_exceeded")
    assert error["type"] == "insufficient_quota"
    assert refused.value.response.headers["x-kairos-decision-id"] == error["decision_id"]
    router = door(stack, "llm-router")
    decision = until("the decision", lambda: router.get(f"/decisions/{error['decision_id']}"))
    assert decision["code"] == "budget_exceeded"
    assert {step["budget_id"] for step in decision["steps"]} == {budget["id"]}
    assert asked(stack, "too dear") == 0
    # More money, and the same request is answered.
    budgets.call("PATCH", f"/budgets/{budget['id']}", {"limit_usd": "1"})

    def answered() -> bool:
        headers = {"Authorization": f"Bearer {made['key']}"}
        url = f"{stack.front_door}/v1/chat/completions"
        return httpx.post(url, json=question("too dear"), headers=headers, timeout=30).status_code == 200

    until("the answer under the raised limit", answered)


def test_a_full_budget_gives_the_fallback_text_in_a_chat(stack: Stack) -> None:
    bot = new_bot(stack, "Spent", fallback_text="No money left, sorry.")
    limit = {"name": "no chat", "scope": "bot", "scope_id": bot["id"], "limit_nano_usd": 1}
    door(stack, "budget-analytics").post("/budgets", limit)
    visitor = Visitor(stack, bot["id"])
    visitor.say("is there money?")
    assert visitor.wait_replies(1) == ["No money left, sorry."]
    (reply,) = [each for each in messages_of(stack, visitor.conversation) if each["direction"] == "out"]
    assert reply["source"] == "default"
    assert asked(stack, "is there money?") == 0
    events = door(stack, "observability")

    def failure() -> Json | None:
        found = events.get("/events", type="llm.completion.failed", limit=100)["items"]
        return next((e["data"] for e in found if e["data"]["conversation_id"] == visitor.conversation), None)

    told = until("the failure's event", failure) or {}
    assert told["code"] == "budget_exceeded"
    decision = door(stack, "llm-router").get(f"/decisions/{told['decision_id']}")
    assert decision["bot_id"] == bot["id"]


def test_a_dead_provider_gives_the_fallback_text_in_a_chat_and_costs_nothing(stack: Stack) -> None:
    bot = new_bot(stack, "Unlucky", fallback_text="My model is away.")
    stack.provider.fail(Fault(match="anybody there?", status=500))
    visitor = Visitor(stack, bot["id"])
    visitor.say("anybody there?")
    assert visitor.wait_replies(1) == ["My model is away."]
    visitor.say("and now?")
    assert visitor.wait_replies(2) == ["My model is away.", "echo: and now?"]
    spent = door(stack, "budget-analytics")

    def charged() -> list[Json]:
        rows = [row for row in spent.items("/spend", group_by="bot") if row["key"] == bot["id"]]
        return [row for row in rows if row["attempts"] and row["output_tokens"]]

    (row,) = until("the bot's spend", charged)
    (record,) = [each for each in stack.provider.records if each.text == "and now?"]
    assert row["cost"]["nano_usd"] == record.input_tokens * 150 + record.output_tokens * 600
    assert row["unknown_attempts"] == 0


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ({"status": 500}, 502, "provider_error"),
        ({"status": 401}, 502, "provider_misconfigured"),
        ({"status": 429, "retry_after": 3}, 429, "provider_rate_limited"),
    ],
)
def test_a_failing_providers_answer_on_v1_says_what_failed(
    stack: Stack, http: httpx.Client, fault: dict[str, int], status: int, code: str
) -> None:
    text = f"fail with {fault['status']}"
    stack.provider.fail(Fault(match=text, status=fault["status"], retry_after=fault.get("retry_after")))
    answer = http.post("/v1/chat/completions", json=question(text), headers=key(stack))
    assert_openai_error(answer, status, code)
    if "retry_after" in fault:
        assert answer.headers["retry-after"] == str(fault["retry_after"])

    # A limited deployment rests as long as its provider asked for; then one good answer closes the circuit.
    def answered() -> bool:
        return http.post("/v1/chat/completions", json=question("fine"), headers=key(stack)).status_code == 200

    until("a good answer", answered, timeout=30)


def test_after_all_refusals_nothing_lies_dead_and_the_ledger_adds_up(stack: Stack) -> None:
    assert list(door(stack, "observability").items("/dead-letters")) == []
    assert door(stack, "budget-analytics").get("/ledger/check")["balanced"] is True
    with pytest.raises(ApiError) as refused:
        door(stack, "bot-worker", api_key="kairos_live_nobody").get("/bots")
    assert refused.value.status == 401
