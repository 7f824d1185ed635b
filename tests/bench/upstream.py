"""The provider of `make bench-router`: OpenAI's wire format from prepared bytes, on a bare asyncio.Protocol.

It must never be the bottleneck, so it parses no JSON and keeps nothing. Every event of a stream is a write
of its own, one per turn of the event loop, as tokens leave a model: a router in front sees them one by one.
`stream` of N events: N pieces with text, then usage (when the body asks for it) and the terminator.
"""

import argparse
import asyncio
import json
from collections.abc import Iterator
from typing import cast

import uvloop

HEAD = {"id": "chatcmpl-bench", "created": 1_767_225_600, "model": "bench-model"}
USAGE = {"prompt_tokens": 24, "completion_tokens": 20, "total_tokens": 44}
TEXT = "Your parcel left Ankara on Monday evening and reaches you on Thursday between nine and noon."
HEADERS_END = b"\r\n\r\n"


def _plain() -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}
    body = json.dumps({**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE}).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _event(choices: list[object], **more: object) -> bytes:
    document = {**HEAD, "object": "chat.completion.chunk", "choices": choices, **more}
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _events(count: int, *, usage: bool) -> list[bytes]:
    """The writes of a stream. Usage, terminator and the end of the body are the last one."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    pieces = [
        _event([{"index": 0, "delta": {"content": f" word{number}"}, "finish_reason": None}])
        for number in range(count - 1)
    ]
    pieces.append(_event([{"index": 0, "delta": {}, "finish_reason": "stop"}]))
    last = (_event([], usage=USAGE) if usage else b"") + b"data: [DONE]\n\n"
    writes = [_chunk(piece) for piece in pieces]
    writes[0] = head + writes[0]
    writes[-1] += _chunk(last) + b"0\r\n\r\n"
    return writes


PLAIN = _plain()


class Upstream(asyncio.Protocol):
    """One connection. Requests come one after another, each with a Content-Length."""

    streams: dict[bool, list[bytes]]

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._buffer = b""
        self._writing: Iterator[bytes] = iter(())
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods and not the base class.
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._buffer = data = self._buffer + data
        end = data.find(HEADERS_END)
        if end < 0:
            return
        head = data[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(data) < end + 4 + length:
            return
        body = data[end + 4 : end + 4 + length]
        self._buffer = data[end + 4 + length :]
        assert self._transport is not None
        if b'"stream":true' in body or b'"stream": true' in body:
            self._writing = iter(self.streams[b'"include_usage":true' in body.replace(b" ", b"")])
            self._write()
        else:
            self._transport.write(PLAIN)

    def _write(self) -> None:
        piece = next(self._writing, None)
        if piece is not None and self._transport is not None:
            self._transport.write(piece)
            self._loop.call_soon(self._write)


async def serve(port: int, events: int) -> None:
    Upstream.streams = {usage: _events(events, usage=usage) for usage in (False, True)}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Upstream(loop), "127.0.0.1", port, backlog=1_024)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--events", type=int, default=20)
    given = parser.parse_args()
    uvloop.run(serve(given.port, given.events))


if __name__ == "__main__":
    main()
