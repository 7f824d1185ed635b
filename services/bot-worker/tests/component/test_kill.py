"""Replicas as processes of their own, killed with SIGKILL while they work."""

import asyncio
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from kairos_bots.settings import Settings
from kairos_testkit.guardian import Guardian
from kairos_testkit.ports import free_port
from kairos_testkit.processes import Process, ServerSpec

pytestmark = [pytest.mark.servers, pytest.mark.chaos, pytest.mark.timeout(240)]
SECRETS = ("postgres_url", "amqp_url", "redis_url", "service_secret", "data_key")
CHATS = range(40, 48)
ROUNDS = 4
LAST = f"echo: m{ROUNDS - 1}"


def _ready(port: int) -> bool:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5) as answer:
        return bool(answer.status == 200)


def _environment(settings: Settings, port: int) -> dict[str, str]:
    values = {name: getattr(settings, name).get_secret_value() for name in SECRETS}
    plain = (
        "auth_url",
        "telegram_api_base",
        "telegram_chat_per_s",
        "telegram_chat_burst",
        "telegram_bot_per_s",
    )
    values |= {name: str(getattr(settings, name)) for name in plain}
    values |= {
        "port": str(port),
        "quiet_window_ms": "50",
        "claim_s": "3",
        "telegram_send_timeout_s": "2",
        "telegram_poll_s": "1",
    }
    return {f"KAIROS_BOTS_{name.upper()}": value for name, value in values.items()}


@pytest.fixture
def replicas(settings: Settings, tmp_path: Path) -> Iterator[list[Process]]:
    guardian = Guardian()
    processes = []
    for number in range(2):
        port = free_port()
        spec = ServerSpec(
            name=f"bot-worker-{number}",
            argv=(sys.executable, "-m", "kairos_bots.main"),
            env=_environment(settings, port) | {"PORT": str(port)},
            cwd=tmp_path,
            ready=lambda port=port: _ready(port),  # type: ignore[misc]
            ready_timeout=90,
        )
        processes.append(Process(spec, tmp_path / f"{spec.name}.log", guardian))
    yield processes
    for process in processes:
        process.kill()
    guardian.close()


async def test_killed_replicas_lose_nothing_and_keep_the_order(
    suite: Any, worker: Any, replicas: list[Process], eventually: Any
) -> None:
    bot = await worker.telegram_bot(suite.telegram, 1101)
    for process in replicas:
        await asyncio.to_thread(process.start)
    port = replicas[0].spec.env["PORT"]
    suite.telegram.use_webhook(1101, f"http://127.0.0.1:{port}{bot['webhook_path']}", "webhook-secret")
    # From here on the processes work alone; this test's own replica only answers its API.
    for task in ("turns", "sender", "overdue-turns"):
        worker.parts.background._tasks[task].handle.cancel()
    for number in range(ROUNDS):
        for chat in CHATS:
            suite.telegram.say(1101, chat, f"m{number}", delay_ms=100)
        victim = replicas[number % 2]
        await eventually(
            lambda least=2 * number: len(suite.telegram.sent) > least, what="some progress", timeout=60
        )
        victim.kill()
        await asyncio.to_thread(victim.start)
    for chat in CHATS:
        await eventually(lambda chat=chat: _has(suite, chat, LAST), what=f"{LAST} in {chat}", timeout=90)
    await eventually(lambda: _settled(worker, bot), what="every reply recorded", timeout=30)
    await _promises_hold(suite, worker, bot)


def _has(suite: Any, chat: int, text: str) -> bool:
    return any(message.text == text for message in suite.telegram.sent_to(chat))


async def _messages(worker: Any, bot: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    _, page = await worker.call("GET", f"/bots/{bot['id']}/conversations")
    found = {}
    for conversation in page["items"]:
        _, messages = await worker.call("GET", f"/conversations/{conversation['id']}/messages")
        found[conversation["external_chat_id"]] = messages["items"]
    return found


async def _settled(worker: Any, bot: dict[str, Any]) -> bool:
    stored = await _messages(worker, bot)
    return all(m["delivery"] in {"received", "sent"} for messages in stored.values() for m in messages)


async def _promises_hold(suite: Any, worker: Any, bot: dict[str, Any]) -> None:
    stored = await _messages(worker, bot)
    assert sorted(stored) == sorted(str(chat) for chat in CHATS)
    for chat in CHATS:
        messages = stored[str(chat)]
        heard = [m["text"] for m in messages if m["direction"] == "in"]
        assert heard == [f"m{number}" for number in range(ROUNDS)], "nothing lost, in order"
        turns = {UUID(m["turn_id"]) for m in messages}
        replies = [m for m in messages if m["direction"] == "out"]
        assert len(replies) == len(turns), "one reply per turn"
        sent = [message.text for message in suite.telegram.sent_to(chat)]
        once = list(dict.fromkeys(sent))
        assert once == [m["text"] for m in replies], "sent in order"
        doubts = Counter({m["text"]: m["ambiguous"] for m in replies})
        for text, times in Counter(sent).items():
            assert times <= 1 + doubts[text], "a repeat is marked as ambiguous"


async def test_a_stopped_process_exits_cleanly_within_its_grace(worker: Any, replicas: list[Process]) -> None:
    process = replicas[0]
    await asyncio.to_thread(process.start)
    async with worker.http.get(f"http://127.0.0.1:{process.spec.env['PORT']}/health") as answer:
        assert (await answer.json())["status"] == "up"
    assert await asyncio.to_thread(process.stop) == 0
