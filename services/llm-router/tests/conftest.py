"""What the router's tests share: a clock to turn, budgets in memory, the service on real servers."""

import asyncio
import contextlib
import importlib
import sys
import time
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
import uvicorn

from kairos_contracts.llm.v1 import Priority
from kairos_contracts.permissions import Actor, Role
from kairos_router.adapters.litellm_upstream import LiteLLMUpstream
from kairos_router.application.choose_deployment import Chooser, Circuits
from kairos_router.application.complete_chat import CompleteChat, Dispatcher
from kairos_router.application.hold_money import LeasePolicy, Wallet
from kairos_router.application.ports import (
    BudgetExceeded,
    BudgetUnavailable,
    Grant,
    LeaseOver,
    Refusal,
    Renewal,
    RenewalRequest,
)
from kairos_router.application.stream_chat import StreamChat
from kairos_router.domain.ask import Ask, Caller, parse_ask
from kairos_router.domain.attempt import Attempt, Settlement
from kairos_router.domain.catalogue import Capability, Catalogue, Deployment, Route, Timeouts
from kairos_router.domain.lease import Scope
from kairos_router.domain.pricing import Price
from kairos_router.domain.scope_index import Key, ScopeIndex
from kairos_router.entrypoints.hot_http import HotProtocol
from kairos_router.settings import quiet_litellm
from kairos_testkit.compiled import FOLDER
from kairos_testkit.fake_provider import FakeProvider

PROJECT = Path(__file__).parents[1]
ROOT = PROJECT.parents[1]
ORGANISATION = UUID("00000000-0000-4000-8000-00000000000a")
ALL = frozenset(Capability)
USAGE, BATCH = "llm.usage.recorded.v1", "llm.usage_batch.recorded.v1"


def pytest_sessionstart() -> None:
    """A run that is meant for machine code and finds sources would prove nothing."""
    if str(ROOT / FOLDER) not in sys.path:
        return
    for name in tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["tool"]["kairos"]["compiled"]:
        module = importlib.import_module("kairos_router." + name.removesuffix(".py").replace("/", "."))
        if Path(str(module.__file__)).suffix != ".so":
            raise pytest.UsageError(f"{module.__name__} is not compiled; run: make compiled")


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class LentLease:
    lease_id: UUID
    scope: Scope
    granted: int
    settled: int = 0
    open: bool = True
    returned: int = 0
    priority: Priority | None = None


@dataclass(frozen=True)
class Truth:
    """Which scopes have budgets, as the authority knows it. Models are given by their id here."""

    index: ScopeIndex

    @property
    def version(self) -> int:
        return self.index.version

    def key_of(self, scope: Scope, priority: Priority) -> Key:
        key = self.index.key(scope, "", priority)
        models = self.index.members[-1]
        return (*key[:5], scope.model_id if scope.model_id in models else None, key[6])


