"""What one request to a provider costs by our client and by aiohttp: python tests/bench/clients.py.

Processor time of this process alone, against the fake upstream of `make bench-router`.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import uvloop

from kairos_router.adapters.http_client import HttpClient, Patience
from kairos_testkit.ports import answers, free_port, wait_until

HERE = Path(__file__).parent
SECONDS, AT_ONCE = 3.0, 64
Ask = Callable[[bool], Awaitable[None]]


def body(*, stream: bool) -> bytes:
    return json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    ).encode()


async def cost(ask: Ask, *, stream: bool) -> tuple[float, int]:
    """Milliseconds of processor time per request, and how many there were."""
    count = 0
    end = time.perf_counter() + SECONDS

    async def work() -> None:
        nonlocal count
        while time.perf_counter() < end:
            await ask(stream)
            count += 1

    before = time.process_time()
    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return (time.process_time() - before) * 1_000 / count, count


async def compare(port: int) -> None:
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    own = HttpClient("127.0.0.1", port, Patience(3, 60, 30), tls=None)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=3)
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
    )

    async def by_own(stream: bool) -> None:
        sent = body(stream=stream)
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(sent)
        answer = await own.send(head + sent)
        if stream:
            while await answer.next():
                pass
        else:
            await answer.read()

    async def by_aiohttp(stream: bool) -> None:
        async with asyncio.timeout(60):
            response = await session.post(url, data=body(stream=stream))
        if not stream:
            async with asyncio.timeout(30):
                await response.read()
            return
        while True:
            async with asyncio.timeout(30):
                if not await response.content.readany():
                    return

    for name, ask in (("own", by_own), ("aiohttp", by_aiohttp)):
        for stream in (False, True):
            spent, count = await cost(ask, stream=stream)
            print(f"{name}, {'stream of 20' if stream else 'plain'}: {spent:.4f} ms ({count} requests)")
    own.close()
    await session.close()


def main() -> None:
    port = free_port()
    upstream = subprocess.Popen([sys.executable, str(HERE / "upstream.py"), "--port", str(port)])
    try:
        wait_until(lambda: answers(port), timeout=20, what="the upstream")
        uvloop.run(compare(port))
    finally:
        upstream.terminate()
        upstream.wait(10)


if __name__ == "__main__":
    main()
