"""The whole service in this process, on real RabbitMQ, PostgreSQL and Redis."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import psycopg
import pytest
import uvicorn
from aiohttp import web
from pydantic import SecretStr
from starlette.requests import HTTPConnection
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from kairos_contracts.auth.v1 import AccessChangedV1
from kairos_contracts.budget.v1 import BudgetChangedV1
from kairos_contracts.conversation.v1 import MessageReceivedV1, TurnOpenedV1
from kairos_contracts.message import Envelope, Message
from kairos_contracts.permissions import Actor, Role
from kairos_messaging import Bus, ConsumerLost
from kairos_ops.bootstrap import Observability, build_app
from kairos_ops.settings import Settings
from kairos_testkit.databases import Provisioned

pytestmark = pytest.mark.servers

ACME, OTHER = UUID(int=1), UUID(int=2)
DEADLINE_S = 15.0


class Callers:
    """Authenticator of the test: the bearer token names the caller."""

    def __init__(self) -> None:
        self.actors: dict[str, Actor] = {}

    def add(self, name: str, role: Role, organisation: UUID = ACME) -> Actor:
        actor = Actor(
            kind="member", id=str(uuid4()), organisation_id=organisation, role=role, session_id=uuid4()
        )
        self.actors[name] = actor
        return actor

    async def authenticate(self, connection: HTTPConnection) -> Actor | None:
        return self.actors.get(connection.headers.get("authorization", "").removeprefix("Bearer "))


class Target:
    """A service to watch, whose health the test decides."""

    def __init__(self) -> None:
        self.status = 200
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/health", self._health)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    async def _health(self, _: web.Request) -> web.Response:
        checks = [{"name": "postgres", "healthy": self.status == 200, "required": True}]
        status = "up" if self.status == 200 else "down"
        return web.json_response({"status": status, "checks": checks}, status=self.status)


@dataclass
class Running:
    url: str
    parts: Observability
    callers: Callers
    http: aiohttp.ClientSession
    other: Bus
    target: Target
    settings: Settings

    async def call(self, method: str, path: str, caller: str = "admin", **more: Any) -> tuple[int, Any]:
        headers = {"authorization": f"Bearer {caller}"}
        async with self.http.request(method, self.url + path, headers=headers, **more) as answer:
            return answer.status, await answer.json(content_type=None)

    async def publish(self, message: Message, organisation: UUID | None = ACME, **more: Any) -> None:
        await self.other.publish(message, organisation_id=organisation, **more)

    @asynccontextmanager
    async def socket(self, caller: str = "admin", *topics: dict[str, Any]) -> AsyncIterator[ClientConnection]:
        _, body = await self.call("POST", "/tickets", caller)
        address = self.url.replace("http", "ws") + f"/ws?ticket={body['ticket']}"
        async with connect(address) as opened:
            assert (await frame(opened))["t"] == "hello"
            for topic in topics:
                await opened.send(json.dumps({"t": "sub"} | topic))
                while (await frame(opened))["t"] != "ready":
                    pass
            yield opened


async def frame(opened: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(DEADLINE_S):
        received: dict[str, Any] = json.loads(await opened.recv())
    return received


async def eventually(look: Callable[[], Awaitable[Any]]) -> Any:
    """What `look` returns as soon as that is true; fails at the deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not (found := await look()):  # noqa: ASYNC110 - other processes set what is looked for
            await asyncio.sleep(0.05)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def database_url(provisioned: Provisioned) -> str:
    return provisioned.service_database("kairos_ops")


