import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from fastapi import FastAPI
from starlette.requests import HTTPConnection

from kairos_contracts.permissions import Actor, Permission, Role
from kairos_testkit.servers import Servers
from kairos_web import Limit, RateLimiter, create_app, limited, public, requires

AWAY = "redis://127.0.0.1:1/0"


@pytest.mark.servers
async def test_replicas_count_together_in_redis(redis_url: str) -> None:
    limit = Limit("shared", 10, 60)
    replicas = [RateLimiter(redis_url), RateLimiter(redis_url)]
    decisions = [await replicas[number % 2].hit(limit, "caller") for number in range(12)]
    assert [decision.allowed for decision in decisions] == [True] * 10 + [False] * 2
    assert decisions[0].remaining == 9
    assert decisions[-1].remaining == 0
    assert 1 <= decisions[-1].reset_after <= 60
    assert (await replicas[0].hit(limit, "another")).allowed
    for replica in replicas:
        await replica.close()


async def test_with_redis_away_the_limit_is_stricter_and_never_open() -> None:
    limiter = RateLimiter(AWAY)
    limit = Limit("shared", 20, 60)
    allowed = [(await limiter.hit(limit, "caller")).allowed for _ in range(12)]
    assert allowed == [True] * 5 + [False] * 7
    await limiter.close()


@pytest.mark.servers
async def test_redis_that_comes_back_is_used_again(servers: Servers, redis_url: str) -> None:
    limiter = RateLimiter(redis_url)
    limit = Limit("return", 100, 60)
    assert (await limiter.hit(limit, "caller")).limit == 100
    servers.redis.pause()
    try:
        away = await limiter.hit(limit, "caller")
        assert away.limit == 25
    finally:
        servers.redis.resume()
    deadline = asyncio.get_running_loop().time() + 10
    while (await limiter.hit(limit, "caller")).limit != 100:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.05)
    await limiter.close()


async def test_without_redis_by_choice_the_full_limit_is_counted_here() -> None:
    limiter = RateLimiter(None)
    limit = Limit("local", 3, 60)
    assert [(await limiter.hit(limit, "x")).allowed for _ in range(4)] == [True, True, True, False]
    await limiter.close()


class OneMember:
    async def authenticate(self, connection: HTTPConnection) -> Actor | None:
        return Actor(
            kind="member",
            id=connection.headers["x-member"],
            organisation_id=uuid4(),
            role=Role.ADMIN,
        )


@asynccontextmanager
async def nothing(_: FastAPI) -> AsyncIterator[None]:
    yield


async def test_routes_answer_429_with_the_headers_of_the_limit(calling: Callable[..., Any]) -> None:
    app = create_app(
        "test",
        title="T",
        version="1",
        lifespan=nothing,
        authenticator=OneMember(),
        checks=[],
        rate_limiter=RateLimiter(None, default=Limit("caller", 2, 60)),
    )

    @app.get("/guarded", dependencies=[requires(Permission.BOTS_READ)])
    async def guarded() -> str:
        return "ok"

    @app.get("/open", dependencies=[public("for the test"), limited("open", 1, seconds=60)])
    async def open_() -> str:
        return "ok"

    async with calling(app) as client:
        answers = [await client.get("/guarded", headers={"x-member": "a"}) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert [answer.headers["ratelimit-remaining"] for answer in answers] == ["1", "0", "0"]
        assert answers[2].headers["ratelimit-limit"] == "2"
        assert int(answers[2].headers["retry-after"]) >= 1
        assert answers[2].json()["code"] == "rate_limited"
        assert (await client.get("/guarded", headers={"x-member": "b"})).status_code == 200
        assert [(await client.get("/open")).status_code for _ in range(2)] == [200, 429]
