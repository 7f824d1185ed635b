"""How /v1 behaves on the wire: framing, pipelines, slow and rude clients, limits, disconnects."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from kairos_router.entrypoints import hot_http
from kairos_router.entrypoints.hot_http import ClientGone, HotProtocol, TooLarge, Wire

LIMIT = 100_000
JSON = [(b"content-type", b"application/json")]


class App:
    """An application whose /v1 is a handler of the test's, and whose other paths are ASGI's."""

    def __init__(self) -> None:
        self.handler: Callable[[Wire], Awaitable[None]] = self.echo
        self.bodies: list[bytes] = []
        self.ended: asyncio.Queue[str] = asyncio.Queue()

    async def v1(self, wire: Wire) -> None:
        try:
            await self.handler(wire)
        except asyncio.CancelledError:
            self.ended.put_nowait("gone" if wire.client_gone else "cancelled")
            raise
        except (ClientGone, TooLarge) as error:
            self.ended.put_nowait(type(error).__name__)
            if isinstance(error, TooLarge):
                wire.answer(413, JSON, b"{}")
        else:
            self.ended.put_nowait("answered")

    async def echo(self, wire: Wire) -> None:
        body = await wire.read(LIMIT)
        wire.watch()
        self.bodies.append(body)
        wire.answer(200, JSON, wire.path.encode() + b" " + body)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        told = b"asgi " + scope["path"].encode() + b" " + dict(scope["headers"]).get(b"x-told", b"")
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": told + b" " + body})


class Caller:
    """A client that says what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, dict[bytes, bytes], bytes]:
        async with asyncio.timeout(10):
            head = await self.reader.readuntil(b"\r\n\r\n")
            status, _, rest = head.partition(b"\r\n")
            headers = dict(line.split(b": ", 1) for line in rest.strip().split(b"\r\n") if line)
            if headers.get(b"transfer-encoding") == b"chunked":
                body = await self.chunks()
            else:
                body = await self.reader.readexactly(int(headers.get(b"content-length", b"0")))
            return int(status.split()[1]), headers, body

    async def chunks(self) -> bytes:
        parts = []
        while size := int((await self.reader.readuntil(b"\r\n")).strip(), 16):
            parts.append((await self.reader.readexactly(size + 2))[:-2])
        await self.reader.readexactly(2)
        return b"".join(parts)

    async def closed(self) -> bool:
        async with asyncio.timeout(10):
            return await self.reader.read(1) == b""


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
async def connect(app: App, kit: SimpleNamespace) -> AsyncIterator[Callable[[], Awaitable[Caller]]]:
    callers: list[Caller] = []
    async with kit.serving(app) as url:
        port = int(url.rpartition(":")[2])

        async def connected() -> Caller:
            callers.append(Caller(*await asyncio.open_connection("127.0.0.1", port)))
            return callers[-1]

        yield connected
        for caller in callers:
            caller.writer.close()


