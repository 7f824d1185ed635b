"""What create_app promises, on an application of a few routes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi import APIRouter, FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from kairos_contracts.audit import AuditContext
from kairos_contracts.permissions import Actor, Permission, Role
from kairos_telemetry import configure, current_traceparent
from kairos_web import (
    CurrentActor,
    CurrentContext,
    CurrentOrganisation,
    HealthCheck,
    Problem,
    UndeclaredRoute,
    create_app,
    public,
    requires,
)

ORGANISATION = uuid4()


class ServerAwayError(Exception):
    pass


class ByHeader:
    """Believes the header x-role."""

    async def authenticate(self, connection: HTTPConnection) -> Actor | None:
        role = connection.headers.get("x-role")
        if role == "service":
            return Actor(kind="service", id="llm-router")
        if role is None:
            return None
        return Actor(kind="member", id=str(uuid4()), organisation_id=ORGANISATION, role=Role(role))


class Order(BaseModel):
    secret: str
    amount: int


class Lease(BaseModel):
    amount: int


def routes() -> APIRouter:  # noqa: C901 - a list of routes, not of decisions
    router = APIRouter(prefix="/things")

    @router.get("/{thing_id}", dependencies=[requires(Permission.BOTS_WRITE)])
    async def show(thing_id: UUID, actor: CurrentActor, context: CurrentContext) -> dict[str, Any]:
        return {"role": actor.role, "via": context.via, "trace": context.trace_id, "ip": context.ip}

    @router.get("/of/me", dependencies=[requires(Permission.BOTS_WRITE)])
    async def mine(organisation_id: CurrentOrganisation) -> str:
        return str(organisation_id)

    @router.get("/", dependencies=[requires(Permission.LEASES_MANAGE)])
    async def organisation(organisation_id: CurrentOrganisation) -> str:
        return str(organisation_id)

    @router.post("/", dependencies=[public("for the test")])
    async def order(body: Order) -> int:
        return body.amount

    @router.get("/fails/{how}", dependencies=[public("for the test")])
    async def fail(how: str) -> str:
        if how == "away":
            raise ServerAwayError
        if how == "problem":
            raise Problem(418, "teapot", "Short and stout", "no coffee", headers={"x-tea": "yes"}, size=3)
        raise RuntimeError("a secret in the message")

    @router.get("/streams/broken", dependencies=[public("for the test")])
    async def broken() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"begun"
            raise RuntimeError("in the middle")

        return StreamingResponse(parts())

    @router.websocket("/ws", dependencies=[requires(Permission.BOTS_WRITE)])
    async def socket(websocket: WebSocket, actor: CurrentActor) -> None:
        await websocket.accept()
        await websocket.send_text(str(actor.role))
        if await websocket.receive_text() == "fail":
            raise ServerAwayError
        raise Problem(403, "no_more", "Enough")

    @router.get("/trace/parent", dependencies=[public("for the test")])
    async def trace(request: Request) -> str | None:
        return current_traceparent()

    return router


@asynccontextmanager
async def nothing(_: FastAPI) -> AsyncIterator[None]:
    yield


def make(**options: Any) -> FastAPI:
    defaults: dict[str, Any] = {
        "title": "T",
        "version": "1",
        "lifespan": nothing,
        "authenticator": ByHeader(),
        "checks": [],
        "max_body": 1000,
        "unavailable": (ServerAwayError,),
    }
    app = create_app("test", **(defaults | options))
    app.include_router(routes())

    @app.post("/internal/leases", dependencies=[requires(Permission.LEASES_MANAGE)])
    async def lease(lease: Lease) -> None: ...

    return app


@pytest.fixture
async def client(calling: Callable[..., Any]) -> AsyncIterator[Any]:
    async with calling(make()) as caller:
        yield caller


async def test_the_guard_tells_who_from_what(client: Any) -> None:
    path = f"/things/{uuid4()}"
    assert (await client.get(path)).status_code == 401
    forbidden = await client.get(path, headers={"x-role": "viewer"})
    assert (forbidden.status_code, forbidden.json()["permission"]) == (403, "bots.write")
    allowed = await client.get(path, headers={"x-role": "developer"})
    assert (allowed.json()["role"], allowed.json()["via"]) == ("developer", "rest")


async def test_who_may_not_learns_nothing_about_the_request_being_valid(client: Any) -> None:
    assert (await client.get("/things/not-a-uuid")).status_code == 401
    assert (await client.get("/things/not-a-uuid", headers={"x-role": "viewer"})).status_code == 403
    assert (await client.get("/things/not-a-uuid", headers={"x-role": "admin"})).status_code == 422


async def test_a_service_names_the_organisation_it_works_for(client: Any) -> None:
    headers = {"x-role": "service"}
    assert (await client.get("/things/", headers=headers)).status_code == 400
    named = await client.get("/things/", headers=headers | {"x-kairos-organisation": str(ORGANISATION)})
    assert named.json() == str(ORGANISATION)
    wrong = await client.get("/things/", headers=headers | {"x-kairos-organisation": "x"})
    assert wrong.json()["code"] == "organisation_required"
    members = {"x-role": "admin", "x-kairos-organisation": str(ORGANISATION)}
    assert (await client.get("/things/of/me", headers=members)).json() == str(ORGANISATION)
    foreign = await client.get("/things/of/me", headers=members | {"x-kairos-organisation": str(uuid4())})
    assert (foreign.status_code, foreign.json()["code"]) == (400, "wrong_organisation")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("DELETE", "/things/", 405, "method_not_allowed"),
        ("BREW", "/things/", 405, "method_not_allowed"),
        ("GET", "/things/fails/away", 503, "unavailable"),
        ("GET", "/things/fails/unforeseen", 500, "internal"),
        ("GET", "/things/fails/problem", 418, "teapot"),
        ("POST", "/things/", 422, "invalid_request"),
    ],
)
async def test_every_failure_is_a_problem_document(
    client: Any, method: str, path: str, status: int, code: str
) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["type"] == f"urn:kairos:problem:{code}"
    assert document["request_id"] == answer.headers["x-request-id"]
    assert "secret" not in answer.text


async def test_a_problem_carries_its_members_and_headers(client: Any) -> None:
    answer = await client.get("/things/fails/problem")
    assert answer.json()["detail"] == "no coffee"
    assert answer.json()["size"] == 3
    assert answer.headers["x-tea"] == "yes"


async def test_a_server_that_is_away_says_when_to_come_back(client: Any) -> None:
    assert int((await client.get("/things/fails/away")).headers["retry-after"]) > 0


async def test_rejected_input_is_not_repeated(client: Any) -> None:
    answer = await client.post("/things/", json={"secret": "hunter2hunter2", "amount": "many"})
    assert answer.status_code == 422
    assert "hunter2" not in answer.text
    assert "many" not in answer.text
    assert answer.json()["errors"][0]["at"] == "body/amount"


async def test_a_sane_request_id_is_kept_and_another_replaced(client: Any) -> None:
    kept = await client.get("/nowhere", headers={"x-request-id": "abc-123_XYZ.9"})
    assert kept.headers["x-request-id"] == "abc-123_XYZ.9"
    for insane in ("short", "has spaces in it", "x" * 65, "line\tbreak-here"):
        replaced = await client.get("/nowhere", headers={"x-request-id": insane})
        assert replaced.headers["x-request-id"] != insane


async def test_a_large_body_is_refused_with_and_without_its_length(client: Any) -> None:
    assert (await client.post("/things/", content=b"x" * 1001)).status_code == 413

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b"x" * 100

    answer = await client.post("/things/", content=chunks(), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    fits = await client.post("/things/", json={"secret": "x" * 900, "amount": 1})
    assert fits.json() == 1


async def test_answers_are_not_cached_or_sniffed(client: Any) -> None:
    headers = (await client.get("/nowhere")).headers
    assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")


async def test_metrics_name_templates_and_never_addresses(client: Any) -> None:
    thing = uuid4()
    await client.get(f"/things/{thing}", headers={"x-role": "admin"})
    await client.request("INVENTED", "/things/")
    page = (await client.get("/metrics")).text
    assert 'route="/things/{thing_id}"' in page
    assert str(thing) not in page
    assert "INVENTED" not in page


async def test_a_request_continues_the_callers_trace(client: Any) -> None:
    exporter = InMemorySpanExporter()
    telemetry = configure("test", otlp_endpoint=None, exporter=exporter)
    try:
        parent = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
        answer = await client.get("/things/trace/parent", headers={"traceparent": parent})
        assert answer.json().split("-")[1] == "0123456789abcdef0123456789abcdef"
        (span,) = exporter.get_finished_spans()
        assert span.name == "GET /things/trace/parent"
        assert span.parent is not None
        assert f"{span.parent.span_id:016x}" == "0123456789abcdef"
        assert span.attributes is not None
        assert span.attributes["http.response.status_code"] == 200
        exporter.clear()
        await client.get("/things/fails/unforeseen")
        assert not exporter.get_finished_spans()[0].status.is_ok
        exporter.clear()
        await client.get("/health/live")
        assert exporter.get_finished_spans() == ()
    finally:
        telemetry.shutdown()


async def test_denials_are_audited_and_a_failing_audit_still_denies(calling: Callable[..., Any]) -> None:
    seen: list[tuple[AuditContext, str, str, UUID | None]] = []

    async def record(context: AuditContext, permission: str, path: str, organisation: UUID | None) -> None:
        seen.append((context, permission, path, organisation))
        if len(seen) > 1:
            raise ServerAwayError

    async with calling(make(audit_denial=record)) as client:
        path = f"/things/{uuid4()}"
        for _ in range(2):
            assert (await client.get(path, headers={"x-role": "viewer"})).status_code == 403
        assert (await client.get(path)).status_code == 401
    context, *rest = seen[0]
    assert rest == ["bots.write", path, ORGANISATION]
    assert (context.actor.kind, context.request_id is not None) == ("member", True)
    assert len(seen) == 2


@pytest.mark.parametrize("kind", ["http", "websocket", "included", "both"])
async def test_an_undeclared_route_keeps_the_service_from_starting(kind: str) -> None:
    app = make()
    router = APIRouter(prefix="/deep")
    declared = [public("one"), requires(Permission.BOTS_READ)] if kind == "both" else []

    async def forgotten() -> None: ...

    async def forgotten_socket(websocket: WebSocket) -> None: ...

    if kind == "http":
        app.add_api_route("/forgotten", forgotten)
    elif kind == "websocket":
        app.add_api_websocket_route("/forgotten", forgotten_socket)
    else:
        router.add_api_route("/forgotten", forgotten, dependencies=declared)
        app.include_router(router)
    with pytest.raises(UndeclaredRoute, match="/forgotten"):
        async with app.router.lifespan_context(app):
            raise AssertionError("it started")


async def test_a_foreign_application_can_not_be_mounted_undeclared() -> None:
    app = make()
    app.mount("/other", FastAPI())
    with pytest.raises(UndeclaredRoute):
        async with app.router.lifespan_context(app):
            raise AssertionError("it started")


async def test_until_there_is_an_authenticator_guarded_routes_wait(calling: Callable[..., Any]) -> None:
    app = make(authenticator=None)
    async with calling(app) as client:
        assert (await client.get(f"/things/{uuid4()}")).status_code == 503
        app.state.authenticator = ByHeader()
        assert (await client.get(f"/things/{uuid4()}")).status_code == 401


def test_a_websocket_is_guarded_like_a_route() -> None:
    with TestClient(make()) as client:
        for headers, status in (({}, 401), ({"x-role": "viewer"}, 403)):
            with (
                pytest.raises(WebSocketDenialResponse) as refused,
                client.websocket_connect("/things/ws", headers=headers),
            ):
                raise AssertionError("it opened")
            assert refused.value.status_code == status
        for said, code in (("fail", 1013), ("enough", 1008)):
            with client.websocket_connect("/things/ws", headers={"x-role": "admin"}) as socket:
                assert socket.receive_text() == "admin"
                socket.send_text(said)
                with pytest.raises(WebSocketDisconnect) as closed:
                    socket.receive_text()
                assert closed.value.code == code


async def test_a_stream_that_fails_after_its_start_is_cut_not_finished(calling: Callable[..., Any]) -> None:
    app = make()
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "path": "/things/streams/broken",
        "raw_path": b"/things/streams/broken",
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    async with calling(app):
        with pytest.raises(BaseException, match=r"in the middle|unhandled"):
            await app(scope, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[-1]["more_body"] is True


async def test_health_tells_required_from_optional(calling: Callable[..., Any]) -> None:
    broken: set[str] = set()

    def check(name: str) -> Any:
        async def probe() -> None:
            if name in broken:
                raise ConnectionError("postgresql://user:password@host")

        return probe

    async def hang() -> None:
        if "slow" in broken:
            await asyncio.Event().wait()

    checks = [
        HealthCheck("database", check("database")),
        HealthCheck("cache", check("cache"), required=False),
        HealthCheck("slow", hang, timeout=0.01),
    ]
    async with calling(make(checks=checks)) as client:
        assert (await client.get("/health")).json()["status"] == "up"
        broken.add("cache")
        degraded = await client.get("/health/ready")
        assert (degraded.status_code, degraded.json()["status"]) == (200, "degraded")
        broken.add("slow")
        down = await client.get("/health/ready")
        assert (down.status_code, down.json()["status"]) == (503, "down")
        assert "password" not in down.text
        assert [check["error"] for check in down.json()["checks"]] == [
            None,
            "ConnectionError",
            "TimeoutError",
        ]
        assert (await client.get("/health/live")).status_code == 200


async def test_the_interface_describes_itself(client: Any) -> None:
    document = (await client.get("/openapi.json")).json()
    assert "/things/{thing_id}" in document["paths"]
    assert "/health" not in document["paths"]
    assert "Order" in document["components"]["schemas"]


async def test_what_services_say_to_each_other_is_not_in_the_interface(client: Any) -> None:
    document = (await client.get("/openapi.json")).json()
    assert not [path for path in document["paths"] if path.startswith("/internal")]
    assert "Lease" not in document["components"]["schemas"]
    assert (await client.post("/internal/leases", json={"amount": 1})).status_code == 401


async def test_the_interface_says_what_an_operation_needs_and_how_it_refuses(client: Any) -> None:
    document = (await client.get("/openapi.json")).json()
    operation = document["paths"]["/things/{thing_id}"]["get"]
    assert operation["security"] == [{"bearer": []}]
    assert operation["x-kairos-permission"] in operation["description"]
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for status in ("401", "403", "422"):
        assert operation["responses"][status]["content"] == problem
    assert "HTTPValidationError" not in document["components"]["schemas"]
    assert document["servers"][0]["url"].startswith("/api/")
    assert (await client.get("/openapi.json")).json() == document
