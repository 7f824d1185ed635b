"""Any OpenAI-compatible provider, bytes in and bytes out."""

import re
import ssl
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

import orjson

from kairos_router.adapters.guarded_names import GuardedNames
from kairos_router.adapters.http_answer import Answer, HttpFailed, HttpTimeout
from kairos_router.adapters.http_client import HttpClient, Lookup, Patience
from kairos_router.adapters.operations import WIRES, address, encode, fixed_headers
from kairos_router.application.guard_address import Reach
from kairos_router.application.ports import (
    Fault,
    ProviderCall,
    ProviderFailed,
    ProviderReply,
    ProviderStream,
)
from kairos_router.domain.ask import Operation
from kairos_router.domain.catalogue import Deployment
from kairos_router.domain.pricing import Usage
from kairos_router.domain.provider_rules import FRAMING
from kairos_telemetry import current_traceparent

LONGEST_ERROR: Final = 65_536
USER_AGENT: Final = "kairos-llm-router"

# These come from something between us and the model, which may have run and may charge.
_IN_BETWEEN = frozenset({502, 504, 520, 521, 522, 523, 524})
_MISCONFIGURED = frozenset({401, 402, 403, 404, 405})
_SERVER_ERROR = 500
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_TARGET = re.compile(r"[!-~]+")


class _Line:
    """The connections of one deployment and what every request to it has in common."""

    def __init__(self, deployment: Deployment, lookup: Lookup | None) -> None:
        self.deployment = deployment
        timeouts = deployment.timeouts
        parts = urlsplit(deployment.base_url)
        secure = parts.scheme == "https"
        fixed = {
            "Host": parts.netloc.rpartition("@")[2],
            "User-Agent": USER_AGENT,
            **fixed_headers(deployment),
        }
        self._fixed = "".join(_header(name, value) for name, value in fixed.items())
        self.client = HttpClient(
            parts.hostname or "",
            parts.port or (443 if secure else 80),
            Patience(timeouts.connect, timeouts.first_byte, timeouts.idle),
            tls=ssl.create_default_context() if secure else None,
            lookup=lookup,
        )
        self._heads: dict[Operation, bytes] = {}

    def request(self, call: ProviderCall, *, stream: bool) -> bytes:
        """The whole request as it goes out."""
        head = self._heads.get(call.operation)
        if head is None:
            head = self._heads[call.operation] = self._head(call.operation)
        body = encode(call, stream=stream)
        traceparent = current_traceparent()
        trace = b"traceparent: %b\r\n" % traceparent.encode() if traceparent else b""
        attempt = orjson.dumps(call.attempt_id)[1:-1]  # In a tenth of the time of its own method.
        return b"%b%b\r\n%bContent-Length: %d\r\n\r\n%b" % (head, attempt, trace, len(body), body)

    def _head(self, operation: Operation) -> bytes:
        parts = urlsplit(address(self.deployment, operation))
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        if not _TARGET.fullmatch(target):
            raise ProviderFailed(Fault.MISCONFIGURED, detail="the path holds what an address can't")
        return f"POST {target} HTTP/1.1\r\n{self._fixed}x-kairos-attempt-id: ".encode("latin-1")


def _header(name: str, value: str) -> str:
    if not (name + value).isprintable():
        # A line break in a key or header would let it write the rest of the request.
        raise ProviderFailed(Fault.MISCONFIGURED, detail=f"header {name!r} holds a control character")
    if not _TOKEN.fullmatch(name) or name.lower() in FRAMING or not _encodable(value):
        raise ProviderFailed(Fault.MISCONFIGURED, detail=f"header {name!r} is not for a deployment to set")
    return f"{name}: {value}\r\n"


def _encodable(value: str) -> bool:
    return all(ord(each) < 256 for each in value)  # noqa: PLR2004 - latin-1, what a header can carry


def _reached(error: HttpFailed) -> ProviderFailed:
    """What an error of the connection tells about the request that was on it."""
    if not error.sent:
        return ProviderFailed(Fault.UNREACHABLE, detail=str(error))
    fault = Fault.TIMEOUT if isinstance(error, HttpTimeout) else Fault.BROKEN
    return ProviderFailed(fault, may_have_run=True, detail=str(error))


