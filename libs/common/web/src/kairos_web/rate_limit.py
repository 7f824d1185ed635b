"""Requests per caller and window, counted in Redis over all replicas.

Redis may be away: then each replica counts for itself with a quarter of the limit, never without one.
"""

import time
from dataclasses import dataclass
from typing import Any

from fastapi import Depends
from limits import RateLimitItem, RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from starlette.requests import HTTPConnection

from kairos_telemetry import get_logger
from kairos_web.problems import Problem

_log = get_logger(__name__)
_REDIS_TIMEOUT = 0.25  # Seconds; a slower Redis counts as away.
_REDIS_PAUSE = 1.0  # Seconds without asking Redis again after it failed.
_LOCAL_SHARE = 4


@dataclass(frozen=True)
class Limit:
    """`amount` requests per `seconds`, counted under `name`."""

    name: str
    amount: int
    seconds: int

    def item(self) -> RateLimitItem:
        return RateLimitItemPerSecond(self.amount, self.seconds, namespace=f"kairos:{self.name}")

    def stricter(self) -> "Limit":
        return Limit(f"{self.name}:local", max(1, self.amount // _LOCAL_SHARE), self.seconds)


@dataclass(frozen=True)
class Decision:
    """What one hit did. `reset_after` is in whole seconds."""

    allowed: bool
    limit: int
    remaining: int
    reset_after: int

    def headers(self) -> dict[str, str]:
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(self.reset_after),
        }


DEFAULT_LIMIT = Limit("caller", amount=1200, seconds=60)


class RateLimiter:
    """Counts hits by limit and key. `redis_url` None counts locally at the full amount."""

    def __init__(self, redis_url: str | None, *, default: Limit = DEFAULT_LIMIT) -> None:
        self.default = default
        self._local = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._pool: ConnectionPool | None = None
        self._shared: SlidingWindowCounterRateLimiter | None = None
        if redis_url is not None:
            self._pool = ConnectionPool.from_url(
                redis_url,
                socket_timeout=_REDIS_TIMEOUT,
                socket_connect_timeout=_REDIS_TIMEOUT,
                retry=Retry(NoBackoff(), 0),
            )
            pool: Any = self._pool
            storage = RedisStorage(f"async+{redis_url}", implementation="redispy", connection_pool=pool)
            self._shared = SlidingWindowCounterRateLimiter(storage)
        self._asleep_until = 0.0

    async def hit(self, limit: Limit, key: str) -> Decision:
        if self._shared is not None and time.monotonic() >= self._asleep_until:
            try:
                return await self._count(self._shared, limit, key)
            except Exception as error:  # noqa: BLE001 - whatever Redis does, the caller gets a decision
                self._asleep_until = time.monotonic() + _REDIS_PAUSE
                _log.warning("rate_limit_counts_locally", error=type(error).__name__)
        return await self._count(self._local, limit.stricter() if self._shared else limit, key)

    @staticmethod
    async def _count(counter: SlidingWindowCounterRateLimiter, limit: Limit, key: str) -> Decision:
        item = limit.item()
        allowed = await counter.hit(item, key)
        stats = await counter.get_window_stats(item, key)
        reset_after = max(1, round(stats.reset_time - time.time()))
        return Decision(allowed, limit.amount, max(0, stats.remaining), reset_after)

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.disconnect()


async def enforce(limiter: RateLimiter, limit: Limit, connection: HTTPConnection, key: str) -> None:
    """Count one hit; headers go to the answer through the request state. Raises 429."""
    decision = await limiter.hit(limit, key)
    connection.state.rate_limit_headers = decision.headers()
    if not decision.allowed:
        raise Problem(
            429,
            "rate_limited",
            "Too many requests",
            headers={"Retry-After": str(decision.reset_after)},
            limit=decision.limit,
        )


@dataclass(frozen=True)
class _LimitedByAddress:
    limit: Limit

    async def __call__(self, connection: HTTPConnection) -> None:
        limiter: RateLimiter | None = connection.app.state.rate_limiter
        if limiter is not None:
            address = connection.client.host if connection.client else "unknown"
            await enforce(limiter, self.limit, connection, f"ip:{address}")


def limited(name: str, amount: int, *, seconds: int) -> Any:
    """Put it beside `public(...)`: at most `amount` requests per client address in `seconds`."""
    return Depends(_LimitedByAddress(Limit(name, amount, seconds)))