@asynccontextmanager
async def serving(settings: Settings, callers: Callers) -> AsyncIterator[Observability]:
    app = build_app(settings, authenticator=callers)
    config = uvicorn.Config(
        app, host=settings.host, port=settings.port, log_config=None, ws="websockets-sansio"
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    parts: Observability = app.state.parts

    async def ready() -> bool:
        assert not task.done()
        try:
            await parts.bus.check()
        except ConsumerLost:
            return False
        return server.started

    await eventually(ready)
    try:
        yield parts
    finally:
        server.should_exit = True
        await task


@pytest.fixture
async def running(database_url: str, broker_url: str, redis_url: str) -> AsyncIterator[Running]:
    target, callers = Target(), Callers()
    await target.start()
    settings = Settings(
        port=free_port(),
        postgres_url=database_url,
        amqp_url=broker_url,
        redis_url=redis_url,
        auth_url="http://127.0.0.1:1",
        service_secret="s",
        targets={"llm-router": target.url},
        look_every_s=0.1,
    )
    callers.add("admin", Role.ADMIN)
    callers.add("viewer", Role.VIEWER)
    callers.add("stranger", Role.ADMIN, OTHER)
    other = Bus(broker_url, service="bot-worker")
    async with serving(settings, callers) as parts, aiohttp.ClientSession() as http:
        await other.start()
        yield Running(f"http://127.0.0.1:{settings.port}", parts, callers, http, other, target, settings)
        await other.stop()
    await target.stop()


def opened_turn() -> TurnOpenedV1:
    return TurnOpenedV1(
        turn_id=uuid4(),
        conversation_id=uuid4(),
        bot_id=uuid4(),
        channel="web",
        epoch=1,
        message_count=1,
        mode="gpt",
    )


def received_message() -> MessageReceivedV1:
    return MessageReceivedV1(
        bot_id=uuid4(),
        channel="telegram",
        external_update_id="1",
        external_chat_id="4412345",
        external_message_id="2",
        order=2,
        contact_external_id="4412345",
        contact_display_name="Ada",
        text="the secret words",
        sent_at=datetime.now(UTC),
    )


async def test_an_event_is_shown_live_and_stored_without_the_words_of_the_contact(running: Running) -> None:
    async with running.socket("viewer", {"topic": "events"}) as live:
        await running.publish(received_message())
        shown = await frame(live)
    assert shown["t"] == "ev"
    assert "secret words" not in json.dumps(shown)
    assert "4412345" not in json.dumps(shown)

    async def stored() -> Any:
        _, page = await running.call("GET", "/events?type=conversation.message")
        return page["items"]

    (item,) = [item for item in await eventually(stored) if item["id"] == shown["event"]["id"]]
    assert item["data"] == shown["event"]["data"]


async def test_a_redelivered_event_is_stored_once(running: Running) -> None:
    twice, marker = uuid4(), opened_turn()
    message = opened_turn()
    await running.publish(message, message_id=twice)
    await running.publish(message, message_id=twice)
    await running.publish(marker)

    async def all_stored() -> Any:
        _, page = await running.call("GET", "/events?limit=200")
        ids = [item["id"] for item in page["items"]]
        turns = [item["data"].get("turn_id") for item in page["items"]]
        return ids if str(marker.turn_id) in turns and str(twice) in ids else None

    assert (await eventually(all_stored)).count(str(twice)) == 1


async def test_organisations_are_apart_live_and_stored(running: Running) -> None:
    ours, theirs = opened_turn(), opened_turn()
    async with running.socket("stranger", {"topic": "events"}) as live:
        await running.publish(ours)
        await running.publish(theirs, OTHER)
        assert (await frame(live))["event"]["data"]["turn_id"] == str(theirs.turn_id)

    async def stored(caller: str) -> Any:
        _, page = await running.call("GET", "/events?limit=200", caller)
        return {item["data"].get("turn_id") for item in page["items"]}

    async def both() -> bool:
        return str(ours.turn_id) in await stored("admin") and str(theirs.turn_id) in await stored("stranger")

    await eventually(both)
    assert str(theirs.turn_id) not in await stored("admin") | await stored("viewer")
    assert str(ours.turn_id) not in await stored("stranger")


async def test_a_poller_gets_everything_at_least_once_page_by_page(running: Running) -> None:
    turns = [opened_turn() for _ in range(7)]
    await running.publish(turns[0])

    async def first() -> Any:
        _, page = await running.call("GET", "/events?limit=1")
        found = page["items"] and page["items"][0]["data"].get("turn_id") == str(turns[0].turn_id)
        return page if found else None

    after = (await eventually(first))["head"]
    for turn in turns[1:]:
        await running.publish(turn)
    seen: set[str] = set()

    async def poll() -> bool:
        nonlocal after
        cursor = after
        while cursor:
            _, page = await running.call("GET", f"/events?limit=3&after={cursor}")
            seen.update(item["data"].get("turn_id") for item in page["items"])
            after, cursor = page["head"], page["next_cursor"]
        return {str(turn.turn_id) for turn in turns[1:]} <= seen

    await eventually(poll)


async def test_listing_goes_back_in_time_by_cursor(running: Running) -> None:
    for _ in range(5):
        await running.publish(opened_turn())

    async def five() -> Any:
        _, page = await running.call("GET", "/events?type=conversation.turn&limit=2")
        return page["next_cursor"] and page

    page = await eventually(five)
    _, older = await running.call(
        "GET", f"/events?type=conversation.turn&limit=2&cursor={page['next_cursor']}"
    )
    assert {item["id"] for item in page["items"]}.isdisjoint(item["id"] for item in older["items"])
    assert older["items"][0]["recorded_at"] <= page["items"][-1]["recorded_at"]


@pytest.mark.parametrize("query", ["after=nonsense", "cursor=nonsense", "cursor=e30", "limit=0"])
async def test_a_cursor_of_ones_own_making_is_refused(running: Running, query: str) -> None:
    status, problem = await running.call("GET", f"/events?{query}")
    assert status in {400, 422}
    assert problem["type"].startswith("urn:kairos:problem:")


@pytest.mark.parametrize(
    ("method", "path", "caller", "status"),
    [
        ("GET", "/events", "nobody", 401),
        ("POST", "/tickets", "nobody", 401),
        ("GET", "/services", "nobody", 401),
        ("GET", "/dead-letters", "viewer", 403),
        ("GET", f"/dead-letters/{UUID(int=9)}", "admin", 404),
        ("POST", f"/dead-letters/{UUID(int=9)}/replay", "admin", 404),
        ("POST", f"/dead-letters/{UUID(int=9)}/replay", "viewer", 403),
    ],
)
async def test_every_route_asks_who_calls(
    running: Running, method: str, path: str, caller: str, status: int
) -> None:
    assert (await running.call(method, path, caller))[0] == status


async def test_a_ticket_opens_one_socket(running: Running) -> None:
    _, body = await running.call("POST", "/tickets")
    address = running.url.replace("http", "ws") + f"/ws?ticket={body['ticket']}"
    async with connect(address) as first:
        await frame(first)
        async with connect(address) as second:
            with pytest.raises(ConnectionClosed) as closed:
                await frame(second)
    assert closed.value.rcvd
    assert closed.value.rcvd.code == 4401


async def test_a_page_of_another_origin_can_not_open_the_feed(running: Running) -> None:
    _, body = await running.call("POST", "/tickets")
    address = running.url.replace("http", "ws") + f"/ws?ticket={body['ticket']}"
    with pytest.raises(InvalidStatus) as refused:
        async with connect(address, origin="https://evil.example"):
            pass
    assert refused.value.response.status_code == 403
    async with connect(address, origin=running.url) as opened:
        assert (await frame(opened))["t"] == "hello"


async def test_a_frame_that_is_none_ends_the_socket(running: Running) -> None:
    async with running.socket() as live:
        await live.send("what?")
        with pytest.raises(ConnectionClosed) as closed:
            await frame(live)
    assert closed.value.rcvd
    assert closed.value.rcvd.code == 4400


@pytest.mark.parametrize("kind", ["session", "member"])
async def test_losing_access_closes_the_socket_within_a_second(running: Running, kind: str) -> None:
    actor = running.callers.actors["viewer"]
    subject = actor.session_id if kind == "session" else UUID(actor.id)
    assert subject
    async with running.socket("viewer") as live, running.socket("admin") as untouched:
        await running.publish(AccessChangedV1(kind=kind, subject_id=subject))
        with pytest.raises(ConnectionClosed) as closed:
            async with asyncio.timeout(1):
                await live.recv()
        await untouched.send(json.dumps({"t": "ping", "at": 1}))
        assert (await frame(untouched))["t"] == "pong"
    assert closed.value.rcvd
    assert closed.value.rcvd.code == 4410


async def test_a_client_resumes_by_sequence_after_a_break(running: Running) -> None:
    first, missed = opened_turn(), opened_turn()
    epoch = running.parts.feed.epoch
    async with running.socket("admin", {"topic": "events"}) as live:
        await running.publish(first)
        while (shown := await frame(live))["event"]["type"] != first.TYPE:
            pass
    await running.publish(missed)
    resume = {"topic": "events", "types": ["conversation."], "resume": {"epoch": epoch, "seq": shown["seq"]}}
    _, body = await running.call("POST", "/tickets")
    async with connect(running.url.replace("http", "ws") + f"/ws?ticket={body['ticket']}") as live:
        await live.send(json.dumps({"t": "sub"} | resume))
        while (caught := await frame(live))["t"] != "ev":
            assert caught["t"] != "gap"
    assert caught["event"]["data"]["turn_id"] == str(missed.turn_id)


async def test_every_replica_shows_every_event(running: Running) -> None:
    settings = running.settings.model_copy(update={"port": free_port()})
    async with serving(settings, running.callers) as second:
        replica = Running(
            f"http://127.0.0.1:{settings.port}",
            second,
            running.callers,
            running.http,
            running.other,
            running.target,
            settings,
        )
        wanted = {"topic": "events", "types": ["conversation."]}
        async with running.socket("admin", wanted) as one, replica.socket("admin", wanted) as two:
            turn = opened_turn()
            await running.publish(turn)
            for live in (one, two):
                assert (await frame(live))["event"]["data"]["turn_id"] == str(turn.turn_id)


async def test_a_service_that_goes_and_comes_back_is_seen_live_stored_once_and_measured(
    running: Running,
) -> None:
    async def health(expected: str) -> Any:
        status, body = await running.call("GET", "/services", "viewer")
        assert status == 200
        found = {service["service"]: service for service in body["services"]}.get("llm-router")
        return found if found and found["health"] == expected else None

    await eventually(lambda: health("up"))
    async with (
        running.socket("viewer", {"topic": "services"}) as states,
        running.socket("admin", {"topic": "events", "types": ["ops."]}) as events,
    ):
        running.target.status = 503
        found = await eventually(lambda: health("degraded"))
        assert found["detail"] == "failing: postgres"
        while (await frame(states))["changes"]["llm-router"]["health"] != "degraded":
            pass
        changed = await frame(events)
        while changed["event"]["data"]["to_health"] != "degraded":
            changed = await frame(events)
        await running.target.stop()
        await eventually(lambda: health("down"))
        assert (await frame(events))["event"]["data"]["to_health"] == "down"
    async with running.http.get(running.url + "/metrics") as answer:
        assert 'kairos_service_up{service="llm-router"} 0.0' in await answer.text()


async def test_a_message_nobody_can_read_is_kept_shown_without_its_words_and_replayed(
    running: Running,
) -> None:
    budget = BudgetChangedV1(budget_id=uuid4(), scope="bot", scope_id=uuid4(), limit_nano_usd=1, active=True)
    message_id = str(uuid4())
    headers = {
        "cloudEvents_specversion": "1.0",
        "cloudEvents_id": message_id,
        "cloudEvents_source": "bot-worker",
        "cloudEvents_type": MessageReceivedV1.TYPE,
        "cloudEvents_subject": "s",
        "cloudEvents_time": datetime.now(UTC).isoformat(),
        "organisation_id": str(ACME),
    }
    body = json.dumps({"bot_id": str(budget.budget_id), "text": "the secret words"}).encode()
    await running.other.publish_prepared(
        headers=headers, body=body, exchange="", routing_key="observability.events"
    )

    async def kept() -> Any:
        _, page = await running.call("GET", "/dead-letters?status=open")
        return next((row for row in page["items"] if row["message_id"] == message_id), None)

    letter = await eventually(kept)
    assert (letter["queue"], letter["deaths"], letter["status"]) == ("observability.events", 1, "open")
    _, detail = await running.call("GET", f"/dead-letters/{letter['id']}")
    assert detail["payload"] == {"bot_id": str(budget.budget_id), "text": "[masked]"}
    assert detail["headers"]["cloudEvents_id"] == message_id
    assert (await running.call("GET", f"/dead-letters/{letter['id']}", "stranger"))[0] == 404

    async with running.socket("admin", {"topic": "events", "types": ["audit."]}) as live:
        status, _ = await running.call("POST", f"/dead-letters/{letter['id']}/replay")
        assert status == 200
        entry = (await frame(live))["event"]["data"]
    assert entry["action"] == "dead_letter.replayed"
    assert entry["target"] == f"dead_letter:{letter['id']}"

    async def died_again() -> Any:
        row = await kept()
        return row and row["deaths"] == 2

    await eventually(died_again)


async def test_a_replayed_message_that_is_handled_this_time_stays_marked(running: Running) -> None:
    turn = opened_turn()
    envelope = Envelope.of(turn, source="bot-worker", organisation_id=ACME)
    await running.other.publish_prepared(
        headers=envelope.headers() | {"kairos-queue": "observability.events", "kairos-error-class": "Boom"},
        body=turn.model_dump_json().encode(),
        exchange="",
        routing_key="observability.dead-letters",
    )

    async def kept() -> Any:
        _, page = await running.call("GET", "/dead-letters?status=open")
        return next((row for row in page["items"] if row["message_id"] == str(envelope.id)), None)

    letter = await eventually(kept)
    assert letter["reason"] == "Boom"
    status, replayed = await running.call("POST", f"/dead-letters/{letter['id']}/replay")
    assert (status, replayed["status"]) == (200, "replayed")
    assert replayed["replayed_by"] == running.callers.actors["admin"].id

    async def stored() -> Any:
        _, page = await running.call("GET", "/events?type=conversation.turn")
        return [item for item in page["items"] if item["id"] == str(envelope.id)]

    assert len(await eventually(stored)) == 1
    assert await kept() is None


async def test_a_replay_into_a_queue_that_is_gone_is_refused(running: Running) -> None:
    headers = {"kairos-queue": "bot-worker.replica", "cloudEvents_id": (message_id := str(uuid4()))}
    await running.other.publish_prepared(
        headers=headers, body=b"not json", exchange="", routing_key="observability.dead-letters"
    )

    async def kept() -> Any:
        _, page = await running.call("GET", "/dead-letters")
        return next((row for row in page["items"] if row["message_id"] == message_id), None)

    letter = await eventually(kept)
    _, detail = await running.call("GET", f"/dead-letters/{letter['id']}")
    assert (detail["payload"], detail["type"]) == (None, "unknown")
    status, problem = await running.call("POST", f"/dead-letters/{letter['id']}/replay")
    assert (status, problem["code"]) == (409, "not_replayable")
    assert await kept()


async def test_the_service_reports_its_own_health_and_counts_its_sockets(running: Running) -> None:
    async with running.http.get(running.url + "/health") as answer:
        assert answer.status == 200
    async with running.socket(), running.http.get(running.url + "/metrics") as answer:
        assert "mcp_websocket_active_connections 1.0" in await answer.text()


async def test_without_redis_events_are_read_and_tickets_are_asked_for_again_later(
    running: Running,
) -> None:
    away = running.settings.model_copy(
        update={"port": free_port(), "redis_url": SecretStr(f"redis://127.0.0.1:{free_port()}/0")}
    )
    async with serving(away, running.callers):
        address, headers = f"http://127.0.0.1:{away.port}", {"authorization": "Bearer admin"}
        async with running.http.post(address + "/tickets", headers=headers) as answer:
            assert answer.status == 503
            assert answer.headers["retry-after"]
        async with running.http.get(address + "/events", headers=headers) as answer:
            assert answer.status == 200
        async with running.http.get(address + "/health") as answer:
            assert (answer.status, (await answer.json())["status"]) == (200, "degraded")


def test_the_database_itself_keeps_organisations_apart(provisioned: Provisioned) -> None:
    database = provisioned.database("kairos_ops")
    with psycopg.connect(database.urls["ops"]) as connection:
        connection.execute("SELECT set_config('kairos.system', 'on', true)")
        insert = (
            "INSERT INTO events (id, type, source, subject, occurred_at, organisation_id, data)"
            " VALUES (gen_random_uuid(), 't', 's', 's', now(), %s, '{}')"
        )
        for owner in (ACME, OTHER, None):
            connection.execute(insert, (owner,))
        connection.execute("SELECT set_config('kairos.system', 'off', true)")
        connection.execute("SELECT set_config('kairos.organisation_id', %s, true)", (str(ACME),))
        assert connection.execute("SELECT organisation_id FROM events").fetchall() == [(ACME,)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(insert, (OTHER,))
