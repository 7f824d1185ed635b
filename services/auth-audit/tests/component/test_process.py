"""The service as it is started in production: a process, settings from the environment."""

import asyncio
import json
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from kairos_auth.bootstrap_admin import bootstrap_admin
from kairos_contracts.audit import AuditContext
from kairos_messaging import Bus
from kairos_testkit.databases import ClonedDatabase, Provisioned
from kairos_testkit.servers import Servers

pytestmark = pytest.mark.servers


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def environment(broker_url: str, redis_url: str, database: ClonedDatabase, tmp_path: Path) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "KAIROS_AUTH_PORT": str(free_port()),
        "KAIROS_AUTH_POSTGRES_URL": database.urls["auth"],
        "KAIROS_AUTH_AMQP_URL": broker_url,
        "KAIROS_AUTH_REDIS_URL": redis_url,
        "KAIROS_AUTH_AUTH_URL": "http://127.0.0.1:1",
        "KAIROS_AUTH_SERVICE_SECRET": "secret",
        "KAIROS_AUTH_SIGNING_KEY": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
        "KAIROS_AUTH_PREVIOUS_SIGNING_KEY": "",
        "KAIROS_AUTH_KEY_PEPPER": "pepper",
        "KAIROS_AUTH_SERVICE_SECRETS": json.dumps({"bot-worker": "bot-secret"}),
        "KAIROS_AUTH_ANCHOR_FILE": str(tmp_path / "anchor.ndjson"),
        "KAIROS_AUTH_CHECKPOINT_SECONDS": "0.2",
        "KAIROS_AUTH_OTLP_ENDPOINT": "",
    }


@pytest.fixture
def database(provisioned: Provisioned) -> ClonedDatabase:
    return provisioned.database("kairos_auth")


@asynccontextmanager
async def started(environment: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "kairos_auth.main",
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def ready(environment: dict[str, str], eventual: Any) -> str:
    url = f"http://127.0.0.1:{environment['KAIROS_AUTH_PORT']}"

    async def answers() -> bool:
        async with httpx.AsyncClient() as client:
            try:
                return (await client.get(f"{url}/health")).json()["status"] == "up"
            except httpx.TransportError:
                return False

    await eventual(answers, within=60)
    return url


async def test_it_serves_and_ends_cleanly_and_logs_no_secret(
    environment: dict[str, str], eventual: Any
) -> None:
    made = await bootstrap_admin(environment["KAIROS_AUTH_POSTGRES_URL"], "Acme", "ada@example.test")
    async with started(environment) as process:
        url = await ready(environment, eventual)
        async with httpx.AsyncClient(base_url=url) as client:
            credentials = {"email": "ada@example.test", "password": made.password}
            opened = await client.post("/session", json=credentials)
            assert opened.status_code == 201
            token = await client.post(
                "/internal/token", json={"service": "bot-worker", "secret": "bot-secret"}
            )
            client.headers.update({"origin": url, "x-csrf-token": opened.json()["csrf_token"]})
            key = (await client.post("/api-keys", json={"name": "k"})).json()["key"]
        process.send_signal(signal.SIGTERM)
        output, _ = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode in {0, -signal.SIGTERM}
    shown = output.decode()
    for secret in (made.password, opened.cookies["kairos_session"], token.json()["token"], key, "bot-secret"):
        assert secret not in shown
    assert all(json.loads(line) for line in shown.splitlines())
    assert "Traceback" not in shown


async def test_a_missing_setting_is_one_clear_refusal(environment: dict[str, str]) -> None:
    del environment["KAIROS_AUTH_KEY_PEPPER"]
    async with started(environment) as process:
        output, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode not in {0, None}
    assert b"key_pepper" in output


async def test_entries_are_chained_once_however_often_the_process_dies(
    environment: dict[str, str], database: ClonedDatabase, broker_url: str, eventual: Any
) -> None:
    made = await bootstrap_admin(environment["KAIROS_AUTH_POSTGRES_URL"], "Acme", "ada@example.test")
    organisation_id = made.organisation.id
    bus = Bus(broker_url, service="bot-worker")
    await bus.start()
    context = AuditContext.system("bot-worker")
    targets = [f"bot:{secrets.token_hex(4)}" for _ in range(12)]
    for target in targets:
        await bus.publish(context.entry("bot.created", target), organisation_id=organisation_id)

    def chained() -> list[tuple[str, int]]:
        with psycopg.connect(database.admin_url) as connection:
            return connection.execute(
                "SELECT entry ->> 'target', seq FROM auth.audit_entries"
                " WHERE stream = %s AND entry ->> 'action' = 'bot.created' ORDER BY seq",
                (str(organisation_id),),
            ).fetchall()

    # Every life ends at the first entry that is chained but not acknowledged.
    deadly = environment | {"KAIROS_AUTH_FAULTS": "auth.entry.chained=kill"}
    for _ in range(2):
        async with started(deadly) as process:
            await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == -signal.SIGKILL
    async with started(environment):
        await ready(environment, eventual)

        async def complete() -> bool:
            return {target for target, _ in chained()} == set(targets)

        await eventual(complete, within=60)
    await bus.stop()
    found = chained()
    assert len(found) == len(targets)
    assert len({seq for _, seq in found}) == len(targets)


@pytest.fixture(autouse=True)
def _servers_first(servers: Servers) -> None:
    """Start the servers before anything of the test counts time."""
