"""Every route against every kind of caller, on real servers."""

import contextlib
import re
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest

from kairos_auth.bootstrap import build
from kairos_contracts.permissions import (
    ROLE_GRANTS,
    SERVICE_GRANTS,
    SERVICE_ONLY,
    Permission,
    Role,
)
from kairos_web import Declaration, Public, Requires, UndeclaredRoute, declarations

pytestmark = pytest.mark.servers

REFUSED = {401, 403}


@dataclass(frozen=True)
class Route:
    method: str
    path: str
    permission: Permission

    def address(self, **ids: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda found: ids.get(found[1], str(uuid4())), self.path)


def guarded(declared: list[Declaration]) -> list[Route]:
    return [
        Route(method, each.path, guard.permission)
        for each in declared
        for guard in each.guards
        if isinstance(guard, Requires)
        for method in sorted(each.methods)
    ]


@pytest.fixture(scope="module")
def routes(running: Any) -> list[Route]:
    found = guarded(list(declarations(running.service.app)))
    assert len(found) >= 18
    # What changes the caller itself comes last.
    return sorted(found, key=lambda route: route.path == "/session" and route.method == "DELETE")


async def call(client: httpx.AsyncClient, route: Route, **ids: str) -> httpx.Response:
    answer = await client.request(route.method, route.address(**ids))
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
        assert answer.json()["status"] == answer.status_code
    return answer


async def test_without_a_credential_every_guarded_route_answers_401(
    running: Any, routes: list[Route]
) -> None:
    async with running.anonymous() as client:
        for route in routes:
            answer = await call(client, route)
            assert answer.status_code == 401, route
            assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("role", list(Role))
async def test_a_member_may_do_exactly_what_the_matrix_grants(
    admin: Any, routes: list[Route], role: Role, eventual: Any
) -> None:
    member = await admin.colleague(role)
    for route in routes:
        answer = await call(member.client, route)
        if route.permission in ROLE_GRANTS[role]:
            assert answer.status_code not in REFUSED | {500}, route
        else:
            assert answer.status_code == 403, route
            assert answer.json()["permission"] == route.permission.value
    refused = {route.permission.value for route in routes} - {grant.value for grant in ROLE_GRANTS[role]}
    for permission in refused:

        async def written(permission: str = permission) -> bool:
            entries = await admin.entries(action="access.denied", actor=str(member.member_id))
            return permission in {entry["reason"] for entry in entries}

        await eventual(written)


@pytest.mark.parametrize("role", [Role.DEVELOPER, Role.ADMIN])
async def test_an_unscoped_key_may_do_what_its_member_may(
    running: Any, admin: Any, routes: list[Route], role: Role
) -> None:
    member = await admin.colleague(role)
    _, key = await member.api_key()
    async with running.anonymous() as client:
        client.headers["authorization"] = f"Bearer {key}"
        for route in routes:
            answer = await call(client, route)
            expected = route.permission in ROLE_GRANTS[role]
            assert (answer.status_code not in REFUSED) is expected, (route, answer.text)


async def test_a_scoped_key_may_do_its_scopes_and_nothing_else(
    running: Any, admin: Any, routes: list[Route]
) -> None:
    _, key = await admin.api_key(scopes=["members.read", "profile.read"])
    async with running.anonymous() as client:
        client.headers["authorization"] = f"Bearer {key}"
        for route in routes:
            answer = await call(client, route)
            allowed = route.permission in {Permission.MEMBERS_READ, Permission.PROFILE_READ}
            assert (answer.status_code not in REFUSED) is allowed, (route, answer.text)


async def test_a_revoked_key_opens_nothing(running: Any, admin: Any, routes: list[Route]) -> None:
    key_id, key = await admin.api_key()
    assert (await admin.client.delete(f"/api-keys/{key_id}")).status_code == 204
    async with running.anonymous() as client:
        client.headers["authorization"] = f"Bearer {key}"
        for route in routes:
            assert (await call(client, route)).status_code == 401, route


@pytest.mark.parametrize("spoil", ["audience", "signature", "algorithm", "garbage"])
async def test_a_service_token_that_is_not_for_us_opens_nothing(
    running: Any, routes: list[Route], spoil: str
) -> None:
    if spoil == "audience":
        token = await running.service_token("llm-router", audience="bot-worker")
    else:
        token = await running.service_token("llm-router")
        head, body, signature = token.split(".")
        token = {
            "signature": f"{head}.{body}.{'A' * len(signature)}",
            "algorithm": f"eyJhbGciOiJub25lIn0.{body}.",
            "garbage": "a.b.c",
        }[spoil]
    async with running.anonymous() as client:
        client.headers["authorization"] = f"Bearer {token}"
        for route in routes:
            assert (await call(client, route)).status_code == 401, route


