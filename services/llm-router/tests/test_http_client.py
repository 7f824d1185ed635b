"""One suite of conduct for HTTP to providers: our client, and aiohttp as the reference it is measured by."""

import asyncio
import contextlib
import gzip
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kairos_router.adapters import http_client
from kairos_router.adapters.http_answer import HIGH_WATER, Answer, HttpBroken, HttpFailed, HttpTimeout
from kairos_router.adapters.http_client import Connection, HttpClient, Patience

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
BODY = b'{"hello":"there"}'
PATIENCE = Patience(connect=2.0, first_byte=0.5, idle=0.5)


class Server:
    """A provider that does exactly what a script says, and remembers what reached it."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.tls = tls
        self.requests: list[bytes] = []
        self.connections = 0
        self.begun = asyncio.Event()
        self.gone = asyncio.Event()
        self.port = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while (request := await _request(reader)) is not None:
                self.requests.append(request)
                self.begun.set()
                await self.script(reader, writer)
                if writer.is_closing():
                    return
        finally:
            self.gone.set()
            writer.close()


async def _request(reader: asyncio.StreamReader) -> bytes | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        return head + await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def says(*pieces: bytes, close: bool = False) -> Script:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if close:
            writer.close()

    return script


def whole(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Own:
    """Our client as the suite uses it."""

    name = "own"

    def __init__(self, port: int, patience: Patience = PATIENCE, host: str = "127.0.0.1") -> None:
        self.client = HttpClient(host, port, patience, tls=None)

    async def ask(self, body: bytes = BODY) -> tuple[int, bytes]:
        answer = await self.client.send(self.request(body))
        return answer.status, await answer.read()

    async def stream(self) -> AsyncIterator[bytes]:
        answer = await self.client.send(self.request(BODY))
        try:
            while piece := await answer.next():
                yield piece
        finally:
            answer.close()

    async def close(self) -> None:
        self.client.close()

    @staticmethod
    def request(body: bytes) -> bytes:
        return b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


class Reference:
    """aiohttp, with its failures in our words."""

    name = "aiohttp"

    def __init__(self, port: int, patience: Patience = PATIENCE, host: str = "127.0.0.1") -> None:
        self.url = f"http://{host}:{port}/v1/x"
        self.patience = patience
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=patience.connect, sock_read=min(patience.first_byte, patience.idle)
        )
        self.session = aiohttp.ClientSession(timeout=timeout, headers={"Accept-Encoding": "identity"})

    @contextlib.asynccontextmanager
    async def _sent(self, body: bytes) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self.session.post(self.url, data=body) as response:
                yield response
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise HttpFailed(str(error), sent=False) from None
        except TimeoutError:
            raise HttpTimeout("silent") from None
        except aiohttp.ClientError as error:
            raise HttpBroken(str(error)) from None

    async def ask(self, body: bytes = BODY) -> tuple[int, bytes]:
        async with self._sent(body) as response:
            return response.status, await response.read()

    async def stream(self) -> AsyncIterator[bytes]:
        async with self._sent(BODY) as response:
            try:
                while piece := await response.content.readany():
                    yield piece
            finally:
                response.close()

    async def close(self) -> None:
        await self.session.close()


@pytest.fixture(params=[Own, Reference], ids=["own", "aiohttp"])
async def opened(request: Any) -> AsyncIterator[Callable[..., Any]]:
    """Make a client of the kind under test."""
    made: list[Any] = []

    def make(port: int, *more: Any, **named: Any) -> Any:
        made.append(request.param(port, *more, **named))
        return made[-1]

    yield make
    for client in made:
        await client.close()


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (whole(b"hi"), b"hi"),
        (whole(b""), b""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n3\r\n yo\r\n0\r\n\r\n", b"hi yo"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=1\r\nhi\r\n0\r\nTrailer: t\r\n\r\n",
            b"hi",
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + whole(b"hi"), b"hi"),
        (whole(gzip.compress(b"hi" * 99), b"Content-Encoding: gzip"), b"hi" * 99),
        (whole(zlib.compress(b"hi" * 99), b"Content-Encoding: deflate"), b"hi" * 99),
    ],
    ids=["length", "empty", "chunked", "extensions-and-trailers", "after-100", "gzip", "deflate"],
)
async def test_an_answer_is_read_whole_however_it_is_framed(opened: Any, answer: bytes, body: bytes) -> None:
    async with Server(says(answer)) as server:
        assert await opened(server.port).ask() == (200, body)


async def test_an_answer_in_single_bytes_is_the_same_answer(opened: Any) -> None:
    answer = CHUNKED + b"2\r\nhi\r\n0\r\n\r\n"
    async with Server(says(*(bytes([each]) for each in answer))) as server:
        assert await opened(server.port).ask() == (200, b"hi")


async def test_without_a_length_the_end_of_the_connection_is_the_end(opened: Any) -> None:
    async with Server(says(b"HTTP/1.1 200 OK\r\n\r\nhi", close=True)) as server:
        client = opened(server.port)
        assert await client.ask() == (200, b"hi")
        assert await client.ask() == (200, b"hi")
        assert server.connections == 2


async def test_requests_one_after_another_share_a_connection(opened: Any) -> None:
    async with Server(says(whole(b"hi"))) as server:
        client = opened(server.port)
        for _ in range(3):
            await client.ask()
        assert server.connections == 1
        assert [each.endswith(BODY) for each in server.requests] == [True] * 3


async def test_streams_read_to_their_end_share_a_connection(opened: Any) -> None:
    async with Server(says(CHUNKED + b"2\r\nhi\r\n", b"0\r\n\r\n")) as server:
        client = opened(server.port)
        for _ in range(3):
            assert b"".join([piece async for piece in client.stream()]) == b"hi"
        assert server.connections == 1


async def test_an_answer_that_has_no_body_by_its_status_leaves_the_connection_free(opened: Any) -> None:
    async with Server(says(b"HTTP/1.1 204 No Content\r\n\r\n")) as server:
        client = opened(server.port)
        assert [await client.ask() for _ in range(2)] == [(204, b"")] * 2
        assert server.connections == 1


async def test_requests_at_once_have_connections_of_their_own(opened: Any) -> None:
    async with Server(says(whole(b"hi"))) as server:
        client = opened(server.port)
        answers = await asyncio.gather(*(client.ask(b"%d" % number * 100) for number in range(8)))
        assert answers == [(200, b"hi")] * 8
        assert len({request[-100:] for request in server.requests}) == 8


async def test_a_connection_the_provider_will_close_is_not_used_again(opened: Any) -> None:
    async with Server(says(whole(b"hi", b"Connection: close"))) as server:
        client = opened(server.port)
        await client.ask()
        await client.ask()
        assert server.connections == 2


async def test_a_connection_closed_while_idle_is_replaced_before_anything_is_sent(opened: Any) -> None:
    async with Server(says(whole(b"hi"), close=True)) as server:
        client = opened(server.port)
        for _ in range(3):
            assert await client.ask() == (200, b"hi")
            await asyncio.wait_for(server.gone.wait(), 5)
            server.gone.clear()
            await asyncio.sleep(0)
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"\x16\x03\x01\x02\x00garbage",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 9\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhi\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000,
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000,
    ],
    ids=["ssh", "tls", "status", "two-lengths", "chunk-size", "endless-header", "headers"],
)
async def test_what_is_no_http_is_broken_and_may_have_run(opened: Any, answer: bytes) -> None:
    async with Server(says(answer, close=True)) as server:
        with pytest.raises(HttpBroken) as caught:
            await opened(server.port).ask()
        assert caught.value.sent


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200", whole(b"hi" * 50)[:-10], CHUNKED + b"5\r\nhello\r\n", CHUNKED + b"5\r\nhe"],
    ids=["nothing", "head", "body", "chunk", "in-a-chunk"],
)
async def test_an_answer_that_ends_early_is_broken(opened: Any, answer: bytes) -> None:
    async with Server(says(answer, close=True)) as server:
        with pytest.raises(HttpBroken) as caught:
            await opened(server.port).ask()
        assert caught.value.sent
        assert len(server.requests) == 1, "a request that may have run is never sent twice"


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n", CHUNKED, CHUNKED + b"2\r\nhi\r\n"])
async def test_silence_is_a_timeout_and_closes_the_connection(opened: Any, answer: bytes) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await reader.read()

    async with Server(script) as server:
        with pytest.raises(HttpTimeout):
            await opened(server.port).ask()
        await asyncio.wait_for(server.gone.wait(), 5)


async def test_a_stream_comes_piece_by_piece(opened: Any) -> None:
    step = asyncio.Queue[None]()

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED)
        for number in range(3):
            writer.write(b"2\r\n%d\n\r\n" % number)
            await step.get()
        writer.write(b"0\r\n\r\n")

    async with Server(script) as server:
        seen = []
        async for piece in opened(server.port).stream():
            seen.append(piece)
            step.put_nowait(None)
        assert seen == [b"0\n", b"1\n", b"2\n"]


async def test_a_cancelled_request_closes_its_connection(opened: Any) -> None:
    begun = asyncio.Event()

    async def script(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        begun.set()
        await reader.read()

    async with Server(script) as server:
        task = asyncio.create_task(opened(server.port, Patience(2, 30, 30)).ask())
        await asyncio.wait_for(begun.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.gone.wait(), 5)


async def test_a_stream_let_go_in_the_middle_closes_its_connection(opened: Any) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + b"2\r\nhi\r\n")
        await reader.read()

    async with Server(script) as server:
        stream = opened(server.port, Patience(2, 30, 30)).stream()
        assert await anext(stream) == b"hi"
        await stream.aclose()
        await asyncio.wait_for(server.gone.wait(), 5)


async def test_nobody_there_means_that_nothing_was_sent(opened: Any) -> None:
    async with Server(says()) as server:
        port = server.port
    with pytest.raises(HttpFailed) as caught:
        await opened(port).ask()
    assert not caught.value.sent
    with pytest.raises(HttpFailed) as caught:
        await opened(port, PATIENCE, "no-such-host.invalid").ask()
    assert not caught.value.sent


async def test_a_slow_reader_makes_the_provider_wait(opened: Any) -> None:
    sent = 0

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.transport.set_write_buffer_limits(high=1)
        writer.write(CHUNKED)
        for _number in range(400):
            writer.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
            await writer.drain()
            sent += 65_536
        writer.write(b"0\r\n\r\n")

    async with Server(script) as server:
        stream = opened(server.port, Patience(2, 30, 30)).stream()
        size = len(await anext(stream))
        await _settled(lambda: sent)
        assert sent < 20_000_000, "what nobody reads is not taken in without limit"
        async for piece in stream:
            size += len(piece)
        assert size == 400 * 65_536


async def _settled(figure: Callable[[], int]) -> None:
    """Until the figure has not changed for 200 turns of the loop."""
    before, same = -1, 0
    while same < 200:
        await asyncio.sleep(0.001)
        same = same + 1 if figure() == before else 0
        before = figure()


# What ours promises beyond the reference.


async def test_nothing_an_idle_connection_says_is_taken_for_an_answer() -> None:
    async with Server(says(whole(b"hi"), b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")) as server:
        own = Own(server.port)
        for _ in range(3):
            with contextlib.suppress(HttpBroken):
                assert await own.ask() == (200, b"hi")
        own.client.close()


@pytest.mark.interpreted
async def test_an_answer_may_not_grow_without_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kairos_router.adapters.http_answer.LONGEST_ANSWER", 100_000)
    bomb = gzip.compress(b"\0" * 5_000_000)
    for answer in (whole(b"x" * 200_000), whole(bomb, b"Content-Encoding: gzip")):
        async with Server(says(answer)) as server:
            own = Own(server.port)
            with pytest.raises(HttpBroken):
                await own.ask()
            own.client.close()


async def test_a_packing_nobody_asked_for_is_broken() -> None:
    async with Server(says(whole(b"hi", b"Content-Encoding: br"))) as server:
        own = Own(server.port)
        with pytest.raises(HttpBroken):
            await own.ask()
        own.client.close()


async def test_a_paused_answers_connection_serves_the_next_request(kit: SimpleNamespace) -> None:
    """The last byte is the one that makes the provider wait; nobody reads what it waits for."""
    async with Server(says(whole(b"x" * (HIGH_WATER + 1)))) as server:
        own = Own(server.port)
        for _ in range(3):
            answer = await own.client.send(own.request(BODY))
            await kit.until(lambda answer=answer: answer.ended)
            answer.close()
        assert len((await own.ask())[1]) == HIGH_WATER + 1
        assert server.connections == 1
        own.client.close()


async def test_a_retired_client_ends_its_answers_and_keeps_no_connection() -> None:
    go_on = asyncio.Event()

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        writer.write(whole(b"hi"))

    async with Server(script) as server:
        own = Own(server.port)
        task = asyncio.create_task(own.ask())
        await asyncio.wait_for(server.begun.wait(), 5)
        own.client.retire()
        go_on.set()
        assert await task == (200, b"hi")
        await asyncio.wait_for(server.gone.wait(), 5)
        assert own.client.unused


@pytest.mark.interpreted
async def test_an_unused_connection_is_closed_after_a_while(
    kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_client, "KEEP_ALIVE_S", 0.05)
    monkeypatch.setattr(http_client, "TICK_S", 0.01)
    async with Server(says(whole(b"hi"))) as server:
        own = Own(server.port)
        await own.ask()
        await asyncio.sleep(0.02)
        await own.ask()
        assert server.connections == 1
        await asyncio.wait_for(server.gone.wait(), 5)
        await kit.until(lambda: own.client.unused)
        own.client.close()


class Wire:
    """A connection nobody is at the other end of, at a time of the test's own."""

    def __init__(self, patience: Patience) -> None:
        self.now = 100.0
        self.told: list[str] = []
        loop = asyncio.get_running_loop()
        turned: Any = SimpleNamespace(time=lambda: self.now, create_future=loop.create_future)
        self.connection = Connection(HttpClient("x", 1, patience, tls=None), turned)
        self.connection.connection_made(self)  # type: ignore[arg-type] # what it needs of a transport

    def is_closing(self) -> bool:
        return False

    def write(self, _: bytes) -> None:
        """Nobody reads."""

    def pause_reading(self) -> None:
        self.told.append("pause")

    def resume_reading(self) -> None:
        self.told.append("resume")

    def abort(self) -> None:
        self.told.append("abort")