class MemoryBudgets:
    """The authority with one limit over everything; `limit` None means that no budget applies."""

    def __init__(self, limit: int | None, *, ttl: float = 15.0) -> None:
        self.limit = limit
        self.ttl = ttl
        self.away = False
        self.calls: list[str] = []
        self.leases: dict[UUID, LentLease] = {}
        self.gate: asyncio.Event | None = None
        self.index = ScopeIndex.of(0, ())
        self.truth = Truth(self.index)
        self.asked: list[tuple[Scope, Priority]] = []
        self.reported: dict[UUID, RenewalRequest] = {}
        self.keep: int | None = None

    def remaining(self) -> int:
        assert self.limit is not None
        out = sum(lease.granted if lease.open else lease.settled for lease in self.leases.values())
        return self.limit - out

    async def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.gate is not None:
            await self.gate.wait()
        if self.away:
            raise BudgetUnavailable(name)

    async def scopes(self, organisation_id: UUID) -> ScopeIndex:
        if self.away:
            raise BudgetUnavailable("scopes")
        return self.index

    async def grant(
        self, scope: Scope, lease_id: UUID, *, want: int, need: int, priority: Priority = "normal"
    ) -> Grant:
        await self._called("grant")
        self.asked.append((scope, priority))
        lease = self.leases.get(lease_id)
        if lease is not None and not lease.open:
            raise LeaseOver(str(lease_id))
        if lease is None:
            granted = 0
            if self.limit is not None:
                if need > self.remaining():
                    raise BudgetExceeded(
                        Refusal(uuid4(), uuid4(), "organisation", self.remaining(), self.limit)
                    )
                granted = min(want, max(need, self.remaining() // 2))
            # The truth about chains, whatever the router believed when it asked.
            key = self.truth.key_of(scope, priority)
            lease = self.leases[lease_id] = LentLease(
                lease_id, Scope(scope.organisation_id, *key[:6]), granted, priority=key[6]
            )
        version = self.truth.version
        return Grant(
            lease_id, 1, lease.granted, self.limit is None, self.ttl, lease.scope, lease.priority, version
        )

    async def renew(self, leases: Sequence[RenewalRequest]) -> Sequence[Renewal]:
        await self._called("renew")
        return [self._renew(request) for request in leases]

    def _renew(self, request: RenewalRequest) -> Renewal:
        lease = self.leases.get(request.lease_id)
        version = self.truth.version
        self.reported[request.lease_id] = request
        if lease is None:
            return Renewal(request.lease_id, "unknown", 0, 0, version)
        if not lease.open:
            return Renewal(request.lease_id, "expired", 0, 0, version)
        lease.granted -= max(0, request.returned - lease.returned)
        lease.returned = max(lease.returned, request.returned)
        more = 0
        if self.limit is not None:
            more = min(request.want_more, self.remaining() // 2)
            lease.granted += more
        lease.settled = request.settled
        return Renewal(request.lease_id, "ok", more, self.ttl, version, self.keep)

    async def close(self, lease_id: UUID, *, epoch: int, settled: int) -> None:
        await self._called("close")
        lease = self.leases.get(lease_id)
        if lease is not None:
            lease.open, lease.settled = False, settled

    def limits(self, *scopes: tuple[str, UUID, bool], told: bool = True) -> None:
        """Give these scopes budgets of their own. Not `told`: routers go on with the old index."""
        self.truth = Truth(ScopeIndex.of(self.truth.version + 1, scopes))
        if told:
            self.index = self.truth.index


@dataclass
class Ended:
    attempt: Attempt
    settlement: Settlement


@dataclass
class MemoryJournal:
    """Everything that was written about attempts, in order."""

    sent: list[Attempt] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)

    async def dispatched(self, attempt: Attempt) -> None:
        self.sent.append(attempt)

    async def failed(self, attempt: Attempt, settlement: Settlement) -> None:
        self.ended.append(Ended(attempt, settlement))

    async def answered(self, attempt: Attempt, settlement: Settlement, reply: Any) -> None:
        self.ended.append(Ended(attempt, settlement))

    def abandoned(self, attempt: Attempt, settlement: Settlement) -> None:
        self.ended.append(Ended(attempt, settlement))

    def outcomes(self) -> list[tuple[str, str]]:
        return [(each.attempt.deployment.name, each.settlement.outcome) for each in self.ended]


class FixedCatalogue:
    def __init__(self, *deployments: Deployment, routes: dict[str, tuple[str, ...]] | None = None) -> None:
        names = {each.name: each for each in deployments}
        routes = routes or {"default": tuple(names)}
        self.value = Catalogue(names, {name: Route(name, members) for name, members in routes.items()})

    def current(self, organisation_id: UUID | None = None) -> Catalogue:
        return self.value


@dataclass
class Bench:
    """The use cases over given providers, with everything in memory."""

    wallet: Wallet
    budgets: MemoryBudgets
    journal: MemoryJournal
    circuits: Circuits
    complete: CompleteChat
    stream: StreamChat
    caller: Caller

    async def ask(self, ask: Ask, **more: Any) -> Any:
        return await self.complete(ask, self.caller, uuid4(), self.journal, **more)

    async def open(self, ask: Ask) -> Any:
        return await self.stream(ask, self.caller, uuid4(), self.journal)

    def free(self) -> list[int]:
        return [lease.balance.held for lease in self.wallet.leases()]


def make_bench(
    catalogue: FixedCatalogue, providers: dict[str, Any], budgets: MemoryBudgets, clock: Any = time.monotonic
) -> Bench:
    wallet = Wallet(budgets, LeasePolicy(slice_nano_usd=1_000_000), clock=clock)
    circuits = Circuits(clock=clock)
    dispatcher = Dispatcher(Chooser(catalogue, wallet, circuits), wallet, circuits, providers, clock=clock)
    return Bench(
        wallet,
        budgets,
        MemoryJournal(),
        circuits,
        CompleteChat(dispatcher),
        StreamChat(dispatcher),
        Caller(Scope(ORGANISATION)),
    )


def make_deployment(name: str = "paid", *, price: tuple[int, int] = (100, 400), **more: Any) -> Deployment:
    """`price` in nano-USD per token."""
    values: dict[str, Any] = {
        "kind": "openai",
        "model": f"model-of-{name}",
        "price": Price("test", price[0] * 1_000_000, price[1] * 1_000_000),
        "context_window": 32_000,
        "max_output_tokens": 256,
        "capabilities": ALL,
        "input_margin": 0,
        "timeouts": Timeouts(connect=2.5, first_byte=2.5, idle=2.5),
    }
    return Deployment(name=name, **(values | more))


def make_ask(text: str = "hello", **fields: Any) -> Ask:
    payload = {"model": "default", "messages": [{"role": "user", "content": text}], **fields}
    return parse_ask(payload, len(str(payload)))


async def until(condition: Callable[[], Any], timeout: float = 30.0) -> Any:
    """Wait for a truthy answer; `condition` may be a coroutine function."""
    end = time.monotonic() + timeout
    while True:
        answer = condition()
        answer = await answer if isinstance(answer, Awaitable) else answer
        if answer:
            return answer
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.02)


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """The helpers above: modules of a test folder can't import each other."""
    return SimpleNamespace(
        Clock=Clock,
        Budgets=MemoryBudgets,
        Journal=MemoryJournal,
        Catalogue=FixedCatalogue,
        bench=make_bench,
        deployment=make_deployment,
        ask=make_ask,
        until=until,
        serving=serving,
        watching=watching,
        organisation=ORGANISATION,
    )


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider() as running:
        yield running


class Keys:
    """API keys by their text, as RemoteAuthenticator would know them. `cold` hides them from `cached`."""

    def __init__(self) -> None:
        self.actors: dict[str, Actor] = {}
        self.cold = False
        self.resolved = 0

    def add(self, key: str, role: Role = Role.DEVELOPER, **more: Any) -> Actor:
        actor = Actor("api_key", str(uuid4()), key, more.pop("organisation_id", ORGANISATION), role, **more)
        self.actors[key] = actor
        return actor

    def cached(self, credential: str) -> Actor | None:
        return None if self.cold else self.actors.get(credential)

    async def resolve(self, credential: str) -> Actor | None:
        self.resolved += 1
        return self.actors.get(credential)

    def forget_all(self) -> None:
        """Nothing is cached."""

    async def authenticate(self, connection: Any) -> Actor | None:
        return self.actors.get(connection.headers.get("authorization", "").removeprefix("Bearer "))

    def forget(self, kind: str, subject_id: UUID) -> None:
        self.actors = {key: actor for key, actor in self.actors.items() if actor.id != str(subject_id)}


@contextlib.asynccontextmanager
async def serving(app: Any, http: Any = HotProtocol, keep_alive_s: int = 5) -> AsyncIterator[str]:
    """The application on a port of its own, in this event loop; yields its address."""
    config = uvicorn.Config(
        app,
        port=0,
        log_config=None,
        lifespan="on",
        access_log=False,
        http=http,
        timeout_keep_alive=keep_alive_s,
    )
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign] # signals belong to pytest
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started or task.done())
    if task.done():
        task.result()
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await task


