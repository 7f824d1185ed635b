"""One HTTP client session per process, made when the event loop runs."""

from types import SimpleNamespace

import aiohttp

from kairos_telemetry import current_traceparent


class OutboundSession:
    """Call it for the session; bootstrap may build it before the loop runs.

    A request made inside a span carries it, so that the called service's span is part of the trace.
    """

    def __init__(self, *, total_timeout: float = 5.0, connect_timeout: float = 2.0) -> None:
        self._timeout = aiohttp.ClientTimeout(total=total_timeout, connect=connect_timeout)
        self._session: aiohttp.ClientSession | None = None

    def __call__(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(timeout=self._timeout, trace_configs=[_tracing()])
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def _tracing() -> aiohttp.TraceConfig:
    config = aiohttp.TraceConfig()
    config.on_request_start.append(_carry_span)
    return config


async def _carry_span(
    _: aiohttp.ClientSession, __: SimpleNamespace, request: aiohttp.TraceRequestStartParams
) -> None:
    traceparent = current_traceparent()
    if traceparent:
        request.headers.setdefault("traceparent", traceparent)
