"""What a request to /v1 costs without sockets: `python services/llm-router/tests/measure_hot_path.py`.

Prints microseconds of CPU per plain request and per stream of 20 events, from the bytes a caller sends to
the bytes it gets: uvicorn's parser, key, quotas (requests, tokens, concurrency), hold, the request to the
provider, its answer, settlement, usage batches, metrics. Provider, budgets, counts and broker are in memory.
It is the fastest of many short rounds, so that other work on the machine does not show. `--profile plain`
or `--profile stream` prints where the time goes instead.
"""

import argparse
import asyncio
import cProfile
import gc
import hashlib
import pstats
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import orjson
import uvicorn
import uvloop
from uvicorn.server import ServerState

from kairos_contracts.permissions import Actor, Permission, Role
from kairos_router.adapters.genai import Traced
from kairos_router.adapters.http_client import Connection
from kairos_router.adapters.openai_upstream import OpenAIUpstream
from kairos_router.adapters.translated_responses import TranslatedResponses
from kairos_router.adapters.usage_journal import UsageJournal
from kairos_router.application.choose_deployment import Chooser, Circuits
from kairos_router.application.complete_chat import CompleteChat, Dispatcher
from kairos_router.application.hold_money import LeasePolicy, Wallet
from kairos_router.application.limit_requests import Quotas
from kairos_router.application.ports import Grant, Renewal, RenewalRequest
from kairos_router.application.quota_ports import Claim, Share, Taken
from kairos_router.application.stream_chat import StreamChat
from kairos_router.domain.catalogue import Capability, Catalogue, Deployment, Route
from kairos_router.domain.lease import Scope
from kairos_router.domain.pricing import Price
from kairos_router.domain.quota import Metric, Quota, QuotaScope, Window
from kairos_router.domain.scope_index import ScopeIndex
from kairos_router.entrypoints.chat import CHAT, Chat
from kairos_router.entrypoints.completions import Completions
from kairos_router.entrypoints.credentials import Gate
from kairos_router.entrypoints.hot_http import HotProtocol
from kairos_router.entrypoints.openai_api import OpenAIApi
from kairos_router.entrypoints.operations import Operation

KEY = "key-of-a-developer"
ORGANISATION = uuid4()
PLENTY = 10**15
CONNECTIONS = 16
EVENTS = 20
GARBAGE_THRESHOLDS = (20_000, 20, 20)
QUESTION = "When does my parcel arrive? It was sent on Monday from Ankara."
ANSWER = "Your parcel left Ankara on Monday evening and reaches you on Thursday between nine and noon."
HEAD = {"id": "chatcmpl-measure", "created": 1_767_225_600, "model": "model-1"}
USED = {"prompt_tokens": 24, "completion_tokens": 20, "total_tokens": 44}


