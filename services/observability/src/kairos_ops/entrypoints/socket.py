"""One WebSocket of the live feed: opening, reading, writing, ending."""

import asyncio
import json
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from kairos_ops.application.issue_ticket import Tickets
from kairos_ops.application.live_feed import Client, FeedFull, LiveFeed
from kairos_ops.domain.feed import Resume
from kairos_ops.domain.protocol import ClientFrame, CloseCode, Ping, Sub, Unsub
from kairos_ops.domain.ticket import TicketRefused
from kairos_web import public

MAX_FRAME = 4_096
SEND_TIMEOUT_S = 20.0


class _ResumeIn(BaseModel):
    epoch: str = Field(max_length=64)
    seq: int = Field(ge=0)


class _SubIn(BaseModel):
    model_config = ConfigDict(extra="ignore")

    t: Literal["sub"]
    topic: str = Field(max_length=64)
    types: tuple[Annotated[str, Field(max_length=128)], ...] = Field(default=(), max_length=32)
    resume: _ResumeIn | None = None


class _UnsubIn(BaseModel):
    t: Literal["unsub"]
    topic: str = Field(max_length=64)


class _PingIn(BaseModel):
    t: Literal["ping"]
    at: float = 0.0


_FRAME: TypeAdapter[_SubIn | _UnsubIn | _PingIn] = TypeAdapter(
    Annotated[_SubIn | _UnsubIn | _PingIn, Field(discriminator="t")]
)


def parse_frame(text: str) -> ClientFrame:
    """Read a client's frame. Raises ValueError (ValidationError is one) when it is none."""
    if len(text) > MAX_FRAME:
        raise ValueError("frame too large")
    frame = _FRAME.validate_python(json.loads(text))
    match frame:
        case _SubIn():
            resume = Resume(frame.resume.epoch, frame.resume.seq) if frame.resume else None
            return Sub(frame.topic, frame.types, resume)
        case _UnsubIn():
            return Unsub(frame.topic)
        case _PingIn():
            return Ping(frame.at)


def origin_allowed(origin: str | None, host: str | None, allowed: frozenset[str]) -> bool:
    """Browsers always send Origin; it must be this host or a listed one. Other clients send none."""
    return origin is None or origin in allowed or urlsplit(origin).netloc == host


@dataclass(frozen=True)
class SocketRules:
    allowed_origins: frozenset[str]
    life: timedelta


class _Session:
    """The two halves of one open socket."""

    def __init__(self, socket: WebSocket, feed: LiveFeed) -> None:
        self._socket = socket
        self._feed = feed
        self._wake = asyncio.Event()

    async def run(self, client: Client, closed: asyncio.Event, life: timedelta) -> None:
        """Serve until the client leaves, `closed` is set, or the socket is as old as it may get."""
        halves = [
            asyncio.create_task(self._read(client)),
            asyncio.create_task(self._write(client)),
            asyncio.create_task(closed.wait()),
        ]
        try:
            done, _ = await asyncio.wait(
                halves, timeout=life.total_seconds(), return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                client.close(CloseCode.RENEW)
        finally:
            for half in halves:
                half.cancel()
            await asyncio.gather(*halves, return_exceptions=True)

    def wake(self) -> None:
        self._wake.set()

    async def _read(self, client: Client) -> None:
        try:
            async for text in self._socket.iter_text():
                self._feed.handle(client, parse_frame(text))
        except (ValueError, ValidationError, KeyError):
            client.close(CloseCode.BAD_FRAME)

    async def _write(self, client: Client) -> None:
        while True:
            hint = client.mailbox.wait_hint(monotonic())
            if hint is None or hint > 0:
                await self._rest(hint)
                continue
            for frame in client.mailbox.drain(monotonic()):
                try:
                    async with asyncio.timeout(SEND_TIMEOUT_S):
                        await self._socket.send_text(frame)
                except TimeoutError:
                    client.close(CloseCode.TOO_SLOW)
                    return

    async def _rest(self, limit: float | None) -> None:
        self._wake.clear()
        try:
            async with asyncio.timeout(limit):
                await self._wake.wait()
        except TimeoutError:
            return


async def _end(socket: WebSocket, code: int) -> None:
    # A client that does not read must not keep the handler: its link is cut when this returns.
    try:
        async with asyncio.timeout(1):
            await socket.close(code)
    except (TimeoutError, RuntimeError, WebSocketDisconnect):
        return


def add_live_feed(app: FastAPI, feed: LiveFeed, tickets: Tickets, rules: SocketRules) -> None:
    """Serve the live feed at `/ws?ticket=`."""

    @app.websocket("/ws", dependencies=[public("the one-time ticket carries the caller of POST /tickets")])
    async def live(socket: WebSocket, ticket: str = "") -> None:
        headers = socket.headers
        if not origin_allowed(headers.get("origin"), headers.get("host"), rules.allowed_origins):
            await socket.close(CloseCode.ORIGIN_REFUSED)
            return
        try:
            actor = await tickets.redeem(ticket)
        except TicketRefused:
            await socket.accept()
            await socket.close(CloseCode.TICKET_REFUSED)
            return
        await socket.accept()
        session = _Session(socket, feed)
        closed = asyncio.Event()
        try:
            client = feed.connect(actor, session.wake)
        except FeedFull:
            await socket.close(CloseCode.FULL)
            return
        client.on_close = closed.set
        try:
            await session.run(client, closed, rules.life)
        finally:
            feed.disconnect(client)
        if client.close_code is not None:
            await _end(socket, client.close_code)


def frame_schema() -> dict[str, Any]:
    """JSON Schema of the frames a client may send, for the documentation."""
    return _FRAME.json_schema()
