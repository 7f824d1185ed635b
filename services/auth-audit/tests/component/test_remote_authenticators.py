"""Other services' view: tokens, introspection, and how fast a revocation reaches every replica."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from kairos_auth.adapters.key_ring import KeyRing
from kairos_contracts.auth.v1 import AccessChangedV1
from kairos_contracts.permissions import Role
from kairos_messaging import Bus
from kairos_web import (
    OutboundSession,
    Problem,
    RemoteAuthenticator,
    ServiceTokens,
    TokenRefused,
    TokenVerifier,
)
from kairos_web.service_tokens import key_set

pytestmark = pytest.mark.servers


class Replica:
    """An authenticator with its own event subscription, as every replica of a service has one."""

    def __init__(self, auth_url: str, amqp_url: str, service: str = "bot-worker") -> None:
        self.session = OutboundSession()
        self.tokens = ServiceTokens(auth_url, service, f"{service}-secret", self.session)
        self.authenticator = RemoteAuthenticator(auth_url, self.tokens, self.session)
        self.bus = Bus(amqp_url, service=service)
        self.bus.on_replica([AccessChangedV1], self.changed)

    async def changed(self, delivery: Any) -> None:
        self.authenticator.forget(delivery.message.kind, delivery.message.subject_id)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Replica"]:
        await self.bus.start()
        try:
            yield self
        finally:
            await self.bus.stop()
            await self.session.close()


@pytest.fixture(scope="module")
async def auth_url(running: Any, eventual: Any) -> None:
    config = uvicorn.Config(running.service.app, port=0, lifespan="off", log_config=None, ws="none")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())

    async def started() -> bool:
        return server.started

    await eventual(started)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    await task


@pytest.fixture
async def replicas(running: Any, auth_url: Any) -> None:
    amqp_url = running.settings.amqp_url.get_secret_value()
    async with (
        Replica(auth_url, amqp_url).running() as first,
        Replica(auth_url, amqp_url).running() as second,
    ):
        yield [first, second]


async def refused_everywhere(replicas: Any, credential: str) -> float:
    """Seconds until every replica refuses the credential."""
    started = time.monotonic()
    while any([await replica.authenticator.resolve(credential) for replica in replicas]):
        assert time.monotonic() - started < 5
        await asyncio.sleep(0.01)
    return time.monotonic() - started


async def seconds_of_revocation(running: Any, replicas: Any, how: str) -> float:
    owner = await running.organisation()
    developer = await owner.colleague(Role.DEVELOPER)
    key_id, key = await developer.api_key()
    credential = developer.client.cookies["kairos_session"] if how == "signed out" else key
    for replica in replicas:
        actor = await replica.authenticator.resolve(credential)
        assert actor.organisation_id == owner.organisation_id
        assert replica.authenticator.cached(credential) == actor
    if how == "revoked key":
        await owner.client.delete(f"/api-keys/{key_id}")
    elif how == "signed out":
        await developer.client.delete("/session")
    else:
        await owner.client.delete(f"/members/{developer.member_id}")
    return await refused_everywhere(replicas, credential)


@pytest.mark.parametrize("how", ["revoked key", "signed out", "member removed"])
async def test_a_revocation_reaches_every_replica_within_a_second(
    running: Any, replicas: Any, how: str
) -> None:
    # A busy machine may stand still for a second; code that only polls would be late every time.
    for _ in range(3):
        if await seconds_of_revocation(running, replicas, how) <= 1.0:
            return
    pytest.fail("three revocations in a row took more than a second")


async def test_a_role_change_reaches_keys_and_sessions_within_a_second(running: Any, replicas: Any) -> None:
    owner = await running.organisation()
    developer = await owner.colleague(Role.DEVELOPER)
    _, key = await developer.api_key()
    credentials = [key, developer.client.cookies["kairos_session"]]
    for replica in replicas:
        for credential in credentials:
            assert (await replica.authenticator.resolve(credential)).role is Role.DEVELOPER
    await owner.client.patch(f"/members/{developer.member_id}", json={"role": "viewer"})
    deadline = time.monotonic() + 1.0
    for replica in replicas:
        for credential in credentials:
            while (await replica.authenticator.resolve(credential)).role is not Role.VIEWER:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)


async def test_a_mistyped_key_is_refused_without_asking(replicas: Any, admin: Any) -> None:
    _, key = await admin.api_key()
    typo = key[:-8] + ("a" if key[-8] != "a" else "b") + key[-7:]
    lonely = RemoteAuthenticator("http://127.0.0.1:1", replicas[0].tokens, replicas[0].session)
    assert await lonely.resolve(typo) is None
    with pytest.raises(Problem) as unavailable:
        await lonely.resolve(key)
    assert unavailable.value.status == 503


async def test_a_service_proves_itself_to_another(replicas: Any) -> None:
    caller, called = replicas
    bearer = await caller.tokens.bearer()
    actor = await called.authenticator.resolve(bearer.removeprefix("Bearer "))
    assert (actor.kind, actor.id) == ("service", "bot-worker")
    assert await caller.tokens.bearer() == bearer
    elsewhere = await caller.tokens.bearer("llm-router")
    assert await called.authenticator.resolve(elsewhere.removeprefix("Bearer ")) is None


async def test_a_wrong_service_secret_gets_no_token_and_is_audited(running: Any, auth_url: Any) -> None:
    session = OutboundSession()
    try:
        for service in ("bot-worker", "no-such-service"):
            with pytest.raises(TokenRefused):
                await ServiceTokens(auth_url, service, "wrong", session).bearer()
    finally:
        await session.close()


def test_tokens_survive_a_rotation_of_the_signing_key() -> None:
    old, new, stranger = (bytes([number]) * 32 for number in (1, 2, 3))
    before = KeyRing(old, others=[new])
    during = KeyRing(new, others=[old])
    after = KeyRing(new)
    verifier = TokenVerifier("bot-worker")
    old_token, _ = before.issue("llm-router", "bot-worker")
    new_token, _ = during.issue("llm-router", "kairos")
    published = key_set(during.jwks())
    assert verifier.verify(old_token, published).id == "llm-router"
    assert verifier.verify(new_token, published).id == "llm-router"
    assert verifier.verify(new_token, key_set(before.jwks())).id == "llm-router"
    assert verifier.verify(old_token, key_set(after.jwks())) is None
    assert verifier.verify(KeyRing(stranger).issue("llm-router", "kairos")[0], published) is None
    assert "d" not in str(sorted(key for each in during.jwks()["keys"] for key in each if key == "d"))
