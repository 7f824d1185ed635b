"""One request to /v1 on its way: what was asked, who asks, and the answer going out."""

import asyncio
import re
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import orjson
from starlette.types import Receive, Scope, Send

from kairos_contracts.permissions import Actor
from kairos_router.domain.ask import Caller
from kairos_router.entrypoints.admission import Entry
from kairos_router.entrypoints.openai_errors import ErrorAnswer, Header

OK = 200
_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")
_JSON = (b"content-type", b"application/json")
_EVENTS: tuple[Header, ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


class TooLarge(Exception):  # noqa: N818 - reads as the fact it states
    """The body is larger than allowed; the request is refused and nothing of it kept."""


class ClientGone(Exception):  # noqa: N818 - reads as the fact it states
    """The caller went away before the request was complete; there is nobody to answer."""


@dataclass(slots=True)
class Exchange:
    """One request and what has become of it so far.

    `actor` and `caller` are set before an operation's handler runs, `payload` (the parsed body) and
    `size` (its length in bytes) for those with a body. A handler sets `route`, the bounded name of
    what was asked for, `provider_seconds` and `tokens` (what the answer used) for telemetry and quotas.
    """

    scope: Scope
    receive: Receive
    send: Send
    started: float
    completion_id: UUID = field(default_factory=uuid4)
    request_id: bytes = b""
    credential: str | None = None
    traceparent: str | None = None
    priority: bytes = b""
    contact_id: bytes = b""
    length: int = 0
    actor: Actor | None = None
    caller: Caller | None = None
    payload: Any = None
    size: int = 0
    route: str = "(none)"
    outcome: str = "ok"
    status: int = 0
    provider_seconds: float | None = None
    tokens: int | None = None
    entry: Entry | None = None
    disconnect: "Disconnect | None" = None

    @property
    def path(self) -> str:
        path: str = self.scope["path"]
        return path

    @property
    def known_caller(self) -> Caller:
        """The caller, for a handler: it runs for known ones only."""
        if self.caller is None:
            raise RuntimeError("a handler runs after the caller is known")
        return self.caller

    def read_headers(self) -> None:
        for name, value in self.scope["headers"]:
            if name == b"authorization":
                scheme, _, credential = value.partition(b" ")
                if scheme.lower() == b"bearer":
                    self.credential = credential.strip().decode("latin-1") or None
            elif name == b"content-length":
                self.length = int(value) if value.isdigit() else 0
            elif name == b"traceparent":
                self.traceparent = value.decode("latin-1")
            elif name == b"x-request-id" and _SANE_ID.fullmatch(value):
                self.request_id = value
            elif name == b"x-kairos-priority":
                self.priority = value
            elif name == b"x-kairos-contact-id":
                self.contact_id = value
        self.request_id = self.request_id or self.completion_id.hex.encode()

    async def read_json(self, limit: int) -> None:
        """Read and parse the body into `payload`. Raises TooLarge, ClientGone, orjson.JSONDecodeError."""
        body = await self._read_body(limit)
        self.payload, self.size = orjson.loads(body), len(body)

    def watch(self) -> None:
        """From here on the caller's going away cancels the request's task, until an answer is complete."""
        self.disconnect = Disconnect(self.receive)

    @property
    def gone(self) -> bool:
        return self.disconnect is not None and self.disconnect.gone

    def disarm(self) -> None:
        if self.disconnect is not None:
            self.disconnect.disarm()

    async def count(self, tokens: int) -> None:
        """Have the quotas count what the request may use. Raises Rejected."""
        waiting = self.entry.count(tokens) if self.entry is not None else None
        if waiting is not None:
            await waiting

    async def answer(self, status: int, body: bytes, more: list[Header]) -> None:
        """Send a whole JSON answer."""
        self.disarm()
        self.status = status
        headers = self._headers([_JSON, (b"content-length", str(len(body)).encode()), *more])
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    async def refuse(self, answer: ErrorAnswer) -> None:
        self.outcome = answer.code
        await self.answer(answer.status, answer.body, answer.headers)

    async def begin_events(self, more: list[Header]) -> None:
        """Begin a stream of server-sent events; `events` and then `end_events` follow."""
        self.status = OK
        headers = self._headers([*_EVENTS, *more])
        await self.send({"type": "http.response.start", "status": OK, "headers": headers})

    async def events(self, piece: bytes) -> None:
        await self.send({"type": "http.response.body", "body": piece, "more_body": True})

    async def end_events(self) -> None:
        self.disarm()
        await self.send({"type": "http.response.body", "body": b""})

    def _headers(self, more: list[Header]) -> list[Header]:
        return [
            *more,
            *(self.entry.headers() if self.entry is not None else ()),
            (b"x-request-id", self.request_id),
            (b"x-kairos-completion-id", str(self.completion_id).encode()),
        ]

    async def _read_body(self, limit: int) -> bytes:
        if self.length > limit:
            raise TooLarge
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise TooLarge
            parts.append(part)
            if not message.get("more_body"):
                return parts[0] if len(parts) == 1 else b"".join(parts)


class Disconnect:
    """Cancels the request's task when its caller goes away, until it is disarmed."""

    __slots__ = ("_armed", "_receive", "_task", "_watcher", "gone")

    def __init__(self, receive: Receive) -> None:
        self.gone = False
        self._armed = True
        self._receive = receive
        self._task = asyncio.current_task()
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue
        if self._armed and self._task is not None:
            self.gone = True
            self._task.cancel()

    def disarm(self) -> None:
        # Before the last byte goes out: after it, "disconnect" only means that the exchange is over.
        self._armed = False
        self._watcher.cancel()