def request_for(*, stream: bool) -> bytes:
    messages = [{"role": "user", "content": QUESTION}]
    body = orjson.dumps({"model": "default", "messages": messages, "max_tokens": 64, "stream": stream})
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _plain() -> list[bytes]:
    choice = {"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}
    body = orjson.dumps({**HEAD, "object": "chat.completion", "choices": [choice], "usage": USED})
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return [head.encode() + body]


def _events() -> list[bytes]:
    def chunk(choices: list[Any], **more: Any) -> bytes:
        return b"data: " + orjson.dumps({**HEAD, "choices": choices, **more}) + b"\n\n"

    def framed(data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data)

    pieces = [framed(chunk([{"index": 0, "delta": {"content": f" word{n}"}}])) for n in range(EVENTS)]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    pieces[0] = head + pieces[0]
    pieces[-1] += framed(chunk([], usage=USED) + b"data: [DONE]\n\n") + b"0\r\n\r\n"
    return pieces


PLAIN, STREAM = _plain(), _events()


class Transport:
    """A socket that is none: what is written is given to `written` at once."""

    def __init__(self, written: Callable[[bytes], None]) -> None:
        self.write = written
        # Asked by the router's client whether a connection that was idle for long has ended.
        self._ends = socket.socketpair()

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self._ends[0] if name == "socket" else default

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing is open."""

    abort = pause_reading = resume_reading = close


class Provider:
    """Answers what the router's client sends, one piece a turn of the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, client: Any) -> None:
        self._loop = loop
        self._connection = Connection(client, loop)
        self._connection.connection_made(Transport(self._asked))  # type: ignore[arg-type] # has what is used
        self._left: list[bytes] = []
        client.release(self._connection)

    def _asked(self, request: bytes) -> None:
        self._left = list(STREAM if b'"stream":true' in request else PLAIN)
        self._loop.call_soon(self._send)

    def _send(self) -> None:
        piece = self._left.pop(0)
        if self._left:
            self._loop.call_soon(self._send)
        self._connection.data_received(piece)


class Callers:
    """Keep-alive connections whose next request follows each answer."""

    def __init__(self, config: uvicorn.Config) -> None:
        self._loop = asyncio.get_running_loop()
        state = ServerState()
        state.default_headers = [(b"date", b"Sun, 22 Nov 2026 00:00:00 GMT")]
        self.protocols = [HotProtocol(config, state, {}, self._loop) for _ in range(CONNECTIONS)]
        for protocol in self.protocols:
            protocol.connection_made(Transport(self._answered(protocol)))  # type: ignore[arg-type] # as above
        self._request, self._left, self._running = b"", 0, 0
        self._over = asyncio.Event()

    def _answered(self, protocol: HotProtocol) -> Callable[[bytes], None]:
        def written(data: bytes) -> None:
            if data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 200"):
                raise SystemExit(data.decode())
            if data.endswith(b"0\r\n\r\n") or b"content-length: " in data[:200]:
                self._loop.call_soon(self._next, protocol)

        return written

    def _next(self, protocol: HotProtocol) -> None:
        if self._left <= 0:
            self._running -= 1
            if not self._running:
                self._over.set()
            return
        self._left -= 1
        protocol.data_received(self._request)

    async def ask(self, request: bytes, count: int) -> None:
        self._request, self._left, self._running = request, count, len(self.protocols)
        self._over.clear()
        for protocol in self.protocols:
            self._next(protocol)
        await self._over.wait()


class Generous:
    """An authority of money that grants everything, for the chains its index knows."""

    def __init__(self, index: ScopeIndex) -> None:
        self.index = index

    async def scopes(self, organisation_id: UUID) -> ScopeIndex:
        return self.index

    async def grant(
        self, scope: Scope, lease_id: UUID, *, want: int, need: int, priority: str = "normal"
    ) -> Grant:
        key = self.index.key(scope, "model-1", "normal")
        return Grant(lease_id, 1, PLENTY, False, 1e9, Scope(scope.organisation_id, *key[:6]), key[6], 1)

    async def renew(self, leases: Sequence[RenewalRequest]) -> Sequence[Renewal]:
        return [Renewal(lease.lease_id, "ok", 0, 1e9) for lease in leases]

    async def close(self, lease_id: UUID, *, epoch: int, settled: int) -> None:
        """Nothing is kept."""


class Counts:
    """An authority of quotas that grants what is wanted."""

    async def take(
        self, holder: str, claims: Sequence[Claim], *, epoch: str, replicas: int, returning: bool = False
    ) -> Taken:
        shares = [Share(max(each.need, each.want) + each.held, 1, 1e9, PLENTY, 1.0) for each in claims]
        return Taken("1", 1, time.time(), shares=shares)


class Rules:
    def __init__(self, *quotas: Quota) -> None:
        self._quotas = quotas

    async def all(self) -> dict[UUID, tuple[Quota, ...]]:
        return {ORGANISATION: self._quotas}

    async def of(self, organisation_id: UUID) -> tuple[Quota, ...]:
        return self._quotas


class Broker:
    async def _confirmed(self) -> None:
        """At once."""

    def publish_prepared(self, *, headers: Mapping[str, Any], body: bytes) -> Awaitable[None]:
        return self._confirmed()


class Fixed:
    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def current(self, organisation_id: UUID | None = None) -> Catalogue:
        return self._catalogue


class Keys:
    """One API key, found by its digest as RemoteAuthenticator does."""

    def __init__(self, key: str, actor: Actor) -> None:
        self._known = {hashlib.sha256(key.encode()).digest(): actor}

    def cached(self, credential: str) -> Actor | None:
        return self._known.get(hashlib.sha256(credential.encode()).digest())

    async def resolve(self, credential: str) -> Actor | None:
        return self.cached(credential)


def _quotas() -> Quotas:
    most = 10**12
    return Quotas(
        Counts(),
        Rules(
            Quota(uuid4(), ORGANISATION, QuotaScope.API_KEY, None, Metric.REQUESTS, most, Window.MINUTE),
            Quota(uuid4(), ORGANISATION, QuotaScope.ORGANISATION, None, Metric.TOKENS, most, Window.MINUTE),
            Quota(uuid4(), ORGANISATION, QuotaScope.ORGANISATION, None, Metric.CONCURRENT, 10_000, None),
        ),
        "measure",
    )


class Measured:
    """One router process without servers, its provider and its callers."""

    def __init__(self) -> None:
        capabilities = frozenset({Capability.STREAMING, Capability.TOOLS, Capability.JSON})
        self.deployment = Deployment(
            "bench",
            "openai",
            "model-1",
            Price("1", 1_000_000_000, 4_000_000_000),
            base_url="http://127.0.0.1:9/v1",
            api_key="key-of-ours",
            context_window=128_000,
            max_output_tokens=4_096,
            capabilities=capabilities,
        )
        catalogue = Fixed(Catalogue({"bench": self.deployment}, {"default": Route("default", ("bench",))}))
        actor = Actor("api_key", str(uuid4()), "", ORGANISATION, Role.DEVELOPER, project_id=uuid4())
        assert actor.project_id is not None
        budgets = Generous(ScopeIndex.of(1, [("project", actor.project_id, False)]))
        wallet = Wallet(budgets, LeasePolicy(slice_nano_usd=PLENTY))
        self.upstream = OpenAIUpstream()
        self.usage = UsageJournal(Broker())
        self.quotas = _quotas()
        circuits = Circuits()
        dispatcher = Dispatcher(
            Chooser(catalogue, wallet, circuits),
            wallet,
            circuits,
            {"openai": Traced(TranslatedResponses(self.upstream))},
        )
        completions = Completions(
            CompleteChat(dispatcher), StreamChat(dispatcher), self.usage, catalogue, lambda _: None
        )
        self.v1 = OpenAIApi(
            Gate(Keys(KEY, actor), None),
            (Operation("POST", CHAT, Permission.COMPLETIONS_CREATE, Chat(completions), "chat"),),
            completions.refusal,
            service="llm-router",
            max_body=1_000_000,
            admission=self.quotas,
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Nothing but /v1 is asked."""

    async def run(self, profile: str | None, rounds: int) -> None:
        config = uvicorn.Config(self, log_config=None, lifespan="off")
        config.load()
        config.loaded_app = self
        client = self.upstream._line(self.deployment).client
        providers = [Provider(asyncio.get_running_loop(), client) for _ in range(CONNECTIONS)]
        publishing = [asyncio.create_task(self.usage.buffer.run()) for _ in range(4)]
        upkeep = asyncio.create_task(self.quotas.keep())
        callers = Callers(config)
        for name, request, count in (
            ("plain", request_for(stream=False), 200),
            ("stream", request_for(stream=True), 60),
        ):
            await callers.ask(request, 10 * count)
            if profile is None:
                best = min([await _timed(callers, request, count) for _ in range(rounds)])
                sys.stdout.write(f"{name:<10}{best:8.1f} us of CPU a request\n")
            elif profile == name:
                with cProfile.Profile() as found:
                    await callers.ask(request, 50 * count)
                pstats.Stats(found).sort_stats("tottime").print_stats(60)
        for task in (upkeep, *publishing):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self.upstream.close()
        del providers


async def _timed(callers: Callers, request: bytes, count: int) -> float:
    started = time.process_time()
    await callers.ask(request, count)
    return (time.process_time() - started) / count * 1e6


async def main(profile: str | None, rounds: int) -> None:
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    await Measured().run(profile, rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", choices=["plain", "stream"])
    parser.add_argument("--rounds", type=int, default=100)
    given = parser.parse_args()
    uvloop.run(main(given.profile, given.rounds))
