"""Applications and callers for the tests of the web library."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from kairos_telemetry.logs import configure_logs


@pytest.fixture(scope="session", autouse=True)
def _plain_logs() -> None:
    # Unconfigured, structlog draws every frame's locals; a traceback then takes seconds.
    configure_logs(service="test", environment="test", version="0", log_level="INFO")


async def _eventually(check: Callable[[], bool], within: float = 5.0) -> None:
    deadline = time.monotonic() + within
    while not check():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)


@pytest.fixture(scope="session")
def eventually() -> Callable[..., Awaitable[None]]:
    return _eventually


@asynccontextmanager
async def _calling(app: FastAPI, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, **options)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://kairos.test") as client,
    ):
        yield client


@pytest.fixture(scope="session")
def calling() -> Callable[..., Any]:
    """`async with calling(app) as client`: the application started, and a client of it."""
    return _calling
