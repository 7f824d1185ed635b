"""The HTTP server's side of /v1: uvicorn's connections, without ASGI's scopes, events and tasks per request.

uvicorn keeps connections, parses, pipelines and shuts down as for all other paths. What is replaced is the
part that runs per request: one write for a whole answer, no task that waits for the caller to go away, no
dictionaries. Figures: docs/decisions/0012-v1-past-asgi.md. Rules of conduct: tests/test_hot_http.py.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, cast
from urllib.parse import unquote

from uvicorn.config import Config
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle
from uvicorn.server import ServerState

from kairos_router.entrypoints.openai_errors import Header, envelope
from kairos_telemetry import get_logger
from kairos_web import BoundedHeads, Problem

_log = get_logger(__name__)

# Between two pieces of a body; a caller who takes longer is taken for gone.
BODY_S = 60.0

_BELOW = b"/v1/"
_AT = b"/v1"


class ClientGone(Exception):  # noqa: N818 - reads as the fact it states
    """The caller went away before the request was complete; there is nobody to answer."""


class TooLarge(Exception):  # noqa: N818 - reads as the fact it states
    """The body is larger than allowed; the request is refused and nothing of it kept."""


class Wire:
    """One request and the way back to its caller.

    To uvicorn's protocol it is a RequestResponseCycle and that cycle's message event in one: the names
    without an underscore that nothing here reads are theirs.
    """

    __slots__ = (
        "_armed",
        "_protocol",
        "_unsent",
        "_waiter",
        "body",
        "chunked",
        "client_gone",
        "disconnected",
        "expects",
        "flow",
        "headers",
        "keep_alive",
        "method",
        "more_body",
        "on_response",
        "path",
        "response_complete",
        "started",
        "task",
    )

    def __init__(self, protocol: "HotProtocol", method: str, path: str, *, modern: bool) -> None:
        self.method = method
        self.path = path
        self.headers: list[Header] = protocol.headers
        self.keep_alive = modern and protocol.parser.should_keep_alive()
        self.chunked = modern
        self.expects = protocol.expect_100_continue
        self.flow: FlowControl = protocol.flow
        self.body = bytearray()
        self.more_body = True
        self.disconnected = False
        self.started = False
        self.response_complete = False
        self.client_gone = False
        self.on_response: Callable[[], None] = protocol.on_response_complete
        self._protocol = protocol
        self._armed = False
        self.task: asyncio.Task[Any] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._unsent = b""

    @property
    def message_event(self) -> "Wire":
        # Kept as a field, each request would be a reference cycle and wait for the garbage collector.
        return self

    @property
    def peer(self) -> str | None:
        """The caller's address, by a trusted proxy's word when there is one in between."""
        return self._protocol.address_of(self.headers)

    # --- reading ---

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises TooLarge, ClientGone."""
        if self.more_body and self.expects and not self.disconnected:
            self._protocol.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while self.more_body and len(self.body) <= limit:
            if self.disconnected:
                raise ClientGone
            self.flow.resume_reading()
            self._waiter = self._protocol.loop.create_future()
            try:
                async with asyncio.timeout(BODY_S):
                    await self._waiter
            except TimeoutError:
                raise ClientGone from None
        # Paused by a large body, the connection would not tell that its caller has gone.
        self.flow.resume_reading()
        if len(self.body) > limit:
            self.body = bytearray()
            raise TooLarge
        if self.disconnected:
            raise ClientGone
        return bytes(self.body)

    def watch(self) -> None:
        """From here on the caller's going away cancels the request's task, until the answer is complete."""
        self._armed = True
        if self.disconnected:
            self.set()

    def disarm(self) -> None:
        self._armed = False

    def set(self) -> None:
        """Something has come: more of the body, its end, or the end of the connection."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self.disconnected and self._armed and self.task is not None:
            self._armed = False
            self.client_gone = True
            self.task.cancel()

    # --- answering ---

    def answer(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        """Send a whole answer. It fits the socket's buffer, or stays in ours: nobody waits for it."""
        self._armed = False
        head = self._head(status, headers, b"content-length: %d\r\n" % len(body))
        self._write(head if self.method == "HEAD" else head + body)
        self._over()

    def begin(self, status: int, headers: Sequence[Header]) -> None:
        """Begin an answer of unknown length; `piece` and then `end` follow."""
        framing = b"transfer-encoding: chunked\r\n" if self.chunked else b""
        self.keep_alive = self.keep_alive and self.chunked
        # It leaves with the first piece, which whoever begins has already.
        self._unsent = self._head(status, headers, framing)

    def piece(self, data: bytes) -> Awaitable[None] | None:
        """More of the answer. Wait for what is returned, if anything: the caller reads slowly."""
        self._write(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)
        return self.flow.drain() if self.flow.write_paused and not self.disconnected else None

    def end(self) -> None:
        self._armed = False
        self._write(b"0\r\n\r\n" if self.chunked else b"")
        self._over()

    def _head(self, status: int, headers: Sequence[Header], framing: bytes) -> bytes:
        self.started = True
        lines = b"\r\n".join([b": ".join(header) for header in headers])
        breaks = len(headers) - 1 if headers else 0
        if lines.count(b"\n") != breaks or lines.count(b"\r") != breaks:
            raise ValueError("a header with a line break in it")
        end = b"\r\n\r\n" if headers else b"\r\n"
        close = b"" if self.keep_alive else b"connection: close\r\n"
        return b"%b%b%b%b%b%b" % (STATUS_LINE[status], self._protocol.fixed(), framing, close, lines, end)

    def _write(self, data: bytes) -> None:
        if self._unsent:
            data, self._unsent = self._unsent + data, b""
        if data and not self.disconnected:
            self._protocol.transport.write(data)

    def _over(self) -> None:
        self.response_complete = True
        if not self.keep_alive and not self.disconnected:
            self._protocol.transport.close()
        self.on_response()

    # --- uvicorn's side ---

    async def run_asgi(self, handler: "Handler") -> None:
        """Run the request to its end; whatever goes wrong, the connection does not hang."""
        try:
            await handler(self)
        except Exception:  # noqa: BLE001 - logged with its trace; the handler answers what it foresaw itself
            _log.exception("v1_connection_broken", path=self.path)
        finally:
            self.on_response = _nothing
            self._protocol.tasks.discard(self.task)
            self.task = None
            if not self.response_complete and not self.disconnected:
                self._protocol.transport.close()