CATALOGUE = """
price_version = "test-1"

[deployments.simulator]
kind = "simulator"
model = "simulator-1"
price = {{ input = 100, output = 400 }}
context_window = 32_000
max_output_tokens = 256
capabilities = ["streaming", "tools", "json"]

[deployments.first]
kind = "openai"
model = "model-of-first"
base_url = "{first}"
price = {{ input = 100, output = 400 }}
context_window = 32_000
max_output_tokens = 256
capabilities = ["streaming", "tools", "json", "json_schema", "vision"]
timeouts = {{ connect = {patience}, first_byte = {patience}, idle = {patience} }}

[deployments.second]
kind = "openai"
model = "model-of-second"
base_url = "{second}"
price = {{ input = 50, output = 200 }}
context_window = 32_000
max_output_tokens = 256
capabilities = ["streaming", "tools", "json", "json_schema", "vision"]
timeouts = {{ connect = {patience}, first_byte = {patience}, idle = {patience} }}

[deployments.free]
kind = "openai"
model = "model-of-free"
base_url = "{second}"
price = {{ input = 0, output = 0 }}
context_window = 32_000
max_output_tokens = 256
capabilities = ["streaming"]

[routes.default]
deployments = ["first", "second"]

[routes.with-local]
deployments = ["first", "free"]
"""