def post(body: bytes, *headers: bytes, path: bytes = b"/v1/x", version: bytes = b"1.1") -> bytes:
    lines = [b"POST %b HTTP/%b" % (path, version), b"Host: h", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


async def ended(app: App) -> str:
    return await asyncio.wait_for(app.ended.get(), 10)


async def test_requests_follow_one_another_on_a_connection(connect: Any) -> None:
    caller = await connect()
    for number in range(3):
        caller.say(post(b"%d" % number))
        status, headers, body = await caller.answer()
        assert (status, body) == (200, b"/v1/x %d" % number)
        assert b"date" in headers
        assert b"connection" not in headers


async def test_a_request_leaves_nothing_to_the_garbage_collector(connect: Any) -> None:
    caller = await connect()
    caller.say(post(b"once"))
    await caller.answer()
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            caller.say(post(b"again"))
            await caller.answer()
        kept = [each for each in gc.get_objects() if isinstance(each, Wire)]
    finally:
        gc.enable()
    # A connection remembers its last request; the others are gone by their count of references.
    assert len(kept) == 1


async def test_pipelined_requests_are_answered_in_order(connect: Any) -> None:
    caller = await connect()
    caller.say(b"".join(post(b"%d" % number) for number in range(5)))
    assert [(await caller.answer())[2] for _ in range(5)] == [b"/v1/x %d" % n for n in range(5)]


async def test_v1_and_other_paths_take_turns_on_a_connection(connect: Any) -> None:
    caller = await connect()
    caller.say(post(b"a") + post(b"b", b"X-Told: yes", path=b"/budgets?x=1") + post(b"c", path=b"/v1?x=1"))
    assert [(await caller.answer())[2] for _ in range(3)] == [b"/v1/x a", b"asgi /budgets yes b", b"/v1 c"]


@pytest.mark.parametrize("path", [b"/v10/x", b"/v", b"/", b"/v1beta"])
async def test_only_v1_is_taken_from_asgi(connect: Any, path: bytes) -> None:
    caller = await connect()
    caller.say(post(b"", path=path))
    assert (await caller.answer())[2].startswith(b"asgi " + path)


async def test_an_escaped_path_and_a_query_name_the_same_address(connect: Any) -> None:
    caller = await connect()
    caller.say(post(b"", path=b"/v1/models/a%2Fb?c=d"))
    assert (await caller.answer())[2] == b"/v1/models/a/b "


async def test_a_body_in_chunks_and_in_single_bytes_is_one_body(connect: Any) -> None:
    caller = await connect()
    head = b"POST /v1/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    request = head + b"2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n"
    for at in range(len(request)):
        caller.say(request[at : at + 1])
        await caller.writer.drain()
    assert (await caller.answer())[2] == b"/v1/x abc"


async def test_a_large_body_is_read_whole(connect: Any, app: App) -> None:
    caller = await connect()
    caller.say(post(b"x" * LIMIT))
    assert (await caller.answer())[0] == 200
    assert app.bodies == [b"x" * LIMIT]


async def test_a_body_above_the_limit_is_refused_and_the_connection_goes_on(connect: Any, app: App) -> None:
    caller = await connect()
    caller.say(post(b"x" * (LIMIT * 5)))
    assert (await caller.answer())[0] == 413
    assert await ended(app) == "TooLarge"
    caller.say(post(b"next"))
    assert (await caller.answer())[2] == b"/v1/x next"


async def test_who_expects_100_continue_is_told_to_go_on(connect: Any) -> None:
    caller = await connect()
    head, _, body = post(b"hello", b"Expect: 100-continue").partition(b"\r\n\r\n")
    caller.say(head + b"\r\n\r\n")
    async with asyncio.timeout(10):
        assert await caller.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    caller.say(body)
    assert (await caller.answer())[2] == b"/v1/x hello"


@pytest.mark.parametrize(
    ("request_bytes", "framed"),
    [(post(b"a", b"Connection: close"), b"close"), (post(b"a", version=b"1.0"), b"close")],
    ids=["close", "http-1.0"],
)
async def test_a_connection_that_is_not_to_be_kept_is_closed(
    connect: Any, request_bytes: bytes, framed: bytes
) -> None:
    caller = await connect()
    caller.say(request_bytes)
    _, headers, body = await caller.answer()
    assert (headers[b"connection"], body) == (framed, b"/v1/x a")
    assert await caller.closed()


async def test_a_head_request_gets_no_body(connect: Any) -> None:
    caller = await connect()
    caller.say(b"HEAD /v1/x HTTP/1.1\r\nHost: h\r\n\r\n" + post(b"a"))
    async with asyncio.timeout(10):
        head = await caller.reader.readuntil(b"\r\n\r\n")
    assert b"content-length: 6" in head
    assert (await caller.answer())[2] == b"/v1/x a"


async def test_what_is_no_http_is_refused(connect: Any) -> None:
    for garbage in (b"\x16\x03\x01\x02\x00\x01", b"POST /v1/x HTTP/1.1\r\nContent-Length: x\r\n\r\n"):
        caller = await connect()
        caller.say(garbage)
        status, headers, _ = await caller.answer()
        assert (status, headers[b"connection"]) == (400, b"close")
        assert await caller.closed()


async def pieces(wire: Wire, count: int, size: int) -> None:
    await wire.read(LIMIT)
    wire.watch()
    wire.begin(200, [(b"content-type", b"text/event-stream")])
    for _ in range(count):
        waiting = wire.piece(b"x" * size)
        if waiting is not None:
            await waiting
    wire.end()


async def test_an_answer_in_pieces_is_chunked_and_the_connection_goes_on(connect: Any, app: App) -> None:
    app.handler = lambda wire: pieces(wire, 3, 5)
    caller = await connect()
    for _ in range(2):
        caller.say(post(b""))
        status, headers, body = await caller.answer()
        assert (status, headers[b"transfer-encoding"], body) == (200, b"chunked", b"x" * 15)


async def test_http_1_0_gets_pieces_until_the_connection_ends(connect: Any, app: App) -> None:
    app.handler = lambda wire: pieces(wire, 3, 5)
    caller = await connect()
    caller.say(post(b"", version=b"1.0"))
    async with asyncio.timeout(10):
        answer = await caller.reader.read()
    assert b"transfer-encoding" not in answer
    assert answer.endswith(b"\r\n\r\n" + b"x" * 15)


async def test_a_slow_reader_makes_the_handler_wait(connect: Any, app: App) -> None:
    done = asyncio.Event()

    async def endless(wire: Wire) -> None:
        await pieces(wire, 300, 65_536)
        done.set()

    app.handler = endless
    caller = await connect()
    caller.say(post(b""))
    async with asyncio.timeout(10):
        await caller.reader.readuntil(b"\r\n\r\n")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(done.wait(), 0.5)
    async with asyncio.timeout(20):
        assert len(await caller.chunks()) == 300 * 65_536
        await done.wait()


async def forever(wire: Wire) -> None:
    await wire.read(LIMIT)
    wire.watch()
    await asyncio.Event().wait()


@pytest.mark.parametrize("size", [10, 90_000], ids=["small", "above the high water"])
async def test_a_caller_who_goes_away_cancels_the_request(connect: Any, app: App, size: int) -> None:
    app.handler = forever
    caller = await connect()
    caller.say(post(b"x" * size))
    await caller.writer.drain()
    caller.writer.close()
    assert await ended(app) == "gone"


async def test_a_caller_who_goes_away_with_requests_in_the_pipe_cancels_the_first(
    connect: Any, app: App
) -> None:
    app.handler = forever
    caller = await connect()
    caller.say(post(b"a") + post(b"b"))
    await caller.writer.drain()
    caller.writer.transport.abort()
    assert await ended(app) == "gone"


async def test_a_caller_who_goes_away_in_the_middle_of_the_body_is_not_answered(
    connect: Any, app: App
) -> None:
    caller = await connect()
    caller.say(post(b"x" * 50)[:-10])
    await caller.writer.drain()
    caller.writer.close()
    assert await ended(app) == "ClientGone"


async def test_after_the_answer_a_closed_connection_cancels_nothing(connect: Any, app: App) -> None:
    go_on = asyncio.Event()

    async def answers_and_goes_on(wire: Wire) -> None:
        await app.echo(wire)
        await go_on.wait()

    app.handler = answers_and_goes_on
    caller = await connect()
    caller.say(post(b"a"))
    await caller.answer()
    caller.writer.close()
    await caller.writer.wait_closed()
    go_on.set()
    assert await ended(app) == "answered"


async def test_a_handler_that_fails_breaks_the_connection_and_not_the_server(connect: Any, app: App) -> None:
    async def fails(_: Wire) -> None:
        raise RuntimeError("unforeseen")

    app.handler = fails
    caller = await connect()
    caller.say(post(b"a"))
    assert await caller.closed()
    app.handler = app.echo
    other = await connect()
    other.say(post(b"b"))
    assert (await other.answer())[2] == b"/v1/x b"


@pytest.mark.parametrize("value", [b"a\r\nx-evil: 1", b"a\nb", b"a\rb"])
async def test_a_header_can_not_write_another(connect: Any, app: App, value: bytes) -> None:
    async def split(wire: Wire) -> None:
        await wire.read(LIMIT)
        wire.answer(200, [(b"x-name", value)], b"")

    app.handler = split
    caller = await connect()
    caller.say(post(b"a"))
    assert await caller.closed()


@pytest.mark.parametrize(
    ("forwarded", "address"), [(b"", b"127.0.0.1"), (b"X-Forwarded-For: 10.9.8.7", b"10.9.8.7")]
)
async def test_the_callers_address_is_a_trusted_proxys_word(
    connect: Any, app: App, forwarded: bytes, address: bytes
) -> None:
    async def tells(wire: Wire) -> None:
        await wire.read(LIMIT)
        wire.answer(200, [], (wire.peer or "").encode())

    app.handler = tells
    caller = await connect()
    caller.say(post(b"a", *([forwarded] if forwarded else [])))
    assert (await caller.answer())[2] == address


PATIENCE_S = 1


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not(app: App, kit: SimpleNamespace) -> None:
    loop = asyncio.get_running_loop()

    async def slow(wire: Wire) -> None:
        body = await wire.read(LIMIT)
        late = asyncio.Event()
        loop.call_later(3 * PATIENCE_S, late.set)
        await late.wait()
        wire.answer(200, JSON, body)

    async with kit.serving(app, keep_alive_s=PATIENCE_S) as url:
        caller = Caller(*await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2])))
        for handler in (app.echo, slow, app.echo):
            app.handler = handler
            caller.say(post(b"hello"))
            assert (await caller.answer())[0] == 200
        answered = loop.time()
        assert await caller.closed()
        assert loop.time() - answered > PATIENCE_S / 2
        caller.writer.close()


