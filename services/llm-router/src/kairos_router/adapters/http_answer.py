"""An HTTP answer on its way, as the one who asked sees it."""

import asyncio
import zlib
from collections import deque
from typing import Final, Protocol

# What a provider may send before it is taken for something else.
LONGEST_HEAD: Final = 65_536
LONGEST_ANSWER: Final = 64 * 1024 * 1024
# A stream whose caller reads slowly: from this many bytes on the provider is made to wait.
HIGH_WATER: Final = 262_144
# A piece that grows beyond this when it is unpacked is an attack, not an answer.
LARGEST_UNPACKED: Final = 4 * 1024 * 1024
_GZIP_OR_ZLIB: Final = 47


class HttpFailed(Exception):  # noqa: N818 - reads as the fact it states
    """There is no answer. `sent`: bytes of the request may have reached the provider."""

    def __init__(self, detail: str, *, sent: bool = True) -> None:
        super().__init__(detail)
        self.sent = sent


class HttpTimeout(HttpFailed):
    """The provider was silent for too long."""


class HttpBroken(HttpFailed):
    """The connection ended in the middle, or what came is no HTTP."""


class Line(Protocol):
    """What an answer needs of the connection it comes on."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def abort(self) -> None:
        """Close at once; a provider that is still generating learns that nobody listens."""
        ...


class Answer:
    """One answer. Its connection writes, one task reads: `head`, then `read` or `next` until b"".

    `headers` are those a provider's answer is judged by, with names in lower case.
    """

    __slots__ = (
        "_buffered",
        "_chunks",
        "_inflate",
        "_line",
        "_loop",
        "_paused",
        "_waiter",
        "_whole",
        "ended",
        "failure",
        "headed",
        "headers",
        "size",
        "status",
    )

    def __init__(self, line: Line, loop: asyncio.AbstractEventLoop) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.headed = False
        self.ended = False
        self.failure: HttpFailed | None = None
        self.size = 0
        self._line = line
        self._loop = loop
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._paused = False
        self._whole = False
        self._waiter: asyncio.Future[None] | None = None
        self._inflate: zlib._Decompress | None = None

    @property
    def waiting(self) -> bool:
        """Whether the reader waits for the provider, and not the other way round."""
        return self._whole or not (self._chunks or self._paused)

    @property
    def content_type(self) -> str:
        return self.headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")

    # --- the connection's side ---

    def began(self, status: int) -> None:
        """The head is complete. Raises HttpBroken for a packing nobody here can open."""
        self.status = status
        encoding = self.headers.get(b"content-encoding", b"identity").strip().lower()
        if encoding in {b"gzip", b"deflate"}:
            self._inflate = zlib.decompressobj(_GZIP_OR_ZLIB)
        elif encoding not in {b"identity", b""}:
            raise HttpBroken("packed in a way we did not ask for")
        self.headed = True
        self._wake()

    def add(self, data: bytes) -> None:
        """More of the body. Raises HttpBroken when it grows beyond what an answer can be."""
        if self._inflate is not None:
            data = _unpacked(self._inflate, data)
            if not data:
                return
        self._chunks.append(data)
        size = len(data)
        self.size += size
        if self._whole:
            if self.size > LONGEST_ANSWER:
                raise HttpBroken("longer than any answer")
            return
        self._buffered += size
        if self._buffered > HIGH_WATER and not self._paused:
            self._paused = True
            self._line.pause()
        self._wake()

    def end(self, failure: HttpFailed | None = None) -> None:
        """Nothing more comes. What came before stays readable."""
        self.ended = True
        self.failure = failure
        self._flow()
        self._wake()

    def _flow(self) -> None:
        if self._paused:
            self._paused = False
            self._line.resume()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    # --- the reader's side ---

    async def head(self) -> None:
        """Wait for status and headers. Raises HttpFailed."""
        while not self.headed:
            if self.failure is not None:
                raise self.failure
            await self._more()

    async def next(self) -> bytes:
        """What has come meanwhile, b"" at the end. Raises HttpFailed."""
        while not self._chunks:
            if self.failure is not None:
                raise self.failure
            if self.ended:
                return b""
            await self._more()
        chunks = self._chunks
        data = chunks.popleft() if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._buffered = 0
        self._flow()
        return data

    async def read(self) -> bytes:
        """The whole body. Raises HttpFailed."""
        self._whole = True
        self._flow()
        while not self.ended:
            await self._more()
        if self.failure is not None:
            raise self.failure
        chunks = self._chunks
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def close(self) -> None:
        """Break off what has not ended; does nothing after the end."""
        if not self.ended:
            self._line.abort()
            self.end(HttpBroken("closed by us"))

    def _more(self) -> asyncio.Future[None]:
        """Done when something has come, or nothing more will."""
        self._waiter = self._loop.create_future()
        return self._waiter


def _unpacked(inflate: "zlib._Decompress", data: bytes) -> bytes:
    try:
        unpacked = inflate.decompress(data, LARGEST_UNPACKED)
    except zlib.error:
        raise HttpBroken("packed wrongly") from None
    if inflate.unconsumed_tail:
        raise HttpBroken("longer than any answer")
    return unpacked