async def test_each_wait_has_a_limit_of_its_own() -> None:
    wire = Wire(Patience(connect=1, first_byte=2, idle=5))
    connection = wire.connection

    def left() -> float:
        return connection.deadline - wire.now

    connection.send(b"", 30)
    assert left() == 30
    wire.now += 7
    connection.data_received(CHUNKED)
    assert left() == 5
    wire.now += 2
    connection.data_received(b"2\r\nhi\r\n")
    assert left() == 5
    wire.now += 2
    connection.data_received(b"2;more=of-nothing")
    assert left() == 3, "only the answer's own bytes prove that the provider is alive"


async def test_a_reader_who_takes_his_time_is_not_the_providers_silence() -> None:
    wire = Wire(Patience(connect=1, first_byte=2, idle=5))
    connection = wire.connection
    answer = connection.send(b"", 30)
    connection.data_received(CHUNKED + b"%x\r\n" % (HIGH_WATER + 1) + b"x" * HIGH_WATER)
    connection.silent()
    assert answer.failure is None, "there is something to read"
    connection.data_received(b"x")
    assert wire.told == ["pause"]
    wire.now += 60
    connection.silent()
    assert await answer.next() == b"x" * (HIGH_WATER + 1)
    assert (wire.told, connection.deadline - wire.now) == (["pause", "resume"], 5), "it could not go on"
    connection.silent()
    with pytest.raises(HttpTimeout):
        await asyncio.wait_for(answer.next(), 5)
    assert wire.told[2:] == ["abort"]


