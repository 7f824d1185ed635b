"""One HTTP client session per process, made when the event loop runs."""

import aiohttp


class OutboundSession:
    """Call it for the session; bootstrap may build it before the loop runs."""

    def __init__(self, *, total_timeout: float = 5.0, connect_timeout: float = 2.0) -> None:
        self._timeout = aiohttp.ClientTimeout(total=total_timeout, connect=connect_timeout)
        self._session: aiohttp.ClientSession | None = None

    def __call__(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(timeout=self._timeout)
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
