"""The cache of the remote authenticator against a scripted auth-audit."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiohttp import web
from starlette.requests import HTTPConnection

from kairos_contracts.credentials import new_api_key
from kairos_contracts.permissions import Actor, Role
from kairos_web import (
    AuthUnavailable,
    OutboundSession,
    Problem,
    RemoteAuthenticator,
    RemoteKeys,
    ServiceTokens,
    TokenRefused,
    authenticators,
    credential_of,
    service_tokens,
)
from kairos_web.authenticators import ACTOR


@dataclass
class FakeAuth:
    """Answers introspection as told; counts what it was asked."""

    actors: dict[str, Actor] = field(default_factory=dict)
    expires_at: datetime | None = None
    status: int = 200
    asked: int = 0
    tokens: int = 0
    keys_asked: int = 0
    jwks: dict[str, Any] = field(default_factory=lambda: {"keys": []})
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def introspect(self, request: web.Request) -> web.Response:
        self.asked += 1
        actor = self.actors.get((await request.json())["credential"])
        self.entered.set()
        await self.gate.wait()
        if self.status != 200:
            return web.Response(status=self.status)
        if actor is None:
            return web.json_response({"active": False})
        expiry = self.expires_at.isoformat() if self.expires_at else None
        document = {"active": True, "actor": ACTOR.dump_python(actor, mode="json"), "expires_at": expiry}
        return web.json_response(document)

    async def token(self, request: web.Request) -> web.Response:
        self.tokens += 1
        body = await request.json()
        if body["secret"] != "right":
            return web.Response(status=401)
        return web.json_response({"token": f"t.{self.tokens}.{body['audience']}", "expires_in": 300})

    async def keys(self, request: web.Request) -> web.Response:
        self.keys_asked += 1
        return web.json_response(self.jwks)


@pytest.fixture
async def auth() -> AsyncIterator[FakeAuth]:
    fake = FakeAuth()
    fake.gate.set()
    app = web.Application()
    app.router.add_post("/internal/introspect", fake.introspect)
    app.router.add_post("/internal/token", fake.token)
    app.router.add_get("/.well-known/jwks.json", fake.keys)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield fake
    await runner.cleanup()


@pytest.fixture
async def session() -> AsyncIterator[OutboundSession]:
    outbound = OutboundSession()
    yield outbound
    await outbound.close()


@pytest.fixture
def remote(auth: FakeAuth, session: OutboundSession) -> RemoteAuthenticator:
    tokens = ServiceTokens(auth.url, "bot-worker", "right", session)
    return RemoteAuthenticator(auth.url, tokens, session)


def member(**changes: Any) -> Actor:
    given: dict[str, Any] = {
        "kind": "member",
        "id": str(uuid4()),
        "organisation_id": uuid4(),
        "role": Role.VIEWER,
        "session_id": uuid4(),
    }
    return Actor(**(given | changes))


async def test_an_answer_is_cached_and_read_without_waiting(
    auth: FakeAuth, remote: RemoteAuthenticator
) -> None:
    auth.actors["s1"] = member()
    assert remote.cached("s1") is None
    assert await remote.resolve("s1") == auth.actors["s1"]
    assert remote.cached("s1") == auth.actors["s1"]
    await remote.resolve("s1")
    assert (auth.asked, auth.tokens) == (1, 1)


async def test_many_askers_share_one_question(auth: FakeAuth, remote: RemoteAuthenticator) -> None:
    auth.actors["s1"] = member()
    auth.gate.clear()
    askers = [asyncio.create_task(remote.resolve("s1")) for _ in range(20)]
    await auth.entered.wait()
    askers[0].cancel()
    auth.gate.set()
    answers = await asyncio.gather(*askers[1:])
    assert set(answers) == {auth.actors["s1"]}
    assert auth.asked == 1


async def test_unknown_credentials_are_remembered_briefly(
    auth: FakeAuth, remote: RemoteAuthenticator
) -> None:
    assert [await remote.resolve("nobody") for _ in range(3)] == [None] * 3
    assert auth.asked == 1


@pytest.mark.parametrize("kind", ["session", "member", "api_key"])
async def test_forgetting_is_exact(auth: FakeAuth, remote: RemoteAuthenticator, kind: str) -> None:
    key = new_api_key()
    auth.actors["s1"], auth.actors["s2"] = member(), member()
    auth.actors[key] = member(kind="api_key", session_id=None)
    subject = {
        "session": auth.actors["s1"].session_id,
        "member": UUID(auth.actors["s1"].id),
        "api_key": UUID(auth.actors[key].id),
    }[kind]
    for credential in ("s1", "s2", key):
        await remote.resolve(credential)
    assert subject is not None
    remote.forget(kind, subject)
    gone = key if kind == "api_key" else "s1"
    for credential in ("s1", "s2", key):
        assert (remote.cached(credential) is None) is (credential == gone)
    remote.forget_all()
    assert remote.cached("s2") is None


async def test_an_answer_that_crosses_a_change_is_asked_again(
    auth: FakeAuth, remote: RemoteAuthenticator
) -> None:
    before = auth.actors["s1"] = member()
    auth.gate.clear()
    asking = asyncio.create_task(remote.resolve("s1"))
    await auth.entered.wait()
    auth.actors["s1"] = member(id=before.id, role=Role.ADMIN)
    remote.forget("member", UUID(before.id))
    auth.gate.set()
    answer = await asking
    assert answer is not None
    assert answer.role is Role.ADMIN
    assert auth.asked == 2


async def test_a_known_caller_is_served_for_a_while_when_auth_audit_is_away(
    auth: FakeAuth, remote: RemoteAuthenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth.actors["s1"] = member()
    await remote.resolve("s1")
    auth.status = 500
    now = authenticators.time.monotonic()
    monkeypatch.setattr(authenticators.time, "monotonic", lambda: now + 45)
    assert remote.cached("s1") is None
    assert await remote.resolve("s1") == auth.actors["s1"]
    monkeypatch.setattr(authenticators.time, "monotonic", lambda: now + 61)
    with pytest.raises(Problem) as refused:
        await remote.resolve("s1")
    assert refused.value.status == 503
    with pytest.raises(Problem):
        await remote.resolve("never seen")


async def test_an_expiring_credential_is_not_cached_beyond_its_end(
    auth: FakeAuth, remote: RemoteAuthenticator
) -> None:
    auth.actors["s1"] = member()
    auth.expires_at = datetime.now(UTC) - timedelta(seconds=1)
    await remote.resolve("s1")
    assert remote.cached("s1") is None


async def test_the_cache_stays_bounded(
    auth: FakeAuth, remote: RemoteAuthenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authenticators, "_MAX_ENTRIES", 3)
    for number in range(5):
        await remote.resolve(f"s{number}")
    assert len(remote._cache) == 3


async def test_a_refused_introspection_drops_the_token(auth: FakeAuth, remote: RemoteAuthenticator) -> None:
    auth.status = 401
    for _ in range(2):
        with pytest.raises(Problem):
            await remote.resolve("s1")
    assert auth.tokens == 2


async def test_a_service_token_is_fetched_once_per_audience_and_renewed(
    auth: FakeAuth, session: OutboundSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = ServiceTokens(auth.url, "bot-worker", "right", session)
    answers = await asyncio.gather(*(tokens.bearer() for _ in range(10)))
    assert set(answers) == {"Bearer t.1.kairos"}
    assert await tokens.bearer("llm-router") == "Bearer t.2.llm-router"
    now = service_tokens.time.monotonic()
    monkeypatch.setattr(service_tokens.time, "monotonic", lambda: now + 241)
    assert await tokens.bearer() == "Bearer t.3.kairos"
    with pytest.raises(TokenRefused):
        await ServiceTokens(auth.url, "bot-worker", "wrong", session).bearer()
    with pytest.raises(AuthUnavailable):
        await ServiceTokens("http://127.0.0.1:1", "bot-worker", "right", session).bearer()


async def test_keys_are_asked_for_seldom_and_outlive_an_outage(
    auth: FakeAuth, session: OutboundSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = RemoteKeys(auth.url, session)
    for token in ("a.b.c", "eyJraWQiOiJ4In0.b.c", "....", "bnVsbA.b.c"):
        await keys.for_token(token)
    assert auth.keys_asked == 1
    now = service_tokens.time.monotonic()
    monkeypatch.setattr(service_tokens.time, "monotonic", lambda: now + 6)
    await keys.for_token("a.b.c")
    assert auth.keys_asked == 2
    keys._url = "http://127.0.0.1:1/"
    monkeypatch.setattr(service_tokens.time, "monotonic", lambda: now + 400)
    assert (await keys.for_token("a.b.c")).keys == []
    with pytest.raises(AuthUnavailable):
        await RemoteKeys("http://127.0.0.1:1", session).for_token("a.b.c")


def connection(method: str = "GET", kind: str = "http", **headers: str) -> HTTPConnection:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": kind, "method": method, "headers": raw, "path": "/", "query_string": b""}
    return HTTPConnection(scope)


def test_a_bearer_wins_over_a_cookie_and_other_schemes_are_no_credential() -> None:
    found = credential_of(
        connection(authorization="bearer abc", cookie="kairos_session=x"), cookie_secure=False
    )
    assert found == ("abc", False)
    assert credential_of(connection(cookie="kairos_session=x"), cookie_secure=False) == ("x", True)
    assert credential_of(connection(cookie="kairos_session=x"), cookie_secure=True) is None
    assert credential_of(connection(cookie="__Host-kairos_session=x"), cookie_secure=True) == ("x", True)
    assert credential_of(connection(authorization="Basic abc"), cookie_secure=False) is None
    assert credential_of(connection(), cookie_secure=False) is None


async def test_no_credential_is_nobody(remote: RemoteAuthenticator, auth: FakeAuth) -> None:
    assert await remote.authenticate(connection()) is None
    auth.actors["s1"] = member()
    assert await remote.authenticate(connection(cookie="kairos_session=s1")) == auth.actors["s1"]