async def test_an_answer_that_is_awaited_whole_may_be_silent_in_its_middle_no_longer() -> None:
    wire = Wire(PATIENCE)
    answer = wire.connection.send(b"", 30)
    wire.connection.data_received(CHUNKED + b"2\r\nhi\r\n")
    reading = asyncio.create_task(answer.read())
    await asyncio.sleep(0)
    wire.connection.silent()
    with pytest.raises(HttpTimeout):
        await asyncio.wait_for(reading, 5)


async def test_the_head_is_waited_for_by_its_own_limit() -> None:
    async with asyncio.timeout(5), Server(says(b"HTTP/1.1 ")) as server:
        own = Own(server.port, Patience(2, 0.02, 30))
        with pytest.raises(HttpTimeout):
            await own.ask()
        own.client.close()


async def test_a_name_that_is_not_found_in_time_is_unreachable() -> None:
    async def lookup(_host: str, _port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    client = HttpClient("x", 1, Patience(0.05, 1, 1), tls=None, lookup=lookup)
    async with asyncio.timeout(5):
        with pytest.raises(HttpFailed) as caught:
            await client.send(Own.request(BODY))
    assert not caught.value.sent
    with pytest.raises(HttpFailed) as caught:
        await Own(1, PATIENCE, "no..name").ask()
    assert not caught.value.sent


async def test_the_next_address_is_tried_when_one_does_not_answer() -> None:
    async def lookup(_host: str, _port: int) -> list[str]:
        return ["127.0.0.2", "127.0.0.1"]

    async with Server(says(whole(b"hi"))) as server:
        client = HttpClient("x", server.port, PATIENCE, tls=None, lookup=lookup)
        assert await (await client.send(Own.request(BODY))).read() == b"hi"
        client.close()


async def test_what_waited_before_it_was_read_whole_comes_too(kit: SimpleNamespace) -> None:
    much = b"x" * (HIGH_WATER * 3)
    async with Server(says(whole(much))) as server:
        own = Own(server.port)
        answer = await own.client.send(own.request(BODY))
        await kit.until(lambda: answer.size > HIGH_WATER)
        assert await answer.read() == much
        own.client.close()


async def test_a_reader_who_catches_up_is_given_room_again() -> None:
    told: list[str] = []
    line = SimpleNamespace(pause=lambda: told.append("pause"), resume=lambda: told.append("resume"))
    answer = Answer(line, asyncio.get_running_loop())
    answer.began(200)
    for _ in range(3):
        answer.add(b"x" * HIGH_WATER)
        assert await answer.next()
    assert told == []
    answer.add(b"x" * HIGH_WATER)
    answer.add(b"x")
    assert await answer.next()
    answer.add(b"x")
    assert told == ["pause", "resume"]


async def test_a_stream_that_breaks_off_tells_so_after_what_came() -> None:
    reset = asyncio.Event()

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhi")
        await reset.wait()
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()

    async with Server(script) as server:
        own = Own(server.port)
        answer = await own.client.send(own.request(BODY))
        assert await answer.next() == b"hi"
        reset.set()
        with pytest.raises(HttpBroken):
            await answer.next()
        own.client.close()


async def test_a_packed_stream_comes_piece_by_piece_and_a_bomb_in_it_is_broken() -> None:
    packed = [bytes([each]) for each in gzip.compress(b"hello")]
    head = CHUNKED[:-2] + b"Content-Encoding: gzip\r\n\r\n"
    pieces = [b"1\r\n%b\r\n" % each for each in packed]
    async with Server(says(head, *pieces, b"0\r\n\r\n")) as server:
        own = Own(server.port)
        assert b"".join([piece async for piece in own.stream()]) == b"hello"
        own.client.close()
    bomb = gzip.compress(b"\0" * 5_000_000)
    async with Server(says(whole(bomb, b"Content-Encoding: gzip"))) as server:
        own = Own(server.port)
        with pytest.raises(HttpBroken):
            [piece async for piece in own.stream()]
        own.client.close()


async def test_an_idle_connection_that_says_something_is_closed(kit: SimpleNamespace) -> None:
    idle = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(b"hi"))
        await idle.wait()
        writer.write(b"HTTP/1.1 200 OK\r\n")
        await reader.read()

    async with Server(script) as server:
        own = Own(server.port)
        await own.ask()
        idle.set()
        await asyncio.wait_for(server.gone.wait(), 5)
        await kit.until(lambda: own.client.unused)
        own.client.close()


