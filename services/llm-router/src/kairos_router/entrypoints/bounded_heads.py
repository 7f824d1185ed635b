"""uvicorn's connections with bounds for the head of a request: its size, and the time it takes to come.

uvicorn has neither: a caller without any credential could fill the memory with one endless header, or keep
connections open by a byte now and then.
"""

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

LONGEST_HEAD: Final = 65_536
# From the connection, or from the first byte of a later request, to the end of its head.
HEAD_S: Final = 30.0


class BoundedHeads(HttpToolsProtocol):
    """Whoever overrides on_message_begin and on_headers_complete calls `head_begins` and `head_ends`.

    A whole head in one piece, which is the usual one, starts no timer.
    """

    _in_head = True
    _fresh = False
    _head_bytes = 0
    _late: asyncio.TimerHandle | None = None
    head_s = HEAD_S

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        super().connection_made(transport)
        self._late = self.loop.call_later(self.head_s, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_timer()
        super().connection_lost(exc)

    def head_begins(self) -> None:
        self._in_head = self._fresh = True
        self._head_bytes = 0

    def head_ends(self) -> None:
        self._in_head = False
        if self._late is not None:
            self._forget_timer()

    def on_header(self, name: bytes, value: bytes) -> None:
        # What follows a body in chunks are trailers, which nobody in between has looked at.
        if self._in_head:
            super().on_header(name, value)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            # Of the piece a head begins in, nobody knows how much is the body before it.
            self._head_bytes += 0 if self._fresh else len(data)
            self._fresh = False
            if self._head_bytes > LONGEST_HEAD:
                self._end()
            elif self._late is None:
                self._late = self.loop.call_later(self.head_s, self._too_slow)

    def _too_slow(self) -> None:
        self._late = None
        # None before the first request, whatever uvicorn's annotation says.
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            # An answer to an earlier request is on its way.
            self._late = self.loop.call_later(self.head_s, self._too_slow)
        elif self._in_head:
            self._end()

    def _end(self) -> None:
        """Break the connection: there is no request that could be answered."""
        self._forget_timer()
        self.transport.abort()

    def _forget_timer(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
