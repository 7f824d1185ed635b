"""A load generator that costs little itself: raw HTTP/1.1 over keep-alive connections, one event loop."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Figures:
    """One measurement. Times in milliseconds; `cpu_ms` is the measured process's own time per request."""

    requests: int
    seconds: float
    p50: float
    p99: float
    errors: int
    cpu_ms: float | None = None

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


def quantile(ordered: list[float], q: float) -> float:
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else float("nan")


def request_bytes(url: str, body: bytes, headers: dict[str, str]) -> tuple[str, int, bytes]:
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    lines = [f"POST {parts.path} HTTP/1.1", f"Host: {host}:{port}", f"Content-Length: {len(body)}"]
    lines += ["Content-Type: application/json", *(f"{name}: {value}" for name, value in headers.items())]
    return host, port, "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def _answer(reader: asyncio.StreamReader) -> bool:
    """Read one response to its end; whether it was a 200."""
    head = await reader.readuntil(b"\r\n\r\n")
    lower = head.lower()
    if b"transfer-encoding: chunked" in lower:
        while True:
            size = int((await reader.readuntil(b"\r\n")).strip(), 16)
            await reader.readexactly(size + 2)
            if size == 0:
                break
    else:
        start = lower.index(b"content-length:") + len(b"content-length:")
        await reader.readexactly(int(lower[start : lower.index(b"\r\n", start)]))
    return head.startswith(b"HTTP/1.1 200")


async def drive(url: str, body: bytes, headers: dict[str, str], *, workers: int, seconds: float) -> Figures:
    """Closed loop: every worker sends its next request when the last one is answered."""
    host, port, request = request_bytes(url, body, headers)
    times: list[float] = []
    errors = 0
    end = time.perf_counter() + seconds

    async def work() -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection(host, port)
        while (begun := time.perf_counter()) < end:
            writer.write(request)
            if await _answer(reader):
                times.append((time.perf_counter() - begun) * 1_000)
            else:
                errors += 1
        writer.close()
        await writer.wait_closed()

    begun = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(workers)))
    took = time.perf_counter() - begun
    times.sort()
    return Figures(len(times), took, quantile(times, 0.5), quantile(times, 0.99), errors)


async def measured(
    pid: int, cpu_seconds: Callable[[int], float], run: Callable[[], Awaitable[Figures]]
) -> Figures:
    """A measurement with the processor time that process `pid` used for it."""
    before = cpu_seconds(pid)
    found = await run()
    used = (cpu_seconds(pid) - before) * 1_000 / max(found.requests, 1)
    return Figures(found.requests, found.seconds, found.p50, found.p99, found.errors, used)
