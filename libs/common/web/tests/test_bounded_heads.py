"""The head of a request: how large it may be, and how long it may take."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from kairos_web import BoundedHeads
from kairos_web.bounded_heads import LONGEST_HEAD

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Streams]]
GET = b"GET / HTTP/1.1\r\nHost: h\r\n"


async def answer_with_length(scope: Any, receive: Any, send: Any) -> None:
    length, more = 0, True
    while more:
        message = await receive()
        length, more = length + len(message["body"]), message["more_body"]
    names = b",".join(name for name, _ in scope["headers"])
    headers = [(b"content-length", b"%d" % len(b"%d %b" % (length, names)))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"%d %b" % (length, names)})


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    config = uvicorn.Config(answer_with_length, log_config=None, lifespan="off", access_log=False)
    state, loop = ServerState(), asyncio.get_running_loop()
    server = await loop.create_server(lambda: BoundedHeads(config, state, {}, loop), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    writers = []

    async def connected() -> Streams:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writers.append(writer)
        return reader, writer

    yield connected
    for writer in writers:
        writer.close()
    server.close()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    async with asyncio.timeout(10):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        status, *lines = head.strip().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        body = await reader.readexactly(int(headers["content-length"]))
        return int(status.split()[1]), headers, body


async def refused(reader: asyncio.StreamReader) -> tuple[int, str]:
    """The status and code of a refusal, after which the connection is closed."""
    status, headers, body = await answer(reader)
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    async with asyncio.timeout(10):
        assert await reader.read() == b""
    return status, json.loads(body)["code"]


async def test_a_head_that_is_too_large_gets_431(connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(GET + b"X-Long: " + b"a" * LONGEST_HEAD + b"\r\n\r\n")
    assert await refused(reader) == (431, "head_too_large")


async def test_a_head_that_is_too_large_in_all_its_pieces_gets_431(connect: Connect) -> None:
    """However the network cuts it: no piece, and no piece after the first, is too large by itself."""
    reader, writer = await connect()
    writer.write(GET + b"X-Long: " + b"a" * (LONGEST_HEAD - 500))
    await writer.drain()
    await asyncio.sleep(0.2)
    writer.write(b"a" * 4_000 + b"\r\n\r\n")
    assert await refused(reader) == (431, "head_too_large")


async def test_a_flood_of_headers_is_cut_off_before_it_ends(connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(GET)
    lines = b"".join(b"X-%d: a\r\n" % number for number in range(1_000))
    told = asyncio.create_task(refused(reader))
    with contextlib.suppress(ConnectionError):
        for _ in range(10_000):
            writer.write(lines)
            await writer.drain()
            if told.done():
                break
    assert await told == (431, "head_too_large")


async def test_a_head_of_the_allowed_size_and_a_large_body_are_served(connect: Connect) -> None:
    reader, writer = await connect()
    long = b"X-Long: " + b"a" * (LONGEST_HEAD - 200) + b"\r\n"
    body = b"b" * 3 * LONGEST_HEAD
    writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n" % len(body) + long + b"\r\n" + body)
    assert (await answer(reader))[2] == b"196608 host,content-length,x-long"
    writer.write(GET + b"\r\n")
    assert (await answer(reader))[2] == b"0 host"


@pytest.mark.parametrize("before", [b"", GET + b"\r\n"], ids=["first", "later"])
async def test_a_head_that_comes_too_slowly_gets_408(
    connect: Connect, before: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedHeads, "head_s", 0.1)
    reader, writer = await connect()
    if before:
        writer.write(before)
        assert (await answer(reader))[0] == 200
    writer.write(GET[:20])
    assert await refused(reader) == (408, "head_too_slow")


async def test_a_connection_that_says_nothing_is_ended_without_a_word(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedHeads, "head_s", 0.05)
    reader, _ = await connect()
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""


async def test_what_is_no_http_gets_400(connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(b"\x16\x03\x01\x02\x00\x01")
    assert await refused(reader) == (400, "invalid_http")


async def test_trailers_are_no_headers(connect: Connect) -> None:
    reader, writer = await connect()
    writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
    writer.write(b"1\r\na\r\n0\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n")
    assert (await answer(reader))[2] == b"1 host,transfer-encoding"
