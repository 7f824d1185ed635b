"""What callers get while a server is away, and that nothing is lost."""

from typing import Any

import pytest

from kairos_testkit.servers import Servers

pytestmark = pytest.mark.servers


async def test_without_postgresql_callers_are_told_to_come_back(
    running: Any, servers: Servers, eventual: Any
) -> None:
    owner = await running.organisation()
    servers.postgres.stop()
    try:
        answer = await owner.client.get("/session")
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"
        assert int(answer.headers["retry-after"]) >= 1
        async with running.anonymous() as client:
            assert (await client.get("/health/ready")).status_code == 503
            assert (await client.get("/health/live")).status_code == 200
    finally:
        servers.postgres.start()
        servers.postgres.wait_ready()

    async def back() -> bool:
        return bool((await owner.client.get("/session")).status_code == 200)

    await eventual(back)
    await owner.client.post("/projects", json={"name": "after the outage"})
    await owner.audited(action="project.created")


async def test_without_rabbitmq_members_work_on_and_entries_arrive_later(
    running: Any, servers: Servers
) -> None:
    owner = await running.organisation()
    await owner.audited(action="session.created")
    servers.rabbitmq.pause()
    try:
        answer = await owner.client.post("/projects", json={"name": "meanwhile"})
        assert answer.status_code == 201
        await owner.sign_in()
    finally:
        servers.rabbitmq.resume()
    entry = await owner.audited(action="project.created")
    assert entry["after"] == {"name": "meanwhile"}


async def test_without_redis_members_work_on(running: Any, servers: Servers) -> None:
    owner = await running.organisation()
    servers.redis.pause()
    try:
        answer = await owner.client.get("/session")
        assert answer.status_code == 200
        limit = int(answer.headers["ratelimit-limit"])
    finally:
        servers.redis.resume()
    assert limit == 300
