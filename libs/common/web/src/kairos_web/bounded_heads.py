"""uvicorn's connections with bounds for the head of a request: its size, and the time it takes to come.

uvicorn has neither: a caller without any credential could fill the memory with one endless header, or keep
connections open by a byte now and then. Who is refused gets 431 or 408, and the connection is closed.
"""

import asyncio
import json
from typing import Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from kairos_web.problems import MEDIA_TYPE, Problem, problem_document

LONGEST_HEAD: Final = 65_536
# From the connection, or from the first byte of a later request, to the end of its head.
HEAD_S: Final = 30.0
# How long somebody who still sends is listened to after a refusal: an unread byte would reset the connection
# and take the refusal with it.
LINGER_S: Final = 2.0

_UNREADABLE: Final = Problem(400, "invalid_http", "This is no valid HTTP request")
_TOO_LARGE: Final = Problem(431, "head_too_large", f"The head of a request has at most {LONGEST_HEAD} bytes")
_TOO_SLOW: Final = Problem(408, "head_too_slow", "The head of the request did not come in time")


class _HeadTooLargeError(ValueError):
    """Ends the parser's work; raised inside one of its callbacks."""


class BoundedHeads(HttpToolsProtocol):
    """Whoever replaces on_message_begin and on_headers_complete calls `head_begins` and `head_ends`.

    A whole head in one piece, which is the usual one, starts no timer.
    """

    _in_head = True
    _fresh = False
    _begun = False
    _measured_at_end = False
    _refused = False
    _head_bytes = 0
    _late: asyncio.TimerHandle | None = None
    head_s = HEAD_S

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        super().connection_made(transport)
        self._late = self.loop.call_later(self.head_s, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_timer()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self.head_begins()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self.head_ends()
        super().on_headers_complete()

    def head_begins(self) -> None:
        self._in_head = self._fresh = self._begun = True
        self._head_bytes = 0

    def head_ends(self) -> None:
        """Raises ValueError, for the parser, when a head of one large piece, or of several, is too large."""
        if self._measured_at_end:
            self._measured_at_end = False
            fields = sum(len(name) + len(value) + 4 for name, value in self.headers)
            if len(self.url) + fields > LONGEST_HEAD:
                self._refuse(_TOO_LARGE)
                raise _HeadTooLargeError
        self._in_head = False
        if self._late is not None:
            self._forget_timer()

    def on_header(self, name: bytes, value: bytes) -> None:
        # What follows a body in chunks are trailers, which nobody in between has looked at.
        if self._in_head:
            super().on_header(name, value)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if len(data) > LONGEST_HEAD:
            self._measured_at_end = True
        super().data_received(data)
        if self._in_head:
            self._more_to_come(len(data))

    def _more_to_come(self, size: int) -> None:
        if self._refused or self.transport.is_closing():
            return
        # Of the piece a head begins in, nobody knows how much is the body before it.
        self._head_bytes += 0 if self._fresh else size
        self._fresh = False
        self._measured_at_end = True
        if self._head_bytes > LONGEST_HEAD:
            self._refuse(_TOO_LARGE)
        elif self._late is None:
            self._late = self.loop.call_later(self.head_s, self._too_slow)

    def refusal(self, problem: Problem) -> tuple[str, bytes]:
        """The media type and body of a refusal, before anybody knows what the request would have been."""
        return MEDIA_TYPE, json.dumps(problem_document(problem)).encode()

    def send_400_response(self, msg: str) -> None:
        if self._answering():
            super().send_400_response(msg)
        elif not self._refused:
            self._refuse(_UNREADABLE)

    def _too_slow(self) -> None:
        self._late = None
        if self._answering():
            # An answer to an earlier request is on its way.
            self._late = self.loop.call_later(self.head_s, self._too_slow)
        elif self._in_head and self._begun:
            self._refuse(_TOO_SLOW)
        elif self._in_head:
            # Who asked nothing is told nothing.
            self.transport.abort()

    def _answering(self) -> bool:
        # None before the first request, whatever uvicorn's annotation says.
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _refuse(self, problem: Problem) -> None:
        """Say why and end the connection."""
        self._forget_timer()
        self._refused = True
        if self._answering():
            # Nothing else can be said in the middle of an answer.
            self.transport.abort()
            return
        media_type, body = self.refusal(problem)
        headers = [
            *self.server_state.default_headers,
            (b"content-type", media_type.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        head = b"".join([b"%b: %b\r\n" % header for header in headers])
        self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[problem.status], head, body))
        self.transport.write_eof()
        self._late = self.loop.call_later(LINGER_S, self.transport.abort)

    def _forget_timer(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
