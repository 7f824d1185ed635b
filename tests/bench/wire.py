"""The load generator of `make bench-router`: a process of its own that costs little, and prints JSON.

Closed loop: each of N keep-alive connections sends its next request when the last one is answered.
"""

import argparse
import asyncio
import json
import sys
import time
from typing import cast
from urllib.parse import urlsplit

import uvloop

END_OF_CHUNKS = b"\r\n0\r\n\r\n"


class Connection(asyncio.Protocol):
    """Sends the request, finds the end of the answer without parsing more than the head, sends again."""

    def __init__(self, run: "Run") -> None:
        self._run = run
        self._transport: asyncio.Transport | None = None
        self._begun = 0.0
        self._head = b""
        self._left = -1
        self._tail = b""
        self._ok = False
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods and not the base class.
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ended:
            self._ended = True
            self._run.lost(f"connection lost ({exc!r}) after {self._head[:200]!r} and {self._tail!r}")

    def data_received(self, data: bytes) -> None:
        if self._left < 0 and not self._tail:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            head, data = self._head[:end].lower(), self._head[end + 4 :]
            self._ok = b" 200" in head[:16]
            at = head.find(b"content-length:")
            if at >= 0:
                self._left = int(head[at + 15 :].split(b"\r\n", 1)[0])
            else:
                self._tail = b"\r\n"
        if self._left >= 0:
            self._left -= len(data)
            if self._left <= 0:
                self._answered()
            return
        self._tail = (self._tail + data)[-len(END_OF_CHUNKS) :]
        if self._tail == END_OF_CHUNKS:
            self._answered()

    def _send(self) -> None:
        self._head, self._left, self._tail = b"", -1, b""
        self._begun = time.perf_counter()
        assert self._transport is not None
        self._transport.write(self._run.request)

    def _answered(self) -> None:
        now = time.perf_counter()
        self._run.add(now - self._begun, None if self._ok else repr(self._head))
        if now < self._run.until:
            self._send()
        else:
            self._ended = True
            self._run.done()
            assert self._transport is not None
            self._transport.close()


class Run:
    def __init__(self, request: bytes, connections: int, seconds: float) -> None:
        self.request = request
        self.times: list[float] = []
        self.errors = 0
        self.first_error = ""
        self.until = time.perf_counter() + seconds
        self.over = asyncio.Event()
        self._open = connections

    def add(self, seconds: float, error: str | None) -> None:
        if error is None:
            self.times.append(seconds)
        else:
            self._failed(error)

    def lost(self, error: str) -> None:
        self._failed(error)
        self.done()

    def _failed(self, error: str) -> None:
        self.errors += 1
        self.first_error = self.first_error or error

    def done(self) -> None:
        self._open -= 1
        if not self._open:
            self.over.set()


async def drive(url: str, request: bytes, connections: int, seconds: float) -> dict[str, float | str]:
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    begun = time.perf_counter()
    run = Run(request, connections, seconds)
    for _ in range(connections):
        await loop.create_connection(lambda: Connection(run), parts.hostname, parts.port)
    async with asyncio.timeout(seconds + 30):
        await run.over.wait()
    took = time.perf_counter() - begun
    times = sorted(run.times)
    return {
        "requests": len(times),
        "seconds": took,
        "p50": times[len(times) // 2] * 1_000 if times else 0.0,
        "p99": times[int(len(times) * 0.99)] * 1_000 if times else 0.0,
        "errors": run.errors,
        "first_error": run.first_error,
    }


def request_bytes(url: str, headers: dict[str, str], body: bytes) -> bytes:
    parts = urlsplit(url)
    lines = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", f"Content-Length: {len(body)}"]
    lines += ["Content-Type: application/json", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args()
    # Headers may hold keys, so they come by standard input and not by the command line.
    told = json.loads(sys.stdin.read())
    request = request_bytes(given.url, told["headers"], told["body"].encode())
    print(json.dumps(uvloop.run(drive(given.url, request, given.connections, given.seconds))))


if __name__ == "__main__":
    main()