@pytest.mark.interpreted
async def test_an_end_nobody_has_noticed_yet_is_found_before_a_request_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_client, "SUSPECT_S", -1.0)
    writers: list[asyncio.StreamWriter] = []

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.write(whole(b"hi"))

    async with Server(script) as server:
        own = Own(server.port)
        await own.ask()
        await own.ask()
        assert server.connections == 1
        # No turn of the loop lies between this and the next request.
        writers[-1].get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        assert await own.ask() == (200, b"hi")
        assert (server.connections, len(server.requests)) == (2, 3)
        own.client.close()


@pytest.mark.interpreted
async def test_a_connection_that_ends_before_a_byte_was_written_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Server(says(whole(b"hi"))) as server:
        own = Own(server.port)
        connect = own.client._connect_to
        left = [True]

        async def ends_at_first(host: str) -> Any:
            connection = await connect(host)
            if left:
                left.pop()
                connection.abort()
            return connection

        monkeypatch.setattr(own.client, "_connect_to", ends_at_first)
        assert await own.ask() == (200, b"hi")
        assert len(server.requests) == 1
        own.client.close()


@pytest.mark.interpreted
async def test_the_connection_used_last_is_used_next_and_few_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_client, "MOST_IDLE", 2)
    begun, together = [], asyncio.Event()

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun.append(writer)
        if len(begun) == 4:
            together.set()
        await together.wait()
        writer.write(whole(b"%d" % writer.get_extra_info("peername")[1]))

    async with Server(script) as server:
        own = Own(server.port)
        await asyncio.gather(*(own.ask() for _ in range(4)))
        assert not own.client.unused
        await asyncio.wait_for(server.gone.wait(), 5)
        assert len({await own.ask() for _ in range(3)}) == 1
        await asyncio.gather(*(own.ask() for _ in range(2)))
        assert server.connections == 4
        own.client.close()


