"""A client of the front door that listens to the live feed, as a console page does.

The demo runs as a script and the tests import it as `tests.e2e.live_client`.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

POLL_S: Final = 0.1
Json = dict[str, Any]


class Missing(Exception):  # noqa: N818 - reads as the fact it states
    """Something that was expected of the installation is not there; the text says what."""


@dataclass(frozen=True)
class Api:
    """JSON over HTTP. Anything but 2xx is a Missing with the server's own words."""

    http: aiohttp.ClientSession
    base: str
    headers: dict[str, str] = field(default_factory=dict, repr=False)

    async def get(self, path: str, **query: str | int) -> Any:
        return await self.call("GET", path, params=query)

    async def post(self, path: str, body: Any = None) -> Any:
        return await self.call("POST", path, json=body)

    async def call(self, method: str, path: str, **more: Any) -> Any:
        url = f"{self.base}{path}"
        try:
            async with self.http.request(method, url, headers=self.headers, **more) as answer:
                body = await answer.text()
                if not answer.ok:
                    raise Missing(f"{method} {url} answered {answer.status}: {body[:300]}")
                return json.loads(body) if body else None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Missing(
                f"{method} {url}: {str(error) or type(error).__name__}; is the suite up?"
            ) from error

    async def until(self, what: str, look: Callable[[], Awaitable[Any]]) -> Any:
        """Ask again until the look gives something; the caller's deadline ends it."""
        with waiting_for(what):
            while not (found := await look()):  # noqa: ASYNC110 - what it waits for is in another process
                await asyncio.sleep(POLL_S)
        return found


class waiting_for:  # noqa: N801 - reads as the block it opens
    """Names what is being waited for, so that a deadline can say what is missing."""

    now: Final[list[str]] = []

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        self.now.append(self._what)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.now.remove(self._what)


@dataclass(frozen=True)
class LiveEvent:
    """One `ev` frame; `at` is when it arrived here."""

    at: float
    event: Json

    @property
    def type(self) -> str:
        return str(self.event["type"])

    @property
    def data(self) -> Json:
        return dict(self.event["data"])


class LiveFeed:
    """A WebSocket client of `/ws`, as a console page is one."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self.opening: list[Json] = []
        self.events: list[LiveEvent] = []

    @classmethod
    async def open(cls, api: Api, *, resume: Json | None = None) -> "LiveFeed":
        """Subscribed to all events; `opening` holds the frames up to `ready`."""
        ticket = (await api.post("/api/observability/tickets"))["ticket"]
        try:
            socket = await api.http.ws_connect(f"{api.base}/ws", params={"ticket": ticket})
        except aiohttp.ClientError as error:
            raise Missing(f"the live feed refused the WebSocket: {error}") from error
        feed = cls(socket)
        await socket.send_json({"t": "sub", "topic": "events", "resume": resume})
        with waiting_for("the live feed's ready"):
            while not feed.opening or feed.opening[-1]["t"] != "ready":
                feed.opening.append(await feed.frame())
        return feed

    async def frame(self) -> Json:
        message = await self._socket.receive()
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise Missing(f"the live feed closed with {self._socket.close_code}")
        frame: Json = json.loads(message.data)
        return frame

    async def listen(self) -> None:
        """Collect events until cancelled."""
        while True:
            frame = await self.frame()
            if frame["t"] == "ev":
                self.events.append(LiveEvent(time.time(), frame["event"]))
            elif frame["t"] in {"gap", "drop"}:
                raise Missing(f"the live feed lost events: {frame}")

    def of_trace(self, trace_id: str) -> list[LiveEvent]:
        return [each for each in self.events if each.event["trace_id"] == trace_id]
