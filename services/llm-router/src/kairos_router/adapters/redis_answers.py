"""Kept answers in Redis, which may lose them. A request never waits for it longer than a few milliseconds."""

import asyncio
import time
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any, TypeVar

import orjson
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from kairos_router.application.cache_ports import Kept, StoreAway
from kairos_telemetry import get_logger

_log = get_logger(__name__)
T = TypeVar("T")

PREFIX = "kairos:cache"
PATIENCE_S = 0.025
"""What a request may lose on a slow Redis."""
REST_S = 0.5
"""How long a Redis that failed is left alone."""
CONNECTIONS = 16
LARGEST_BYTES = 1_048_576
COMPRESSED_FROM_BYTES = 1_024
MOST_VECTORS = 500
_SPARE_VECTORS = 50
_PLAIN, _PACKED = b"0", b"1"
# Only the lock's own holder opens it: after its time it may be another one's.
_UNLOCK = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


def encode(kept: Kept) -> bytes:
    """One flag, the facts as a line of JSON, the answer's bytes; packed when that is worth it."""
    facts = asdict(kept)
    del facts["body"]
    whole = orjson.dumps(facts) + b"\n" + kept.body
    return _PACKED + zlib.compress(whole, 1) if len(whole) >= COMPRESSED_FROM_BYTES else _PLAIN + whole


def decode(value: bytes) -> Kept | None:
    """None for what another version has written."""
    try:
        whole = zlib.decompress(value[1:]) if value[:1] == _PACKED else value[1:]
        facts, _, body = whole.partition(b"\n")
        return Kept(body=body, **orjson.loads(facts))
    except (zlib.error, orjson.JSONDecodeError, TypeError):
        return None


class RedisAnswers:
    """See AnswerStore. `patience` is how long a request waits for Redis, in seconds."""

    def __init__(
        self, url: str, *, patience: float = PATIENCE_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        # redis-py types each command as "now or later"; with this client it is always later.
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=1,
            socket_timeout=1.0,
            socket_connect_timeout=1.0,
            retry=Retry(NoBackoff(), 0),
        )
        self._redis: Any = Redis(connection_pool=pool)
        self._unlock = self._redis.register_script(_UNLOCK)
        self._patience = patience
        self._clock = clock
        self._resting_until = 0.0

    async def get(self, key: str) -> Kept | None:
        value = await self._soon(lambda: self._redis.get(f"{PREFIX}:{key}"))
        return None if value is None else decode(value)

    async def put(self, key: str, kept: Kept, ttl_seconds: int) -> None:
        value = encode(kept)
        if len(value) <= LARGEST_BYTES:
            await self._later(lambda: self._redis.set(f"{PREFIX}:{key}", value, ex=max(1, ttl_seconds)))

    async def lock(self, key: str, holder: str, seconds: float) -> bool:
        milliseconds = int(seconds * 1000)
        set_ = await self._soon(
            lambda: self._redis.set(f"{PREFIX}:lock:{key}", holder, nx=True, px=milliseconds)
        )
        return bool(set_)

    async def unlock(self, key: str, holder: str) -> None:
        await self._later(lambda: self._unlock(keys=[f"{PREFIX}:lock:{key}"], args=[holder]))

    async def vectors(self, space: str) -> dict[str, bytes]:
        found = await self._later(lambda: self._redis.hgetall(f"{PREFIX}:vectors:{space}"))
        # A field is `time:key`, so that the oldest can be told.
        return {name.decode().partition(":")[2]: value for name, value in sorted(found.items())}

    async def add_vector(self, space: str, key: str, value: bytes, ttl_seconds: int) -> None:
        name = f"{PREFIX}:vectors:{space}"
        field = f"{time.time_ns() // 1_000_000:013d}:{key}"
        await self._later(lambda: self._redis.hset(name, field, value))
        await self._later(lambda: self._redis.expire(name, max(1, ttl_seconds)))
        if await self._later(lambda: self._redis.hlen(name)) > MOST_VECTORS:
            oldest = sorted(await self._later(lambda: self._redis.hkeys(name)))
            excess = len(oldest) - MOST_VECTORS + _SPARE_VECTORS
            await self._later(lambda: self._redis.hdel(name, *oldest[:excess]))

    async def close(self) -> None:
        await self._redis.aclose()
        await self._redis.connection_pool.aclose()

    async def _soon(self, call: Callable[[], Awaitable[T]]) -> T:
        """While a request waits."""
        return await self._bounded(call, self._patience)

    async def _later(self, call: Callable[[], Awaitable[T]]) -> T:
        """In the background, or beside work that takes longer anyway."""
        return await self._bounded(call, self._patience * 8)

    async def _bounded(self, call: Callable[[], Awaitable[T]], seconds: float) -> T:
        if self._clock() < self._resting_until:
            raise StoreAway("resting")
        try:
            async with asyncio.timeout(seconds):
                return await call()
        except (RedisError, OSError, TimeoutError) as error:
            if self._clock() >= self._resting_until:
                _log.warning("answer_cache_away", error=type(error).__name__)
            self._resting_until = self._clock() + REST_S
            raise StoreAway(type(error).__name__) from error
