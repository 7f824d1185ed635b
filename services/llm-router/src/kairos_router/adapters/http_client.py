"""HTTP/1.1 to one provider: a pool of kept-alive connections on asyncio.Protocol, parsed by httptools.

It does what a proxy needs and nothing else: POST with a body in memory, answers as bytes. Why it exists and
what it costs: docs/decisions/0011-own-upstream-client.md. Its rules of conduct: tests/test_http_client.py.
"""

import asyncio
import select
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, cast

import httptools

from kairos_router.adapters.http_answer import LONGEST_HEAD, Answer, HttpBroken, HttpFailed, HttpTimeout

KEEP_ALIVE_S: Final = 15.0
MOST_IDLE: Final = 512
# A connection idle for this long is looked at before it is used: its end may not have been noticed yet.
SUSPECT_S: Final = 1.0
# How exactly timeouts are kept. One look at all connections costs less than a timer for each answer.
TICK_S: Final = 0.1
MOST_HEADERS: Final = 200
_FINAL: Final = 200


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds. `first_byte` counts from the request to the answer's head, `idle` between two pieces."""

    connect: float
    first_byte: float
    idle: float


# The addresses of a host that may be connected to. Raises HttpFailed, OSError.
Lookup = Callable[[str, int], Awaitable[Sequence[str]]]


