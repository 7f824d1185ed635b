"""Any OpenAI-compatible provider, bytes in and bytes out."""

import asyncio
from contextlib import suppress

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from kairos_router.adapters.operations import WIRES, address, encode, fixed_headers
from kairos_router.application.ports import (
    Fault,
    ProviderCall,
    ProviderFailed,
    ProviderReply,
    ProviderStream,
)
from kairos_router.domain.catalogue import Deployment
from kairos_router.domain.pricing import Usage
from kairos_telemetry import current_traceparent

LONGEST_ERROR = 65_536
KEEP_ALIVE_S = 15.0

# These come from something between us and the model, which may have run and may charge.
_IN_BETWEEN = frozenset({502, 504, 520, 521, 522, 523, 524})
_MISCONFIGURED = frozenset({401, 402, 403, 404, 405})
_SERVER_ERROR = 500


class _Line:
    """The connection pool of one deployment and what every request to it has in common."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.urls = {operation: URL(address(deployment, operation), encoded=True) for operation in WIRES}
        self.headers = CIMultiDict(fixed_headers(deployment))
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=deployment.timeouts.connect),
            cookie_jar=aiohttp.DummyCookieJar(),
        )


def _reached(error: Exception) -> ProviderFailed:
    """What an error of the connection tells about the request that was on it."""
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | aiohttp.InvalidURL):
        return ProviderFailed(Fault.UNREACHABLE, detail=type(error).__name__)
    fault = Fault.TIMEOUT if isinstance(error, TimeoutError) else Fault.BROKEN
    return ProviderFailed(fault, may_have_run=True, detail=type(error).__name__)


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
    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}
        self._former: list[_Line] = []

    async def complete(self, call: ProviderCall) -> ProviderReply:
        response = await self._send(call, stream=False)
        try:
            async with asyncio.timeout(call.deployment.timeouts.idle):
                body = await response.read()
        except (TimeoutError, aiohttp.ClientError) as error:
            response.close()
            raise _reached(error) from None
        except BaseException:
            # The caller is gone; closing the connection is what tells the provider to stop.
            response.close()
            raise
        return WIRES[call.operation].reply(body)

    async def open_stream(self, call: ProviderCall) -> ProviderStream:
        response = await self._send(call, stream=True)
        if response.content_type != "text/event-stream":
            response.close()
            raise ProviderFailed(
                Fault.BROKEN, status=200, may_have_run=True, detail=f"answered {response.content_type}"
            )
        return UpstreamStream(response, call)

    async def close(self) -> None:
        for line in (*self._lines.values(), *self._former):
            await line.session.close()
        self._lines.clear()
        self._former.clear()

    def _replace(self, deployment: Deployment, former: _Line | None) -> _Line:
        if former is not None:
            # Requests on the former line end on it; nothing new goes there.
            self._former.append(former)
        line = self._lines[deployment.name] = _Line(deployment)
        return line

    async def _send(self, call: ProviderCall, *, stream: bool) -> aiohttp.ClientResponse:
        deployment = call.deployment
        line = self._lines.get(deployment.name)
        if line is None or line.deployment is not deployment:
            line = self._replace(deployment, line)
        headers = line.headers.copy()
        headers["x-kairos-attempt-id"] = str(call.attempt_id)
        traceparent = current_traceparent()
        if traceparent:
            headers["traceparent"] = traceparent
        try:
            async with asyncio.timeout(deployment.timeouts.first_byte):
                response = await line.session.post(
                    line.urls[call.operation], data=encode(call, stream=stream), headers=headers
                )
        except (TimeoutError, aiohttp.ClientError) as error:
            raise _reached(error) from None
        if response.status != 200:  # noqa: PLR2004 - an HTTP status
            raise await _error_of(response, deployment.timeouts.idle)
        return response


async def _error_of(response: aiohttp.ClientResponse, timeout: float) -> ProviderFailed:
    body = b""
    with suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(timeout):
            body = await response.content.read(LONGEST_ERROR)
    response.close()
    return _refused(response.status, body, response.headers.get("Retry-After"))


class UpstreamStream:
    """A stream on an open connection; see ProviderStream."""

    def __init__(self, response: aiohttp.ClientResponse, call: ProviderCall) -> None:
        self._response = response
        self._tail = WIRES[call.operation].tail(call)
        self._idle = call.deployment.timeouts.idle

    @property
    def usage(self) -> Usage | None:
        return self._tail.usage

    @property
    def finished(self) -> bool:
        return self._tail.finished

    async def next(self) -> bytes:
        content = self._response.content
        while True:
            try:
                async with asyncio.timeout(self._idle):
                    data = await content.readany()
            except (TimeoutError, aiohttp.ClientError) as error:
                if self.finished:
                    return b""  # The answer is whole; how the connection ends does not matter.
                raise _reached(error) from None
            if not data:
                return b""
            events = self._tail.feed(data)
            if events:
                return events

    def content_bytes(self) -> int:
        return self._tail.content_bytes()

    def close(self) -> None:
        # A connection read to its end went back to the pool already, and this does nothing to it.
        self._response.close()
