"""What the fakes share: one aiohttp application in a thread of its own, or alone in a process.

A thread keeps the fake answering while a test blocks, and lets synchronous tests use it.
"""

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

import uvloop
from aiohttp import web

from kairos_testkit.ports import NotReadyError

T = TypeVar("T")


class FakeServer(ABC):
    """Start it, use its `base_url`, stop it; or use it as a context manager."""

    def __init__(self, *, port: int = 0, host: str = "127.0.0.1") -> None:
        self.host = host
        self.port = port
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._runner: web.AppRunner | None = None

    @abstractmethod
    def routes(self) -> list[web.RouteDef]: ...

    async def opened(self) -> None:  # noqa: B027 - not every fake needs it
        """Run in the server's loop once it listens."""

    async def closing(self) -> None:  # noqa: B027 - as above
        """Run in the server's loop before it stops."""

    @property
    def base_url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise NotReadyError(f"{type(self).__name__} is not running")
        return self._loop

    def start(self) -> Self:
        started = threading.Event()
        failure: list[BaseException] = []

        def run() -> None:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                self._loop = runner.get_loop()
                try:
                    runner.run(self._listen())
                except OSError as error:
                    failure.append(error)
                    return
                finally:
                    started.set()
                self._loop.run_forever()

        self._thread = threading.Thread(target=run, name=type(self).__name__, daemon=True)
        self._thread.start()
        started.wait(timeout=10)
        if failure:
            raise failure[0]
        return self

    def stop(self) -> None:
        if self._thread is None or self._loop is None:
            return
        self.run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._thread = self._loop = None

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float = 30.0) -> T:
        """Run something in the server's loop from another thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout)

    def here(self, call: Callable[[], None]) -> None:
        """Do something in the server's loop now, whichever thread this is."""

        async def inside() -> None:
            call()

        try:
            in_loop = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            in_loop = False
        if in_loop:
            call()
        else:
            self.run(inside())

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def serve_forever(self) -> None:
        """For `python -m`: serve in this thread until SIGTERM or SIGINT."""

        async def main() -> None:
            import signal  # noqa: PLC0415 - only the program form handles signals

            self._loop = asyncio.get_running_loop()
            ended = asyncio.Event()
            for each in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(each, ended.set)
            await self._listen()
            print(f"{type(self).__name__} listens on {self.base_url}", flush=True)
            await ended.wait()
            await self._close()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())

    async def _listen(self) -> None:
        app = web.Application(client_max_size=32 * 1024 * 1024)
        app.add_routes(self.routes())
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port, backlog=1024)
        await site.start()
        # A server on port 0 gets its number now; it keeps it over stop() and start().
        self.port = int(self._runner.addresses[0][1])
        await self.opened()

    async def _close(self) -> None:
        await self.closing()
        if self._runner is not None:
            await self._runner.cleanup()
