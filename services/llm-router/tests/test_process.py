"""The real process, killed with SIGKILL at its worst moments and started again."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from aiohttp import web

from kairos_contracts.llm.v1 import ChatMessage, CompletionRequestV1
from kairos_messaging import Bus
from kairos_testkit.fake_provider import FakeProvider
from kairos_testkit.ports import free_port

pytestmark = pytest.mark.servers

ROUTE = """
price_version = "test"
[deployments.only]
kind = "openai"
model = "model-of-only"
base_url = "{url}"
price = {{ input = 0, output = 0 }}
context_window = 8_000
max_output_tokens = 100
[routes.default]
deployments = ["only"]
"""


@pytest.fixture
async def auth_url() -> AsyncIterator[str]:
    """Gives tokens to whoever asks, as auth-audit does for services it knows."""

    async def token(_: web.Request) -> web.Response:
        return web.json_response({"token": "t", "expires_in": 300})

    app = web.Application()
    app.add_routes([web.post("/internal/token", token)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
def environment(
    provisioned: Any, broker_url: str, redis_url: str, auth_url: str, provider: FakeProvider, tmp_path: Path
) -> dict[str, str]:
    file = tmp_path / "kairos.toml"
    file.write_text(ROUTE.format(url=provider.url))
    values = {
        "POSTGRES_URL": provisioned.service_database("kairos_router", "router"),
        "AMQP_URL": broker_url,
        "REDIS_URL": redis_url,
        "AUTH_URL": auth_url,
        "BUDGET_URL": "http://127.0.0.1:9",
        "SERVICE_SECRET": "unused",
        "CONFIG_FILE": str(file),
        "CLAIM_TTL_S": "1.5",
        "SHUTDOWN_GRACE_S": "4",
        "PORT": str(free_port()),
    }
    return {f"KAIROS_ROUTER_{name}": value for name, value in values.items()}


@contextlib.asynccontextmanager
async def running(environment: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "kairos_router.main",
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            async with asyncio.timeout(20):
                await process.wait()


async def ready(environment: dict[str, str]) -> bool:
    url = f"http://127.0.0.1:{environment['KAIROS_ROUTER_PORT']}/health/ready"
    with contextlib.suppress(aiohttp.ClientError):
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status == 200
    return False


def command() -> CompletionRequestV1:
    return CompletionRequestV1(
        completion_id=uuid4(),
        turn_id=uuid4(),
        conversation_id=uuid4(),
        bot_id=uuid4(),
        epoch=1,
        model="default",
        messages=(ChatMessage(role="user", content="hi"),),
        max_tokens=10,
        deadline=datetime.now(UTC) + timedelta(seconds=60),
    )


@pytest.mark.parametrize(
    ("point", "calls", "outcomes"),
    [
        ("router.completion.claimed", 1, ["settled"]),
        ("router.attempt.dispatched", 1, ["settled", "unknown"]),
        ("router.attempt.answered", 2, ["settled", "unknown"]),
    ],
)
async def test_a_killed_router_leaves_one_answer_and_every_attempt_accounted_for(
    kit: SimpleNamespace,
    environment: dict[str, str],
    broker_url: str,
    provider: FakeProvider,
    point: str,
    calls: int,
    outcomes: list[str],
) -> None:
    bus = Bus(broker_url, service="bot-worker")
    await bus.start()
    async with kit.watching(broker_url) as events:
        async with running(environment | {"KAIROS_ROUTER_FAULTS": f"{point}=kill"}) as doomed:
            await kit.until(lambda: ready(environment), timeout=30)
            request = command()
            await bus.publish(request, organisation_id=kit.organisation)
            async with asyncio.timeout(20):
                assert await doomed.wait() == -9
        async with running(environment) as healthy:
            (completed,) = await events.expect("llm.completion.completed.v1", timeout=30)
            usage = await events.expect("llm.usage.recorded.v1", len(outcomes))
            assert completed["completion_id"] == str(request.completion_id)
            assert sorted(each["outcome"] for each in usage) == outcomes
            assert len(provider.records) == calls
            healthy.terminate()
            async with asyncio.timeout(20):
                assert await healthy.wait() == 0
        assert len(events.bodies("llm.completion.completed.v1")) == 1
    await bus.stop(1.0)