Handler = Callable[[Wire], Awaitable[None]]


class HotApp(Protocol):
    """An ASGI application that handles /v1 itself."""

    v1: Handler


class HotProtocol(BoundedHeads):
    """uvicorn's connection, whose requests to /v1 are Wires."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._handler: Any = cast("HotApp", config.app).v1
        self._trusted = ProxyHeadersMiddleware(config.loaded_app, config.forwarded_allow_ips).trusted_hosts
        self._running: object = None
        self._dated: list[tuple[bytes, bytes]] | None = None
        self._fixed = b""
        self._idle_since = 0.0
        self.url = b""

    def fixed(self) -> bytes:
        """What every answer carries: uvicorn renews the date once a second."""
        current = self.server_state.default_headers
        if current is not self._dated:
            self._dated = current
            self._fixed = b"".join([b"%b: %b\r\n" % header for header in current])
        return self._fixed

    def on_message_begin(self) -> None:
        # ASGI's scope is made for those requests only that need one.
        self.head_begins()
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        # As the classes above do, without a call for each of them and each line of a head.
        if self._in_head:
            name = name.lower()
            if name == b"expect":
                self.expect_100_continue = value.lower() == b"100-continue"
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.head_ends()
        path = self.url.partition(b"?")[0]
        hot = path.startswith(_BELOW) or path == _AT
        if not hot or (self.parser.should_upgrade() and self._should_upgrade()):
            self._by_asgi()
            return
        modern = self.parser.get_http_version() != "1.0"
        wire = Wire(self, self.parser.get_method().decode("ascii"), _text(path), modern=modern)
        # None before the first request, whatever uvicorn's annotation says.
        before: RequestResponseCycle | None = self.cycle
        # A Wire has what the protocol uses of a cycle.
        self.cycle = cast("RequestResponseCycle", wire)
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self._handler)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self._handler))

    def refusal(self, problem: Problem) -> tuple[str, bytes]:
        if self.url.startswith(_BELOW):
            return "application/json", envelope(problem.title, "invalid_request_error", problem.code)
        return super().refusal(problem)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._look_later(self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if not self._idle_since:
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._look_later(left)
        else:
            super().timeout_keep_alive_handler()

    def _unset_keepalive_if_required(self) -> None:
        # The timer goes on: a timer stopped and started for each request costs more than a look in vain.
        self._idle_since = 0.0

    def _look_later(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        super()._unset_keepalive_if_required()
        # uvicorn tells the request that came last; the one being answered may be an earlier one.
        running = self._running
        if isinstance(running, Wire) and not running.response_complete and not running.disconnected:
            running.disconnected = True
            running.set()

    def address_of(self, headers: list[Header]) -> str | None:
        """The caller's address as uvicorn's middleware would find it."""
        peer = self.client[0] if self.client else None
        if peer is None or peer not in self._trusted:
            return peer
        forwarded = b", ".join([value for name, value in headers if name == b"x-forwarded-for"])
        host, _ = (
            self._trusted.get_trusted_client_address(forwarded.decode("latin-1")) if forwarded else ("", 0)
        )
        return host or peer

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        wire: object = cycle
        self._running = wire
        if not isinstance(wire, Wire):
            super()._start_asgi_task(cycle, app)
            return
        # As uvicorn does, but the request keeps its task, which asking for the current one costs more than,
        # and strikes it off itself: a callback would be a turn of the loop of its own.
        task = self.loop.create_task(wire.run_asgi(app))
        wire.task = task
        self.tasks.add(task)

    def _by_asgi(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        super().on_headers_complete()


def _text(path: bytes) -> str:
    text = path.decode("latin-1")
    return unquote(text) if "%" in text else text


def _nothing() -> None:
    """A response that was broken off starts no further request of its connection."""
