"""A suite with servers of its own, quick deadlines, and its own books of what people said."""

import asyncio
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import aio_pika
import httpx
import psycopg
import pytest
from psycopg import sql
from tests.e2e.people import Json, Visitor, chat_ids, conversation_of, door, messages_of, new_bot, until

from kairos_testkit.api_client import ApiClient
from kairos_testkit.fake_provider import FakeProvider, ProviderRecord
from kairos_testkit.ports import free_port
from kairos_testkit.servers import start_servers
from kairos_testkit.stack import Stack, StackOptions, start_stack
from kairos_testkit.suite import SERVICES
from kairos_testkit.telegram_delivery import SECRET_HEADER

INPUT_PRICE: Final = 150
OUTPUT_PRICE: Final = 600
LEASE_TTL_S: Final = 6
TURN_DEADLINE_S: Final = 10
QUIET_WINDOW_MS: Final = 500
# At least the library's own deadline for a confirm, which a refusal may take.
REFUSAL_S: Final = 11.0
CONFIG: Final = """\
price_version = "test"

[deployments.fake]
kind = "openai"
provider = "fake"
model = "fake-echo"
base_url = "{provider}"
price = {{ input = 150, output = 600 }}

[deployments.slow]
kind = "openai"
provider = "fake"
model = "slow-echo"
base_url = "{provider}"
price = {{ input = 150, output = 600 }}
timeouts = {{ connect = 1.0, first_byte = 1.5, idle = 1.5 }}

[deployments.free]
kind = "openai"
provider = "fake"
model = "free-echo"
base_url = "{provider}"
price = {{ input = 0, output = 0 }}

[deployments.dead]
kind = "openai"
provider = "nobody"
model = "dead-echo"
base_url = "http://127.0.0.1:{nobody}/v1"
price = {{ input = 150, output = 600 }}
timeouts = {{ connect = 1.0, first_byte = 1.5, idle = 1.5 }}

[routes.default]
deployments = ["fake"]

[routes.resilient]
deployments = ["dead", "fake"]
"""
_LIMITS: Final = """\
context_window = 128_000
max_output_tokens = 4_096
capabilities = ["streaming"]
"""


