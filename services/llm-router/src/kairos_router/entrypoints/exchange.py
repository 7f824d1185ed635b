"""One request to /v1 on its way: what was asked, who asks, and the answer going out."""

import re
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson

from kairos_contracts.permissions import Actor
from kairos_router.domain.ask import Caller, InvalidAsk
from kairos_router.domain.identifiers import new_id
from kairos_router.entrypoints.admission import Entry
from kairos_router.entrypoints.hot_http import TooLarge, Wire
from kairos_router.entrypoints.openai_errors import ErrorAnswer, Header

OK = 200
# What has fewer brackets can't be nested too deeply: a document is written to 254 levels, read to 1,024.
DEEPEST = 200
# Levels that a translation for a provider may add.
ROOM = 16
_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")
_JSON: tuple[Header, ...] = ((b"content-type", b"application/json"),)
_EVENTS: tuple[Header, ...] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


def require_shallow(payload: Any) -> None:
    """Raises InvalidAsk for a document that can be read and not be written again."""
    wrapped = payload
    for _ in range(ROOM):
        wrapped = [wrapped]
    try:
        orjson.dumps(wrapped)
    except TypeError:
        raise InvalidAsk("the body is nested too deeply") from None


@dataclass(slots=True)
class Exchange:
    """One request and what has become of it so far.

    `actor` and `caller` are set before an operation's handler runs, `payload` (the parsed body) and
    `size` (its length in bytes) for those with a body. A handler sets `route`, the bounded name of
    what was asked for, `provider_seconds` and `tokens` (what the answer used) for telemetry and quotas.
    """

    wire: Wire
    started: float
    completion_id: UUID = field(default_factory=new_id)
    completion_text: bytes = b""
    request_id: bytes = b""
    credential: str | None = None
    traceparent: str | None = None
    priority: bytes = b""
    contact_id: bytes = b""
    cache_control: bytes = b""
    length: int = 0
    actor: Actor | None = None
    caller: Caller | None = None
    payload: Any = None
    size: int = 0
    template: str = "(none)"
    route: str = "(none)"
    outcome: str = "ok"
    status: int = 0
    provider_seconds: float | None = None
    tokens: int | None = None
    entry: Entry | None = None

    @property
    def method(self) -> str:
        return self.wire.method

    @property
    def path(self) -> str:
        return self.wire.path

    @property
    def gone(self) -> bool:
        """Whether the caller's going away has cancelled the request."""
        return self.wire.client_gone

    @property
    def known_caller(self) -> Caller:
        """The caller, for a handler: it runs for known ones only."""
        if self.caller is None:
            raise RuntimeError("a handler runs after the caller is known")
        return self.caller

    def read_headers(self) -> None:
        """Of a header that came more than once, the last one counts."""
        told = dict(self.wire.headers)
        scheme, _, credential = told.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer":
            self.credential = credential.strip().decode("latin-1") or None
        length = told.get(b"content-length", b"")
        self.length = int(length) if length.isdigit() else 0
        traceparent = told.get(b"traceparent")
        if traceparent is not None:
            self.traceparent = traceparent.decode("latin-1")
        self.priority = told.get(b"x-kairos-priority", b"")
        self.contact_id = told.get(b"x-kairos-contact-id", b"")
        self.cache_control = told.get(b"x-kairos-cache", b"")
        # orjson writes a UUID in a tenth of the time its own method takes.
        self.completion_text = orjson.dumps(self.completion_id)[1:-1]
        request_id = told.get(b"x-request-id")
        sane = request_id is not None and _SANE_ID.fullmatch(request_id)
        self.request_id = request_id if request_id and sane else self.completion_text

    async def read_json(self, limit: int) -> None:
        """Read and parse the body into `payload`.

        From here on the caller's going away cancels the request.
        Raises TooLarge, ClientGone, orjson.JSONDecodeError, InvalidAsk.
        """
        if self.length > limit:
            raise TooLarge
        body = await self.wire.read(limit)
        payload = orjson.loads(body)
        if body.count(b"[") + body.count(b"{") > DEEPEST:
            require_shallow(payload)
        self.payload, self.size = payload, len(body)
        self.wire.watch()

    async def count(self, tokens: int) -> None:
        """Have the quotas count what the request may use. Raises Rejected."""
        waiting = self.entry.count(tokens) if self.entry is not None else None
        if waiting is not None:
            await waiting

    async def answer(self, status: int, body: bytes, more: list[Header]) -> None:
        """Send a whole JSON answer."""
        self.status = status
        self.wire.answer(status, self._headers(_JSON, more), body)

    async def refuse(self, answer: ErrorAnswer) -> None:
        self.outcome = answer.code
        await self.answer(answer.status, answer.body, answer.headers)

    async def begin_events(self, more: list[Header]) -> None:
        """Begin a stream of server-sent events; `events` and then `end_events` follow."""
        self.status = OK
        self.wire.begin(OK, self._headers(_EVENTS, more))

    def events(self, piece: bytes) -> Awaitable[None] | None:
        """More of the stream. Wait for what is returned, if anything: the caller reads slowly."""
        return self.wire.piece(piece)

    async def end_events(self) -> None:
        self.wire.end()

    def _headers(self, kind: tuple[Header, ...], more: list[Header]) -> list[Header]:
        return [
            *kind,
            *more,
            *(self.entry.headers() if self.entry is not None else ()),
            (b"x-request-id", self.request_id),
            (b"x-kairos-completion-id", self.completion_text),
        ]