async def refused(caller: Caller) -> tuple[int, str]:
    """The status and code of a refusal in OpenAI's envelope, after which the connection is closed."""
    status, _, body = await caller.answer()
    assert await caller.closed()
    return status, json.loads(body)["error"]["code"]


async def test_an_endless_head_is_cut_off(connect: Any) -> None:
    caller = await connect()
    caller.say(b"POST /v1/x HTTP/1.1\r\nX-Long: ")
    for _ in range(16):
        caller.say(b"a" * 65_536)
        await caller.writer.drain()
    assert await refused(caller) == (431, "head_too_large")


async def test_a_large_body_before_a_split_head_is_no_large_head(connect: Any) -> None:
    caller = await connect()
    first, second = post(b"a" * 99_000), post(b"b")
    caller.say(first + second[:10])
    assert (await caller.answer())[0] == 200
    caller.say(second[10:])
    assert (await caller.answer())[2] == b"/v1/x b"


@pytest.mark.parametrize("before", [b"", post(b"a")])
async def test_a_head_that_comes_too_slowly_is_refused(
    connect: Any, before: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HotProtocol, "head_s", 0.2)
    caller = await connect()
    if before:
        caller.say(before)
        assert (await caller.answer())[0] == 200
    caller.say(b"POST /v1/x HTTP/1.1\r\nHost: ")
    assert await refused(caller) == (408, "head_too_slow")


@pytest.mark.interpreted
async def test_a_body_that_stops_coming_ends_the_request(
    connect: Any, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot_http, "BODY_S", 0.2)
    caller = await connect()
    caller.say(post(b"abc")[:-1])
    assert await ended(app) == "ClientGone"
    assert await caller.closed()


async def test_trailers_are_no_headers(connect: Any, app: App) -> None:
    async def tells(wire: Wire) -> None:
        await wire.read(LIMIT)
        wire.answer(200, JSON, b",".join(name for name, _ in wire.headers))

    app.handler = tells
    caller = await connect()
    head = b"POST /v1/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    caller.say(head + b"1\r\na\r\n0\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n")
    assert (await caller.answer())[2] == b"host,transfer-encoding"