@pytest.mark.parametrize("service", sorted(SERVICE_GRANTS))
async def test_a_service_may_do_exactly_what_it_is_granted(
    running: Any, routes: list[Route], service: str
) -> None:
    async with running.anonymous() as client:
        client.headers["authorization"] = f"Bearer {await running.service_token(service)}"
        for route in routes:
            answer = await call(client, route)
            if route.permission in SERVICE_GRANTS[service]:
                assert answer.status_code == 422, route
            else:
                assert answer.status_code == 403, route


async def test_another_organisation_finds_nothing_of_ours(
    running: Any, admin: Any, routes: list[Route]
) -> None:
    stranger = await running.organisation()
    key_id, _ = await admin.api_key()
    project = await admin.client.post("/projects", json={"name": f"ours {uuid4()}"})
    ids = {"key_id": str(key_id), "member_id": str(admin.member_id)}
    for route in routes:
        if "{" in route.path:
            answer = await stranger.client.request(
                route.method, route.address(**ids), json={"role": "viewer"}
            )
            assert answer.status_code == 404, route
    for path in ("/members", "/api-keys", "/projects", "/audit/entries", "/audit/export"):
        answer = await stranger.client.get(path, params={"limit": 200})
        assert answer.status_code == 200
        for ours in (str(admin.member_id), str(key_id), project.json()["id"], str(admin.organisation_id)):
            assert ours not in answer.text, path
    borrowed = await stranger.client.post("/api-keys", json={"name": "x", "project_id": project.json()["id"]})
    assert borrowed.status_code == 404


async def test_only_these_routes_are_public(running: Any) -> None:
    public = {
        each.path
        for each in declarations(running.service.app)
        if any(isinstance(guard, Public) for guard in each.guards)
    }
    assert public == {
        "/session",
        "/internal/token",
        "/.well-known/jwks.json",
        "/health",
        "/health/live",
        "/health/ready",
        "/metrics",
        "/openapi.json",
    }


async def test_the_service_does_not_start_with_an_undeclared_route(running: Any) -> None:
    service = build(running.settings, hasher=running.hasher)

    @service.app.get("/forgotten")
    async def forgotten() -> None: ...

    with pytest.raises(UndeclaredRoute, match="GET /forgotten"):
        async with service.app.router.lifespan_context(service.app):
            raise AssertionError("it started")
    with contextlib.suppress(Exception):
        await service.database.dispose()


async def test_the_role_table_is_the_matrix(admin: Any) -> None:
    table = (await admin.client.get("/roles")).json()
    shown = {each["role"]: set(each["permissions"]) for each in table["roles"]}
    assert shown == {role.value: {grant.value for grant in grants} for role, grants in ROLE_GRANTS.items()}
    assert not set(table["permissions"]) & {permission.value for permission in SERVICE_ONLY}


async def test_a_body_that_is_too_large_is_refused_unread(running: Any) -> None:
    async with running.anonymous() as client:
        announced = await client.post("/session", content=b"x" * 1_100_000)

        async def chunks() -> None:
            for _ in range(20):
                yield b"x" * 100_000

        streamed = await client.post(
            "/session", content=chunks(), headers={"content-type": "application/json"}
        )
    for answer in (announced, streamed):
        assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("POST", "/session", b"{", 422),
        ("POST", "/session", b'{"email": 1}', 422),
        ("PUT", "/session", b"", 405),
        ("GET", "/nothing", b"", 404),
        ("GET", "/members?limit=0", b"", 422),
        ("GET", "/members?cursor=garbage", b"", 400),
        ("GET", "/audit/entries?from=yesterday", b"", 422),
        ("PATCH", "/members/not-a-uuid", b"{}", 422),
        ("POST", "/members", b'{"email": "x", "role": "viewer"}', 422),
        ("POST", "/members", b'{"email": "x@y.test", "role": "owner"}', 422),
        ("POST", "/api-keys", b'{"name": "x", "scopes": ["keys.introspect"]}', 422),
        ("POST", "/api-keys", b'{"name": "x", "expires_at": "2001-01-01T00:00:00Z"}', 422),
    ],
)
async def test_every_error_is_a_problem_document(
    admin: Any, method: str, path: str, content: bytes, status: int
) -> None:
    answer = await admin.client.request(
        method, path, content=content, headers={"content-type": "application/json"}
    )
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"].startswith("urn:kairos:problem:")