@dataclass
class Fragile:
    """The suite, the provider it pays, and what people said to it."""

    stack: Stack
    provider: FakeProvider
    http: httpx.Client
    said: dict[str, list[str]] = field(default_factory=dict)
    _forgotten: dict[str, float] = field(
        default_factory=lambda: {"letters": 0.0} | {service.name: 0.0 for service in SERVICES}
    )

    def tell(self, *texts: str, chat: int | None = None) -> int:
        """A person writes to the demo bot on Telegram, which delivers until somebody takes it."""
        chat = chat or next(chat_ids)
        for text in texts:
            self.stack.say(chat, text)
        self.said.setdefault(str(chat), []).extend(texts)
        return chat

    def sent(self, chat: int, count: int = 1) -> list[str]:
        """What the chat got, once it is as much."""
        self.stack.telegram.wait_sent(count, chat_id=chat, timeout=60)
        return [each.text for each in self.stack.telegram.sent_to(chat)]

    def webhook(self, text: str) -> tuple[int, httpx.Response]:
        """One delivery as Telegram makes it, and its answer: the chat, and what came back."""
        hook = self.stack.telegram.deliveries.webhooks[self.stack.seeded.telegram_bot_id or 0]
        chat = next(chat_ids)
        person = {"id": chat, "is_bot": False, "first_name": "Person"}
        message = {"message_id": 1, "from": person, "chat": {"id": chat, "type": "private"}, "date": 1}
        body = {"update_id": chat, "message": {**message, "text": text}}
        answer = self.http.post(hook.url, json=body, headers={SECRET_HEADER: hook.secret or ""})
        if answer.is_success:
            self.said.setdefault(str(chat), []).append(text)
        return chat, answer

    def complete(self, text: str, model: str = "default", api_key: str | None = None) -> httpx.Response:
        """A plain completion through the front door."""
        body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 64}
        headers = {"Authorization": f"Bearer {api_key or self.stack.seeded.api_key}"}
        return self.http.post("/v1/chat/completions", json=body, headers=headers)

    def get(self, path: str, api_key: str | None = None) -> httpx.Response:
        return self.http.get(
            f"/api/{path}", headers={"Authorization": f"Bearer {api_key or self.stack.seeded.api_key}"}
        )

    def audited(self, bot: Json) -> Json:
        """The audit entry of the bot's creation, once it is chained."""
        auth = door(self.stack, "auth-audit")
        target = f"bot:{bot['id']}"
        look = partial(auth.get, "/audit/entries", action="bot.created", target=target)
        (entry,) = until("the audit entry", lambda: look()["items"])
        assert auth.post("/audit/verify")["intact"] is True
        return dict(entry)

    def records(self, text: str) -> list[ProviderRecord]:
        return [record for record in list(self.provider.records) if record.text == text]

    def waiting(self, queue: str) -> int:
        """Messages that lie in a queue. The management interface counts too seldom for a test."""

        async def count() -> int:
            connection = await aio_pika.connect(self.stack.suite.amqp_url)
            async with connection, connection.channel() as channel:
                declared = await channel.declare_queue(queue, passive=True)
                return declared.declaration_result.message_count or 0

        return asyncio.run(count())

    def unpublished(self, schema: str) -> int:
        """Messages that a service has committed and no broker has confirmed."""
        url, database = self.stack.servers.postgres_admin_url, self.stack.suite.database
        query = sql.SQL("SELECT count(*) FROM {} WHERE published_at IS NULL")
        with psycopg.connect(url, dbname=database, connect_timeout=5) as connection:
            row = connection.execute(query.format(sql.Identifier(schema, "outbox"))).fetchone()
        return int(row[0]) if row else 0

    def metric(self, service: str, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        page = str(ApiClient(self.stack.url(service)).get("/metrics"))
        wanted = {f'{label}="{value}"' for label, value in labels.items()}
        samples = re.findall(rf"^{name}(?:{{([^}}]*)}})? (\S+)", page, re.MULTILINE)
        return sum(float(value) for found, value in samples if wanted <= set(found.split(",")))

    def settled(self) -> tuple[int, int]:
        """What the organisation's budget has spent, and what it may have spent."""
        current = door(self.stack, "budget-analytics").get(f"/budgets/{self.stack.seeded.budget_id}")[
            "current"
        ]
        return current["settled"]["nano_usd"], current["suspense"]["nano_usd"]

    def paid_records(self) -> list[ProviderRecord]:
        records = list(self.provider.records)
        return [each for each in records if each.billed and each.model != "free-echo"]

    def owed(self) -> int:
        """What the provider's own books say."""
        return sum(cost_of(each) for each in self.paid_records())

    def wait_paid(self) -> None:
        """Everything the provider counted is in the ledger, exactly once, and nothing is in doubt."""
        until("the ledger to be the provider's count", lambda: self.settled() == (self.owed(), 0))
        assert door(self.stack, "budget-analytics").get("/ledger/check")["balanced"] is True

    def reconcile_dead_router(self) -> None:
        """The runbook of a killed router: the provider's record says what its leases really spent."""
        budgets = door(self.stack, "budget-analytics")
        leases = until("the leases of the dead router", lambda: list(budgets.items("/suspense")))
        paid = self.paid_records()
        records = [{"attempt_id": each.attempt_id, "cost_nano_usd": cost_of(each)} for each in paid]
        complete = [lease["lease_id"] for lease in leases]
        done = budgets.post("/reconciliations", {"records": records, "complete_leases": complete})
        assert {each["result"] for each in done["results"]} == {"matches"}

    def assert_answered(self) -> None:
        """Every message that was taken is stored once, in order, in a turn that has its one answer."""
        for chat, texts in self.said.items():
            conversation = conversation_of(self.stack, chat)

            def answered(conversation: str = conversation) -> bool:
                messages = messages_of(self.stack, conversation)
                open_turns = {each["turn_id"] for each in messages if each["direction"] == "in"}
                return open_turns == {each["turn_id"] for each in messages if each["direction"] == "out"}

            until(f"an answer to {texts}", answered)
            messages = messages_of(self.stack, conversation)
            assert [each["text"] for each in messages if each["direction"] == "in"] == texts
            replies = [each["turn_id"] for each in messages if each["direction"] == "out"]
            assert len(replies) == len(set(replies))

    def _dead(self) -> dict[str, float]:
        """Letters, and what each service counted."""
        letters = len(list(door(self.stack, "observability").items("/dead-letters")))
        name = "kairos_messages_consumed_total"
        return {"letters": letters} | {
            service.name: self.metric(service.name, name, outcome="dead") for service in SERVICES
        }

    def forget_dead(self) -> None:
        """What a test let die on purpose is not looked at by others."""
        self._forgotten = self._dead()

    def assert_nothing_dead(self) -> None:
        # A service that was started again counts from nothing.
        assert {name: count for name, count in self._dead().items() if count > self._forgotten[name]} == {}

    def visitor(self, **bot: str) -> Visitor:
        """Somebody on the web page of a new bot."""
        made = new_bot(self.stack, f"Bot {next(chat_ids)}", **bot)
        return Visitor(self.stack, made["id"])

    def wait_well(self) -> None:
        """Every service is ready and says so itself."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._well, [service.name for service in SERVICES]))

    def _well(self, service: str) -> None:
        health = ApiClient(self.stack.url(service))
        until(f"{service} to be well", lambda: health.get("/health")["status"] == "up")


def cost_of(record: ProviderRecord) -> int:
    """What the provider's count costs, in nano-USD."""
    return record.input_tokens * INPUT_PRICE + record.output_tokens * OUTPUT_PRICE


@contextmanager
def start_fragile(root: Path) -> Iterator[Fragile]:
    servers = start_servers()
    try:
        if servers.kind == "foreign":
            pytest.skip("servers that the environment names belong to somebody else and are not killed")
        with FakeProvider() as provider:
            options = StackOptions(
                config=_config(provider.url),
                provider_url=provider.url,
                quiet_window_ms=QUIET_WINDOW_MS,
                measured=False,
                env={
                    "bot-worker": {"KAIROS_BOTS_TURN_DEADLINE_S": str(TURN_DEADLINE_S)},
                    "budget-analytics": {
                        "KAIROS_BUDGET_LEASE_TTL_S": str(LEASE_TTL_S),
                        "KAIROS_BUDGET_LEASE_GRACE_S": "2",
                    },
                    "llm-router": {"KAIROS_ROUTER_LEASE_HEARTBEAT_S": "1"},
                },
            )
            with start_stack(servers, root, options) as stack, _client(stack) as http:
                yield Fragile(stack, provider, http)
    finally:
        servers.close()


def _config(provider: str) -> str:
    text = CONFIG.format(provider=provider, nobody=free_port())
    return re.sub(r"^(model = .*)$", rf"\1\n{_LIMITS.strip()}", text, flags=re.MULTILINE)


def _client(stack: Stack) -> httpx.Client:
    return httpx.Client(base_url=stack.front_door, timeout=30)