@pytest.mark.parametrize(
    ("pieces", "told"),
    [
        ([b"HTTP/1.1 200 OK\r\nx: ", *[b"y" * 1_000] * 80], "a head without an end"),
        ([b"HTTP/1.1 100 Continue\r\n\r\n" * 100] * 40, "a head without an end"),
        ([b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 300 + b"\r\n"], "too many headers"),
        (
            [b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"],
            "the provider wants another protocol",
        ),
    ],
    ids=["endless-header", "endless-100", "headers", "upgrade"],
)
async def test_a_head_beyond_its_limits_is_broken_at_once(pieces: list[bytes], told: str) -> None:
    async with Server(says(*pieces)) as server:
        own = Own(server.port)
        with pytest.raises(HttpBroken, match=told):
            await own.ask()
        own.client.close()


async def test_only_the_head_of_the_answer_itself_is_its_head() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nContent-Encoding: br\r\nHint: x\r\n\r\n"
    answer = CHUNKED + b"2\r\nhi\r\n0\r\nTrailer: t\r\nContent-Type: text/html\r\n\r\n"
    async with Server(says(hints + answer)) as server:
        own = Own(server.port)
        came = await own.client.send(own.request(BODY))
        assert await came.read() == b"hi"
        assert set(came.headers) == {b"content-type", b"transfer-encoding"}
        assert came.content_type == "text/event-stream"
        own.client.close()


async def test_limits_of_a_head_count_for_each_answer_anew() -> None:
    async with Server(says(whole(b"hi", *[b"x: y"] * 120))) as server:
        own = Own(server.port)
        assert [await own.ask() for _ in range(3)] == [(200, b"hi")] * 3
        assert server.connections == 1
        own.client.close()


async def test_closing_the_client_ends_what_is_under_way() -> None:
    async def script(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with Server(script) as server:
        own = Own(server.port, Patience(2, 30, 30))
        task = asyncio.create_task(own.ask())
        await asyncio.wait_for(server.begun.wait(), 5)
        assert not own.client.unused
        own.client.close()
        with pytest.raises(HttpBroken):
            await asyncio.wait_for(task, 5)
        await asyncio.wait_for(server.gone.wait(), 5)


async def test_a_retired_client_closes_what_is_idle() -> None:
    async with Server(says(whole(b"hi"))) as server:
        own = Own(server.port)
        await own.ask()
        own.client.retire()
        await asyncio.wait_for(server.gone.wait(), 5)
        assert own.client.unused


def vouched_for(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server with a certificate for this name, and who trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    text = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = folder / "server.pem"
    file.write_bytes(text + private)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cadata=text.decode())


async def test_a_certificate_has_to_be_vouched_for_and_of_the_name_that_was_asked_for(tmp_path: Path) -> None:
    theirs, ours = vouched_for(tmp_path, "provider.test")

    async def lookup(_host: str, _port: int) -> list[str]:
        return ["127.0.0.1"]

    async with Server(says(whole(b"hi")), tls=theirs) as server:
        right = HttpClient("provider.test", server.port, PATIENCE, tls=ours, lookup=lookup)
        assert await (await right.send(Own.request(BODY))).read() == b"hi"
        right.close()
        for name, trust in (("other.test", ours), ("provider.test", ssl.create_default_context())):
            wrong = HttpClient(name, server.port, PATIENCE, tls=trust, lookup=lookup)
            with pytest.raises(HttpFailed) as caught:
                await wrong.send(Own.request(BODY))
            assert (str(caught.value), caught.value.sent) == ("SSLCertVerificationError", False)
        assert len(server.requests) == 1
