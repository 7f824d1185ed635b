"""Bots by API: lifecycle, secrets, audit, tenants, every replica's registry."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from kairos_testkit.faults_script import Fault

pytestmark = pytest.mark.servers
TOKEN = "1001:very-secret-token"
NEW = {"name": "Ada", "model": "simulator", "fallback_text": "later"}


async def _outbox(worker: Any, type_name: str) -> list[dict[str, Any]]:
    async with worker.parts.database.system_unit_of_work() as unit:
        query = text(
            "SELECT convert_from(body, 'UTF8')::jsonb FROM outbox WHERE type = :type ORDER BY sequence"
        )
        return [row[0] for row in await unit.session.execute(query, {"type": type_name})]


async def test_a_bot_is_made_changed_and_deleted_with_an_audit_entry_each(
    worker: Any, eventually: Any
) -> None:
    status, bot = await worker.call("POST", "/bots", json=NEW | {"telegram_token": TOKEN})
    assert status == 201
    path = f"/bots/{bot['id']}"
    status, changed = await worker.call("PATCH", path, json={"name": "Grace", "max_tokens": 9})
    assert (status, changed["name"], changed["max_tokens"]) == (200, "Grace", 9)
    assert (await worker.call("DELETE", path))[0] == 204
    assert (await worker.call("GET", path))[0] == 404
    assert (await worker.call("DELETE", path))[0] == 404
    assert (await worker.call("PATCH", path, json={"name": "x"}))[0] == 404
    entries = await _outbox(worker, "audit.entry.recorded.v1")
    assert [entry["action"] for entry in entries] == ["bot.created", "bot.updated", "bot.deleted"]
    assert entries[1]["before"] == {"name": "Ada", "max_tokens": 512}
    assert entries[1]["after"] == {"name": "Grace", "max_tokens": 9}
    assert {entry["actor"]["id"] for entry in entries} == {"member-admin"}


async def test_secrets_are_shown_nowhere_and_encrypted_at_rest(suite: Any, worker: Any) -> None:
    secret = "my-webhook-secret"
    status, bot = await worker.call(
        "POST", "/bots", json=NEW | {"telegram_token": TOKEN, "telegram_webhook_secret": secret}
    )
    assert status == 201
    _, page = await worker.call("GET", "/bots")
    _, one = await worker.call("GET", f"/bots/{bot['id']}")
    async with worker.parts.database.system_unit_of_work() as unit:
        rows = [str(dict(row)) for row in (await unit.session.execute(text("SELECT * FROM bots"))).mappings()]
        bodies = [str(bytes(row[0])) for row in await unit.session.execute(text("SELECT body FROM outbox"))]
    for shown in (bot, page, one, rows, bodies):
        assert TOKEN not in str(shown)
        assert "very-secret" not in str(shown)
        assert secret not in str(shown)
    assert one["telegram_configured"] is True
    found = worker.parts.registry.find(UUID(bot["id"]))
    assert (found.telegram_token, found.webhook_secret) == (TOKEN, secret)
    assert TOKEN not in repr(found)


async def test_a_bot_starts_and_every_replica_knows_it_within_a_second(
    suite: Any, worker: Any, eventually: Any
) -> None:
    other = await suite.start()
    status, bot = await worker.call("POST", "/bots", json=NEW)
    assert (status, bot["observed_state"]) == (201, "starting")
    bot_id = UUID(bot["id"])
    await eventually(lambda: _known(other, bot_id), what="the bot on the other replica", timeout=1)
    await eventually(lambda: _state(worker, bot["id"], "running"), what="the running bot")
    await worker.call("PATCH", f"/bots/{bot['id']}", json={"web_enabled": True})
    await eventually(
        lambda: other.parts.registry.find(bot_id).web_enabled, what="the change elsewhere", timeout=1
    )
    await worker.call("PATCH", f"/bots/{bot['id']}", json={"desired_state": "stopped"})
    await eventually(lambda: _state(worker, bot["id"], "stopped"), what="the stopped bot")
    states = [
        (event["from_state"], event["to_state"])
        for event in await _outbox(worker, "bot.lifecycle.changed.v1")
    ]
    assert states[0] == (None, "starting")
    assert ("starting", "running") in states
    assert states[-1] == ("running", "stopped")
    await worker.call("DELETE", f"/bots/{bot['id']}")
    await eventually(lambda: not _known(other, bot_id), what="the deletion elsewhere", timeout=1)


def _known(replica: Any, bot_id: UUID) -> bool:
    return any(bot.id == bot_id for bot in replica.parts.registry.everything())


async def _state(worker: Any, bot_id: str, state: str) -> bool:
    _, bot = await worker.call("GET", f"/bots/{bot_id}")
    return bool(bot["observed_state"] == state)


async def test_the_webhook_is_registered_where_telegram_can_reach_us(suite: Any, eventually: Any) -> None:
    worker = await suite.start(public_url="https://bots.test")
    _, bot = await worker.call("POST", "/bots", json=NEW | {"telegram_token": "1002:x"})
    assert bot["telegram_updates"] == "webhook"
    await eventually(lambda: 1002 in suite.telegram.deliveries.webhooks, what="the webhook")
    await eventually(lambda: _known(worker, UUID(bot["id"])), what="the bot", timeout=1)
    hook = suite.telegram.deliveries.webhooks[1002]
    assert hook.url == f"https://bots.test/channels/telegram/{bot['id']}"
    assert hook.secret == worker.parts.registry.find(UUID(bot["id"])).webhook_secret
    await worker.call("DELETE", f"/bots/{bot['id']}")
    await eventually(lambda: 1002 not in suite.telegram.deliveries.webhooks, what="the removal")


async def test_webhooks_follow_the_public_address(suite: Any, start_worker: Any, eventually: Any) -> None:
    plain = suite.settings
    suite.settings = plain.model_copy(update={"public_url": "https://old.test"})
    async with start_worker() as worker:
        _, bot = await worker.call("POST", "/bots", json=NEW | {"telegram_token": "1005:x"})
        await eventually(lambda: 1005 in suite.telegram.deliveries.webhooks, what="the webhook")
        await eventually(lambda: _state(worker, bot["id"], "running"), what="the running bot")
    suite.settings = plain.model_copy(update={"public_url": "https://new.test"})
    address = f"https://new.test/channels/telegram/{bot['id']}"
    async with start_worker():
        await eventually(
            lambda: suite.telegram.deliveries.webhooks[1005].url == address, what="the moved webhook"
        )


async def test_a_token_telegram_refuses_shows_as_an_error(suite: Any, eventually: Any) -> None:
    worker = await suite.start(public_url="https://bots.test")
    suite.telegram.fail(Fault(method="setWebhook", status=401, times=1))
    _, bot = await worker.call("POST", "/bots", json=NEW | {"telegram_token": "1003:x"})
    await eventually(lambda: _state(worker, bot["id"], "error"), what="the error")
    await worker.call("PATCH", f"/bots/{bot['id']}", json={"telegram_token": "1004:y"})
    await eventually(lambda: _state(worker, bot["id"], "running"), what="the running bot")


async def test_roles_and_tenants_are_kept_apart(worker: Any) -> None:
    _, bot = await worker.call("POST", "/bots", json=NEW)
    path = f"/bots/{bot['id']}"
    assert (await worker.call("GET", path, role="viewer"))[0] == 200
    for method, address, body in (
        ("POST", "/bots", NEW),
        ("PATCH", path, {"name": "x"}),
        ("DELETE", path, None),
    ):
        status, problem = await worker.call(method, address, role="viewer", json=body)
        assert (status, problem["code"]) == (403, "forbidden")
        assert (await worker.call(method, address, role=None, json=body))[0] == 401
    denied = [
        entry
        for entry in await _outbox(worker, "audit.entry.recorded.v1")
        if entry["action"] == "access.denied"
    ]
    assert len(denied) == 3
    stranger = {"x-test-organisation": str(uuid4())}
    for method, address in (("GET", path), ("DELETE", path), ("GET", f"{path}/conversations")):
        assert (await worker.call(method, address, headers=stranger))[0] == 404
    _, page = await worker.call("GET", "/bots", headers=stranger)
    assert page["items"] == []


async def test_bad_settings_are_refused(worker: Any) -> None:
    bad: list[dict[str, Any]] = [
        {"name": ""},
        {"name": " "},
        {"name": "nul\x00"},
        {"max_tokens": 0},
        {"mode": "telepathy"},
        {"telegram_token": "no token"},
        {"fallback_text": "  "},
        {"telegram_webhook_secret": "lonely"},
    ]
    for fields in bad:
        status, _ = await worker.call("POST", "/bots", json=NEW | fields)
        assert status == 422, fields


async def test_lists_are_paged_newest_first(worker: Any) -> None:
    made = []
    for number in range(5):
        _, bot = await worker.call("POST", "/bots", json=NEW | {"name": f"bot {number}"})
        made.append(bot["id"])
    seen: list[str] = []
    cursor = ""
    while True:
        _, page = await worker.call("GET", f"/bots?limit=2{cursor}")
        seen += [bot["id"] for bot in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == made[::-1]
    assert (await worker.call("GET", "/bots?cursor=bm90LWpzb24"))[0] == 400
    assert (await worker.call("GET", "/bots?cursor=e30"))[0] == 400
    assert (await worker.call("GET", f"/conversations/{uuid4()}/messages"))[0] == 404