@dataclass
class Service:
    """A running llm-router with budgets and callers in memory, everything else real."""

    router: Any
    url: str
    keys: Keys
    budgets: MemoryBudgets
    first: FakeProvider
    second: FakeProvider
    events: "Events"

    @property
    def v1(self) -> str:
        return f"{self.url}/v1"


class Events:
    """What llm-router published, by a queue of the test's own."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any], dict[str, Any]]] = []

    def bodies(self, type_name: str) -> list[dict[str, Any]]:
        return [body for name, body, _ in self.seen if name == type_name]

    async def expect(self, type_name: str, count: int = 1, timeout: float = 30.0) -> list[dict[str, Any]]:
        await until(lambda: len(self.bodies(type_name)) >= count, timeout)
        return self.bodies(type_name)


@contextlib.asynccontextmanager
async def watching(amqp_url: str) -> AsyncIterator[Events]:
    import aio_pika
    import orjson

    events = Events()

    async def read(message: Any) -> None:
        async with message.process():
            body = orjson.loads(message.body)
            # Records of a batch are seen one by one, as if each had come alone.
            records = body["records"] if message.routing_key == BATCH else (body,)
            name = USAGE if message.routing_key == BATCH else message.routing_key
            events.seen.extend((name, record, dict(message.headers)) for record in records)

    connection = await aio_pika.connect(amqp_url)
    async with connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange("kairos.events", ensure=False)
        queue = await channel.declare_queue(exclusive=True)
        for topic in ("llm.#", "cache.#"):
            await queue.bind(exchange, topic)
        await queue.consume(read)
        yield events


@pytest.fixture
def service_of(
    provisioned: Any, broker_url: str, redis_url: str, tmp_path: Path
) -> Callable[..., contextlib.AbstractAsyncContextManager[Service]]:
    """Start a service: `async with service_of(limit=…, settings…) as service`.

    `patience` is how many seconds it waits for a provider; not `ready`: it has not read its database yet.
    """
    from kairos_router.bootstrap import Router, build_app
    from kairos_router.settings import Settings

    database_url = provisioned.service_database("kairos_router", "router")

    @contextlib.asynccontextmanager
    async def start(
        *,
        limit: int | None = None,
        budgets: Any = None,
        patience: float = 10.0,
        ready: bool = True,
        **more: Any,
    ) -> AsyncIterator[Service]:
        with FakeProvider() as first, FakeProvider() as second:
            file = tmp_path / "kairos.toml"
            file.write_text(CATALOGUE.format(first=first.url, second=second.url, patience=patience))
            values: dict[str, Any] = {
                "postgres_url": database_url,
                "amqp_url": broker_url,
                "redis_url": redis_url,
                "auth_url": "http://127.0.0.1:9",
                "service_secret": "unused",
                "budget_url": "http://127.0.0.1:9",
                "config_file": file,
                "lease_slice_nano_usd": 1_000_000,
                "lease_heartbeat_s": 0.2,
                "worker_poll_s": 0.1,
                "shutdown_grace_s": 4,
            }
            keys, authority = Keys(), budgets or MemoryBudgets(limit)
            router = Router(Settings(**(values | more)), authenticator=keys, budgets=authority)
            async with serving(build_app(router)) as url:
                await until(lambda: _healthy(router, ready=ready))
                async with watching(broker_url) as events:
                    yield Service(router, url, keys, authority, first, second, events)

    return start


async def _healthy(router: Any, *, ready: bool) -> bool:
    try:
        await router.bus.check()
        if ready:
            await router.catalogue.check()
            await router.quotas.check()
    except Exception:  # noqa: BLE001 - whatever is not ready yet, the answer is: not yet
        return False
    return True


@pytest.fixture(scope="module")
async def sdk() -> AsyncIterator[LiteLLMUpstream]:
    upstream = LiteLLMUpstream(quiet_litellm)
    await upstream.warm()
    yield upstream
    await upstream.close()
