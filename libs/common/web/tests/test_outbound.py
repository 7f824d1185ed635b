from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from kairos_telemetry import configure, current_traceparent, span
from kairos_web import OutboundSession


@pytest.fixture
async def called() -> AsyncIterator[tuple[str, list[str | None]]]:
    """An address, and the `traceparent` of each request to it."""
    seen: list[str | None] = []

    async def note(request: web.Request) -> web.Response:
        seen.append(request.headers.get("traceparent"))
        return web.Response()

    app = web.Application()
    app.add_routes([web.get("/", note)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/", seen
    await runner.cleanup()


async def test_a_request_inside_a_span_carries_it_and_one_outside_carries_none(
    called: tuple[str, list[str | None]],
) -> None:
    address, seen = called
    telemetry = configure("caller", otlp_endpoint=None)
    session = OutboundSession()
    with span("work"):
        inside = current_traceparent()
        (await session().get(address)).release()
    (await session().get(address)).release()
    await session.close()
    telemetry.shutdown()
    assert inside is not None
    assert seen == [inside, None]