class Connection(asyncio.Protocol):
    """Carries one request at a time. `deadline` is the loop's time until which the provider may be silent."""

    def __init__(self, client: "HttpClient", loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._answer: Answer | None = None
        self._head_bytes = 0
        self._headers = 0
        self._until_close = False
        self._keep_alive = False
        self._whole = False
        self.deadline = 0.0
        self.idle_since = 0.0

    def hung_up(self) -> bool:
        """Whether an idle connection has something to read: its end, or what nobody asked for."""
        transport = self._transport
        if transport is None:
            return True
        poll = select.poll()
        poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def send(self, data: bytes, first_byte: float) -> Answer:
        """Begin a request. Raises HttpFailed with sent=False when the connection has gone meanwhile."""
        transport = self._transport
        if transport is None or transport.is_closing():
            raise HttpBroken("closed before the request", sent=False)
        answer = self._answer = Answer(self, self._loop)
        self._head_bytes = self._headers = 0
        self._whole = False
        self.deadline = self._loop.time() + first_byte
        transport.write(data)
        return answer

    def silent(self) -> None:
        """The deadline has passed."""
        if self._answer is not None and self._answer.waiting:
            self._fail(HttpTimeout("silent"))

    def pause(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None:
            self.deadline = self._loop.time() + self._client.patience.idle
            self._transport.resume_reading()

    def abort(self) -> None:
        self._answer = None
        self._client.drop(self)
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Close at once; whoever waits for an answer is told."""
        self._fail(HttpBroken("closed by us"))

    # --- asyncio's side ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods and not the base class.
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._client.drop(self)
        answer, self._answer = self._answer, None
        if answer is None:
            return
        if exc is None and answer.headed and self._until_close:
            answer.end()  # Without a length, the end of the connection is the end of the answer.
        else:
            answer.end(HttpBroken("the connection ended before the answer"))

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:
            # Nobody asked: whatever this is, it must not be taken for the next answer.
            self.abort()
            return
        try:
            self._parser.feed_data(data)
            if not answer.headed:
                self._head_bytes += len(data)
                if self._head_bytes > LONGEST_HEAD:
                    raise HttpBroken("a head without an end")
        except httptools.HttpParserUpgrade:
            self._fail(HttpBroken("the provider wants another protocol"))
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._fail(cause if isinstance(cause, HttpFailed) else HttpBroken("the answer is no HTTP"))
        except HttpFailed as failure:
            self._fail(failure)
        else:
            if self._whole:
                self._over(answer)

    def _over(self, answer: Answer) -> None:
        self._answer = None
        if self._keep_alive:
            self._client.release(self)
        else:
            self.abort()
        answer.end()

    def _fail(self, failure: HttpFailed) -> None:
        answer = self._answer
        self.abort()
        if answer is not None:
            answer.end(failure)

    # --- the parser's side ---

    def on_message_begin(self) -> None:
        if self._whole:
            raise HttpBroken("more than one answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers += 1
        if self._headers > MOST_HEADERS:
            raise HttpBroken("too many headers")
        answer = self._answer
        if answer is not None and not answer.headed:
            answer.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        answer, status = self._answer, self._parser.get_status_code()
        if answer is None:
            return
        if status < _FINAL:
            answer.headers.clear()  # "100 Continue" and the like: the answer itself is still to come.
            return
        headers = answer.headers
        # Without a body by its status, the answer is over with its head, whatever this says.
        self._until_close = b"content-length" not in headers and b"transfer-encoding" not in headers
        self.deadline = self._loop.time() + self._client.patience.idle
        answer.began(status)

    def on_body(self, data: bytes) -> None:
        answer = self._answer
        if answer is not None:
            # Only the answer's own bytes prove that the provider is alive.
            self.deadline = self._loop.time() + self._client.patience.idle
            answer.add(data)

    def on_message_complete(self) -> None:
        if self._answer is not None and self._answer.headed:
            self._whole = True
            # Asked here: the parser forgets it with the message.
            self._keep_alive = bool(self._parser.should_keep_alive())


class HttpClient:
    """Connections to one origin. Made in a running event loop, closed in the same."""

    def __init__(
        self,
        host: str,
        port: int,
        patience: Patience,
        *,
        tls: ssl.SSLContext | None,
        lookup: Lookup | None = None,
    ) -> None:
        self.patience = patience
        self._lookup = lookup
        self._host = host
        self._port = port
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._tick: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def unused(self) -> bool:
        """Whether there is no connection at all."""
        return not (self._busy or self._idle)

    async def send(self, request: bytes) -> Answer:
        """Send a whole request; returns when the answer's head has come. Raises HttpFailed.

        It is sent again on another connection only when not a byte of it had left.
        """
        answer = None
        while answer is None:
            connection = self._kept() or await self._connect()
            try:
                answer = connection.send(request, self.patience.first_byte)
            except HttpFailed:
                continue
        self._busy.add(connection)
        if self._tick is None:
            self._tick = self._loop.call_later(TICK_S, self._look)
        try:
            await answer.head()
        except BaseException:
            # A caller who is gone among them: closing the connection is what tells the provider to stop.
            answer.close()
            raise
        return answer

    def release(self, connection: Connection) -> None:
        """The connection's answer is complete and it may carry another."""
        self._busy.discard(connection)
        if self._closed or len(self._idle) >= MOST_IDLE:
            connection.abort()
            return
        connection.idle_since = self._loop.time()
        self._idle.append(connection)

    def drop(self, connection: Connection) -> None:
        """The connection is over."""
        self._busy.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        self._closed = True
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        for connection in (*self._idle, *self._busy):
            connection.close()

    def retire(self) -> None:
        """Take no more requests; answers under way end first."""
        self._closed = True
        for connection in tuple(self._idle):
            connection.abort()

    def _kept(self) -> Connection | None:
        """The connection used last, which is the one least likely to be closed by the provider."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            unused = self._loop.time() - connection.idle_since
            if unused <= SUSPECT_S or not connection.hung_up():
                return connection
            connection.abort()
        return None

    async def _connect(self) -> Connection:
        try:
            async with asyncio.timeout(self.patience.connect):
                if self._lookup is None:
                    return await self._connect_to(self._host)
                return await self._connect_to_one(await self._lookup(self._host, self._port))
        except (OSError, TimeoutError, UnicodeError) as error:
            raise HttpFailed(type(error).__name__, sent=False) from None

    async def _connect_to_one(self, addresses: Sequence[str]) -> Connection:
        """The first address that answers. Raises OSError."""
        for address in addresses[:-1]:
            try:
                return await self._connect_to(address)
            except OSError:
                continue
        return await self._connect_to(addresses[-1])

    async def _connect_to(self, host: str) -> Connection:
        _, connection = await self._loop.create_connection(
            lambda: Connection(self, self._loop),
            host,
            self._port,
            ssl=self._tls,
            server_hostname=self._host if self._tls else None,
        )
        return connection

    def _look(self) -> None:
        """Tell who waited too long, and let go of what nobody needs any more."""
        self._tick = None
        now = self._loop.time()
        for connection in [each for each in self._busy if each.deadline < now]:
            connection.silent()
        for connection in [each for each in self._idle if now - each.idle_since > KEEP_ALIVE_S]:
            connection.abort()
        if self._busy or self._idle:
            self._tick = self._loop.call_later(TICK_S, self._look)