def _refused(status: int, body: bytes, retry_after: str | None) -> ProviderFailed:
    """What an answer with an error status means."""
    if status == 429:  # noqa: PLR2004 - an HTTP status
        fault = Fault.RATE_LIMITED
    elif status >= _SERVER_ERROR:
        fault = Fault.FAILED
    elif status in _MISCONFIGURED:
        fault = Fault.MISCONFIGURED
    elif b"context_length_exceeded" in body:
        fault = Fault.TOO_LONG
    else:
        fault = Fault.INVALID_REQUEST
    may_have_run = status in _IN_BETWEEN
    kept = body if fault.callers else b""
    return ProviderFailed(fault, status=status, may_have_run=may_have_run, body=kept, retry_after=retry_after)


class OpenAIUpstream:
    """See Provider. `reach` bounds where deployments of organisations lead; the file's may lead anywhere."""

    def __init__(self, reach: Reach | None = None) -> None:
        self._lookup = GuardedNames(reach or Reach())
        # Organisations may give a name of their own to what is another deployment elsewhere, and
        # requests of two organisations never share a connection to deployments of their own.
        self._lines: dict[tuple[UUID | None, str, str, str | None], _Line] = {}
        self._former: list[_Line] = []

    async def complete(self, call: ProviderCall) -> ProviderReply:
        answer = await self._send(call, stream=False)
        try:
            body = await answer.read()
        except HttpFailed as error:
            raise _reached(error) from None
        except BaseException:
            # The caller is gone; closing the connection is what tells the provider to stop.
            answer.close()
            raise
        return WIRES[call.operation].reply(body)

    async def open_stream(self, call: ProviderCall) -> ProviderStream:
        answer = await self._send(call, stream=True)
        if answer.content_type != "text/event-stream":
            answer.close()
            raise ProviderFailed(
                Fault.BROKEN, status=200, may_have_run=True, detail=f"answered {answer.content_type}"
            )
        return UpstreamStream(answer, call)

    async def close(self) -> None:
        for line in (*self._lines.values(), *self._former):
            line.client.close()
        self._lines.clear()
        self._former.clear()

    def _line(self, deployment: Deployment) -> _Line:
        key = (deployment.owner, deployment.name, deployment.base_url, deployment.api_key)
        line = self._lines.get(key)
        if line is not None and line.deployment is deployment:
            return line
        if line is not None and line.deployment == deployment:
            line.deployment = deployment  # The catalogue was read anew and says the same.
            return line
        if line is not None:
            # Answers on the former line end on it; nothing new goes there.
            line.client.retire()
            self._former.append(line)
        self._former = [each for each in self._former if not each.client.unused]
        self._lines = {name: each for name, each in self._lines.items() if not each.client.unused}
        line = self._lines[key] = self._new_line(deployment)
        return line

    def _new_line(self, deployment: Deployment) -> _Line:
        """Raises ProviderFailed."""
        try:
            return _Line(deployment, self._lookup if deployment.owner is not None else None)
        except ValueError:
            raise ProviderFailed(Fault.MISCONFIGURED, detail="base_url is no address") from None

    async def _send(self, call: ProviderCall, *, stream: bool) -> Answer:
        line = self._line(call.deployment)
        try:
            answer = await line.client.send(line.request(call, stream=stream))
        except HttpFailed as error:
            raise _reached(error) from None
        if answer.status != 200:  # noqa: PLR2004 - an HTTP status
            raise await _error_of(answer)
        return answer


async def _error_of(answer: Answer) -> ProviderFailed:
    body = b""
    try:
        with suppress(HttpFailed):
            while len(body) < LONGEST_ERROR and (piece := await answer.next()):
                body += piece
    finally:
        answer.close()
    retry_after = answer.headers.get(b"retry-after")
    return _refused(
        answer.status, body[:LONGEST_ERROR], retry_after.decode("latin-1") if retry_after else None
    )


class UpstreamStream:
    """A stream on an open connection; see ProviderStream."""

    __slots__ = ("_answer", "_tail", "finished", "usage")

    def __init__(self, answer: Answer, call: ProviderCall) -> None:
        self._answer = answer
        self._tail = WIRES[call.operation].tail(call)
        # Fields, not properties: every piece of every stream is followed by a look at them.
        self.usage: Usage | None = None
        self.finished = False

    async def next(self) -> bytes:
        while True:
            try:
                data = await self._answer.next()
            except HttpFailed as error:
                if self.finished:
                    return b""  # The answer is whole; how the connection ends does not matter.
                raise _reached(error) from None
            if not data:
                return b""
            tail = self._tail
            try:
                events = tail.feed(data)
            finally:
                self.usage, self.finished = tail.usage, tail.finished
            if events:
                return events

    def content_bytes(self) -> int:
        return self._tail.content_bytes()

    def close(self) -> None:
        # An answer read to its end gave its connection back already, and this does nothing to it.
        self._answer.close()
