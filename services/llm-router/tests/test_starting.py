"""A router that starts while PostgreSQL is away: it waits, says so, and then serves what is right."""

import asyncio
import contextlib
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
import pytest

from kairos_contracts.permissions import Role
from kairos_testkit.ports import free_port

pytestmark = pytest.mark.servers

KEY = "kairos_live_early"


class Gateway:
    """An address of a PostgreSQL that nobody listens at before `open`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._behind = (parts.hostname, parts.port)
        self._port = free_port()
        self.url = url.replace(f"{parts.hostname}:{parts.port}", f"127.0.0.1:{self._port}")
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self._port)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection(*self._behind)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while piece := await source.read(65_536):
                    sink.write(piece)
                    await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))


async def answer(session: aiohttp.ClientSession, url: str, body: Any = None) -> tuple[int, Any]:
    method = "GET" if body is None else "POST"
    async with session.request(method, url, json=body) as response:
        return response.status, await response.json()


def missing(report: Any) -> set[str]:
    return {each["name"] for each in report["checks"] if not each["healthy"]}


async def test_nobody_is_served_before_it_is_known_what_is_theirs(service_of: Any, kit: Any) -> None:
    organisation = uuid4()
    ask = {"model": "first", "messages": [{"role": "user", "content": "hello"}]}
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        # The organisation's own `first` covers the shared one: it may be the one that stays in the house.
        async with service_of(limit=10**12, private_providers=True) as before:
            before.keys.add(KEY, role=Role.ADMIN, organisation_id=organisation)
            own = {
                "kind": "simulator",
                "model": "mine",
                "price": {"input": 1, "output": 1},
                "context_window": 32_000,
                "max_output_tokens": 256,
            }
            async with session.put(f"{before.url}/deployments/first", json=own) as made:
                assert made.status == 200, await made.text()
            gateway = Gateway(before.router.settings.postgres_url.get_secret_value())
        async with service_of(limit=10**12, postgres_url=gateway.url, ready=False) as service:
            service.keys.add(KEY, role=Role.ADMIN, organisation_id=organisation)
            status, report = await answer(session, f"{service.url}/health/ready")
            assert (status, report["status"]) == (503, "down")
            assert {"postgres", "catalogue", "quotas"} <= missing(report)
            assert (await answer(session, f"{service.url}/health/live"))[0] == 200
            for path, body in (("chat/completions", ask), ("models", None)):
                status, refused = await answer(session, f"{service.v1}/{path}", body)
                assert status == 503, refused
                assert refused["error"]["code"] in {"quotas_unavailable", "catalogue_unavailable"}
            status, problem = await answer(session, f"{service.url}/deployments")
            assert (status, problem["code"]) == (503, "unavailable")
            await gateway.open()

            async def ready() -> bool:
                return (await answer(session, f"{service.url}/health/ready"))[0] == 200

            await kit.until(ready)
            status, document = await answer(session, f"{service.v1}/chat/completions", ask)
            assert (status, document["model"]) == (200, "mine")
            assert service.first.records == []
        await gateway.close()


async def test_a_catalogue_that_was_read_serves_on_without_the_database(
    service_of: Any, provisioned: Any
) -> None:
    gateway = Gateway(provisioned.service_database("kairos_router", "router"))
    await gateway.open()
    async with (
        service_of(limit=10**12, postgres_url=gateway.url) as service,
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session,
    ):
        service.keys.add(KEY)
        await gateway.close()
        await service.router.database.dispose()
        ask = {"model": "first", "messages": [{"role": "user", "content": "hello"}]}
        assert (await answer(session, f"{service.v1}/chat/completions", ask))[0] == 200
        status, report = await answer(session, f"{service.url}/health/ready")
        assert (status, report["status"], "postgres" in missing(report)) == (200, "degraded", True)
