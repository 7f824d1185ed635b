"""A running bot-worker on real servers, a Telegram and a router that tests can script."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import pytest
import uvicorn
from pydantic import SecretStr
from starlette.requests import HTTPConnection

from kairos_bots.bootstrap import BotWorker, build_app
from kairos_bots.settings import Settings
from kairos_contracts.llm.v1 import CompletionCompletedV1, CompletionFailedV1, CompletionRequestV1
from kairos_contracts.permissions import Actor, Role
from kairos_messaging import Bus, Delivery
from kairos_testkit.databases import Provisioned
from kairos_testkit.fake_telegram import FakeTelegram, SentMessage

DATA_KEY = base64.b64encode(bytes(range(32))).decode()
ORGANISATION = UUID("00000000-0000-4000-8000-0000000000aa")
SECRET = "webhook-secret"
DEADLINE_S = 20.0


class HeaderAuthenticator:
    """Believes the caller: `x-test-role`, and `x-test-organisation` for another tenant."""

    async def authenticate(self, connection: HTTPConnection) -> Actor | None:
        role = connection.headers.get("x-test-role")
        if role is None:
            return None
        organisation = UUID(connection.headers.get("x-test-organisation", str(ORGANISATION)))
        return Actor(kind="member", id=f"member-{role}", role=Role(role), organisation_id=organisation)


Respond = Callable[[CompletionRequestV1], CompletionCompletedV1 | CompletionFailedV1 | None]


def completed(
    request: CompletionRequestV1, content: str | None = None, **fields: Any
) -> CompletionCompletedV1:
    """An answer that repeats what the contact said in this turn."""
    history = [message.content for message in request.messages if message.role == "user"]
    values: dict[str, Any] = {
        "completion_id": request.completion_id,
        "turn_id": request.turn_id,
        "conversation_id": request.conversation_id,
        "bot_id": request.bot_id,
        "epoch": request.epoch,
        "content": content if content is not None else f"echo: {history[-1]}",
        "finish_reason": "stop",
        "model": request.model,
        "deployment": "test",
        "input_tokens": 1,
        "output_tokens": 1,
        "cost_nano_usd": 1_000,
        "latency_ms": 1,
    }
    return CompletionCompletedV1(**(values | fields))


@dataclass
class ScriptedRouter:
    """Stands where llm-router stands. `respond` may return None: then no answer comes."""

    bus: Bus
    respond: Respond = completed
    requests: list[CompletionRequestV1] = field(default_factory=list)

    async def handle(self, delivery: Delivery[CompletionRequestV1]) -> None:
        self.requests.append(delivery.message)
        answer = self.respond(delivery.message)
        if answer is not None:
            await self.publish(answer, delivery.envelope.organisation_id)

    async def publish(
        self, answer: CompletionCompletedV1 | CompletionFailedV1, organisation_id: UUID | None = ORGANISATION
    ) -> None:
        await self.bus.publish(answer, organisation_id=organisation_id, message_id=uuid4())


@dataclass
class RunningWorker:
    """One replica. `port` stays the same over a restart."""

    parts: BotWorker
    server: uvicorn.Server
    serving: asyncio.Task[None]
    port: int
    http: aiohttp.ClientSession

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def call(
        self,
        method: str,
        path: str,
        *,
        role: str | None = "admin",
        headers: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> tuple[int, Any]:
        given = dict(headers or {}) | ({"x-test-role": role} if role else {})
        async with self.http.request(method, self.base_url + path, headers=given, **kwargs) as response:
            if response.content_type.endswith("json"):
                return response.status, await response.json(content_type=None)
            return response.status, await response.text()

    async def create_bot(self, **fields: Any) -> dict[str, Any]:
        values = {"name": "bot", "model": "simulator", "fallback_text": "fallback"}
        status, bot = await self.call("POST", "/bots", json=values | fields)
        assert status == 201, bot
        await eventually(lambda: _registered(self.parts, UUID(bot["id"])), what="the bot in the registry")
        return dict(bot)

    async def telegram_bot(self, telegram: FakeTelegram, number: int, **fields: Any) -> dict[str, Any]:
        bot = await self.create_bot(
            telegram_token=f"{number}:token", telegram_webhook_secret=SECRET, **fields
        )
        telegram.use_webhook(number, self.base_url + bot["webhook_path"], SECRET)
        return bot


def _registered(parts: BotWorker, bot_id: UUID) -> bool:
    return any(bot.id == bot_id for bot in parts.registry.everything())


async def eventually(condition: Callable[[], Any], *, what: str, timeout: float = DEADLINE_S) -> Any:
    """Poll until the condition (plain or async) gives something true."""
    deadline = time.monotonic() + timeout
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"no {what} within {timeout} s")
        await asyncio.sleep(0.02)


@dataclass
class Suite:
    """Starts replicas that share servers."""

    settings: Settings
    telegram: FakeTelegram
    router: ScriptedRouter
    stack: AsyncExitStack

    async def start(self, **changes: Any) -> RunningWorker:
        return await self.stack.enter_async_context(running(self.settings.model_copy(update=changes)))

    async def delivered(self) -> None:
        await eventually(lambda: self.telegram.deliveries.pending == 0, what="delivery of every update")

    async def sent(self, count: int, chat_id: int, timeout: float = DEADLINE_S) -> list[SentMessage]:
        await eventually(
            lambda: len(self.telegram.sent_to(chat_id)) >= count, what=f"{count} replies", timeout=timeout
        )
        return self.telegram.sent_to(chat_id)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[RunningWorker]:
    app = build_app(settings, authenticator=HeaderAuthenticator())
    config = uvicorn.Config(
        app, host="127.0.0.1", port=settings.port, log_config=None, ws="websockets-sansio", lifespan="on"
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve())
    await eventually(lambda: server.started, what="listening server")
    port = server.servers[0].sockets[0].getsockname()[1]
    async with aiohttp.ClientSession() as http:
        worker = RunningWorker(app.state.parts, server, serving, port, http)
        await eventually(lambda: _ready(worker), what="ready worker")
        try:
            yield worker
        finally:
            server.should_exit = True
            await serving


async def _ready(worker: RunningWorker) -> bool:
    status, _ = await worker.call("GET", "/health/ready")
    return status == 200


@pytest.fixture
def settings(
    provisioned: Provisioned, broker_url: str, redis_url: str, fake_telegram: FakeTelegram
) -> Settings:
    return Settings(
        port=0,
        postgres_url=SecretStr(provisioned.service_database("kairos_bots", "bots")),
        amqp_url=SecretStr(broker_url),
        redis_url=SecretStr(redis_url),
        auth_url="http://127.0.0.1:9",
        service_secret=SecretStr("unused"),
        data_key=SecretStr(DATA_KEY),
        telegram_api_base=fake_telegram.base_url,
        telegram_chat_per_s=200,
        telegram_chat_burst=20,
        telegram_bot_per_s=500,
        telegram_poll_s=1,
        quiet_window_ms=80,
        claim_s=3,
        telegram_send_timeout_s=2,
        shutdown_grace_s=4,
    )


@pytest.fixture
async def router(broker_url: str) -> AsyncIterator[ScriptedRouter]:
    bus = Bus(broker_url, service="llm-router")
    scripted = ScriptedRouter(bus)
    bus.consume("llm-router.completions", scripted.handle)
    await bus.start()
    yield scripted
    await bus.stop(2)


@pytest.fixture
async def suite(
    settings: Settings, fake_telegram: FakeTelegram, router: ScriptedRouter
) -> AsyncIterator[Suite]:
    async with AsyncExitStack() as stack:
        yield Suite(settings, fake_telegram, router, stack)


@pytest.fixture
async def worker(suite: Suite) -> RunningWorker:
    return await suite.start()


@pytest.fixture(name="eventually")
def _eventually() -> Callable[..., Awaitable[Any]]:
    return eventually


@pytest.fixture(name="completed")
def _completed() -> Callable[..., CompletionCompletedV1]:
    return completed


@pytest.fixture
def start_worker(suite: Suite) -> Callable[[], Any]:
    """Start one more replica for the length of a block."""
    return lambda: running(suite.settings)
