"""A whole auth-audit on real servers, and callers of every kind."""

import asyncio
import base64
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from kairos_auth.adapters.hashing import Argon2Hasher
from kairos_auth.adapters.transactions import PostgresTransactions
from kairos_auth.application.bootstrap_organisation import BootstrapOrganisation
from kairos_auth.bootstrap import Service, build
from kairos_auth.settings import Settings
from kairos_contracts.permissions import Role
from kairos_testkit.databases import ClonedDatabase, Provisioned
from kairos_testkit.servers import Servers

ORIGIN = "http://kairos.test"
SERVICE_SECRETS = {
    name: f"{name}-secret"
    for name in ("bot-worker", "llm-router", "budget-analytics", "auth-audit", "observability")
}


async def eventually(check: Callable[[], Awaitable[bool]], *, within: float = 15.0) -> None:
    deadline = time.monotonic() + within
    while not await check():
        if time.monotonic() > deadline:
            raise AssertionError("it did not happen in time")
        await asyncio.sleep(0.02)


@dataclass
class Clock:
    """The wall clock, moved by `ahead`."""

    ahead: timedelta = field(default_factory=timedelta)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@dataclass
class Running:
    service: Service
    settings: Settings
    clock: Clock
    database: ClonedDatabase
    hasher: Argon2Hasher

    def anonymous(self, ip: str = "198.51.100.1") -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.service.app, raise_app_exceptions=False, client=(ip, 4711))
        return httpx.AsyncClient(transport=transport, base_url=ORIGIN)

    async def organisation(self) -> "Account":
        """A new organisation with its admin, signed in."""
        make = BootstrapOrganisation(PostgresTransactions(self.service.database), self.hasher, self.clock)
        made = await make(f"Org {secrets.token_hex(4)}", f"{secrets.token_hex(4)}@example.test")
        assert made.password is not None
        account = Account(self, made.organisation.id, made.admin.id, made.admin.email, made.password)
        await account.sign_in()
        return account

    async def service_token(self, service: str, audience: str = "kairos") -> str:
        body = {"service": service, "secret": SERVICE_SECRETS[service], "audience": audience}
        async with self.anonymous() as client:
            answer = await client.post("/internal/token", json=body)
        assert answer.status_code == 200
        return str(answer.json()["token"])


@dataclass
class Account:
    """A member with a browser."""

    running: Running
    organisation_id: UUID
    member_id: UUID
    email: str
    password: str
    client: httpx.AsyncClient = field(init=False)

    async def sign_in(self) -> httpx.Response:
        self.client = self.running.anonymous(ip=f"198.51.{secrets.randbelow(250)}.{secrets.randbelow(250)}")
        answer = await self.client.post("/session", json={"email": self.email, "password": self.password})
        assert answer.status_code == 201, answer.text
        self.client.headers.update({"origin": ORIGIN, "x-csrf-token": answer.json()["csrf_token"]})
        return answer

    async def colleague(self, role: Role) -> "Account":
        body = {"email": f"{secrets.token_hex(4)}@example.test", "role": role.value}
        answer = await self.client.post("/members", json=body)
        assert answer.status_code == 201, answer.text
        made = answer.json()
        account = Account(
            self.running, self.organisation_id, UUID(made["id"]), made["email"], made["password"]
        )
        await account.sign_in()
        return account

    async def api_key(self, **order: object) -> tuple[UUID, str]:
        answer = await self.client.post("/api-keys", json={"name": "key", **order})
        assert answer.status_code == 201, answer.text
        return UUID(answer.json()["id"]), answer.json()["key"]

    async def entries(self, **wanted: str) -> list[dict[str, object]]:
        answer = await self.client.get("/audit/entries", params={"limit": "200", **wanted})
        assert answer.status_code == 200, answer.text
        return [item["entry"] for item in answer.json()["items"]]

    async def audited(self, **wanted: str) -> dict[str, object]:
        """The newest entry that matches, once it has arrived."""
        found: list[dict[str, object]] = []

        async def arrived() -> bool:
            found[:] = await self.entries(**wanted)
            return bool(found)

        await eventually(arrived)
        return found[0]


def settings_for(servers: Servers, vhost: str, postgres_url: str, folder: Path) -> Settings:
    return Settings.model_validate(
        {
            "port": 0,
            "postgres_url": postgres_url,
            "amqp_url": servers.amqp(vhost),
            "redis_url": servers.redis_url,
            "auth_url": "http://127.0.0.1:1",
            "service_secret": SERVICE_SECRETS["auth-audit"],
            "signing_key": base64.b64encode(secrets.token_bytes(32)).decode(),
            "key_pepper": "a pepper of the test",
            "service_secrets": SERVICE_SECRETS,
            "anchor_file": folder / "anchor.ndjson",
            "checkpoint_seconds": 3600,
        }
    )


@pytest.fixture(scope="module")
async def running(
    servers: Servers, provisioned: Provisioned, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Running]:
    vhost = f"auth-{secrets.token_hex(4)}"
    servers.management.create_vhost(vhost)
    database = provisioned.database("kairos_auth")
    settings = settings_for(servers, vhost, database.urls["auth"], tmp_path_factory.mktemp("anchor"))
    clock = Clock()
    hasher = Argon2Hasher(memory_kib=64, passes=1)
    service = build(settings, clock=clock, hasher=hasher)
    async with service.app.router.lifespan_context(service.app):
        yield Running(service, settings, clock, database, hasher)
    hasher.close()
    servers.management.delete_vhost(vhost)


@pytest.fixture(scope="session")
def eventual() -> Callable[..., Awaitable[None]]:
    """`await eventual(check)`: wait until an async check is true."""
    return eventually


@pytest.fixture(scope="module")
async def admin(running: Running) -> Account:
    return await running.organisation()
