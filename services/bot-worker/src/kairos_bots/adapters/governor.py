"""Pacing of sends for the whole fleet, in Redis; stricter per process while Redis is away.

The algorithm is the generic cell rate algorithm: each key keeps the time at which it would be idle
again. A message passes when that time is at most `burst` intervals ahead.
Limits of the channel: https://core.telegram.org/bots/faq#my-bot-is-hitting-limits-how-do-i-avoid-this
"""

import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from kairos_telemetry import get_logger

_TIMEOUT_S = 0.15
_ASLEEP_S = 1.0
_LOCAL_KEYS = 20_000
_log = get_logger(__name__)

# KEYS: one per limit. ARGV: interval in microseconds and burst, per key. Returns the wait in microseconds.
_SCRIPT = """
local now = redis.call('TIME')
now = now[1] * 1000000 + now[2]
local wait = 0
local idle_at = {}
for i, key in ipairs(KEYS) do
  local interval = tonumber(ARGV[2 * i - 1])
  local burst = tonumber(ARGV[2 * i])
  local idle = math.max(tonumber(redis.call('GET', key) or 0), now)
  wait = math.max(wait, idle - now - interval * (burst - 1))
  idle_at[i] = idle + interval
end
if wait > 0 then return math.ceil(wait) end
for i, key in ipairs(KEYS) do
  redis.call('SET', key, string.format('%.0f', idle_at[i]), 'PX', math.ceil((idle_at[i] - now) / 1000) + 1)
end
return 0
"""


@dataclass(frozen=True)
class Pace:
    """One message per `interval`, after up to `burst` at once."""

    interval: timedelta
    burst: int = 1

    def stricter(self) -> "Pace":
        """For one process that can't see the others."""
        return Pace(self.interval * 4, max(1, self.burst // 4))

    @property
    def microseconds(self) -> int:
        return max(1, self.interval // timedelta(microseconds=1))


@dataclass(frozen=True)
class Paces:
    chat: Pace
    group: Pace
    bot: Pace

    def of(self, bot_id: UUID, chat_id: str) -> list[tuple[str, Pace]]:
        """The limits of one message. Telegram's groups have negative chat ids."""
        # The braces keep the keys of one bot in one slot of a Redis cluster.
        own = f"kairos:pace:{{{bot_id}}}"
        limits = [(own, self.bot), (f"{own}:{chat_id}", self.chat)]
        if chat_id.startswith("-"):
            limits.append((f"{own}:{chat_id}:group", self.group))
        return limits


class RedisGovernor:
    def __init__(self, redis_url: str, paces: Paces) -> None:
        self._redis: Any = Redis.from_url(
            redis_url,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        self._script = self._redis.register_script(_SCRIPT)
        self._paces = paces
        self._local = LocalGovernor()
        self._asleep_until = 0.0

    async def admit(self, bot_id: UUID, chat_id: str) -> timedelta:
        limits = self._paces.of(bot_id, chat_id)
        if time.monotonic() >= self._asleep_until:
            try:
                return await self._ask(limits)
            except Exception as error:  # noqa: BLE001 - whatever Redis does, the reply gets a decision
                self._asleep_until = time.monotonic() + _ASLEEP_S
                _log.warning("pacing_without_redis", error=type(error).__name__)
        return self._local.admit([(key, pace.stricter()) for key, pace in limits])

    async def ping(self) -> None:
        await self._redis.ping()

    async def close(self) -> None:
        await self._redis.aclose()

    async def _ask(self, limits: list[tuple[str, Pace]]) -> timedelta:
        arguments = [number for _, pace in limits for number in (pace.microseconds, pace.burst)]
        wait = await self._script(keys=[key for key, _ in limits], args=arguments)
        return timedelta(microseconds=int(wait))


class LocalGovernor:
    """The same algorithm in this process."""

    def __init__(self) -> None:
        self._idle_at: OrderedDict[str, float] = OrderedDict()

    def admit(self, limits: list[tuple[str, Pace]], now: float | None = None) -> timedelta:
        now = time.monotonic() if now is None else now
        idle = {key: max(self._idle_at.get(key, 0.0), now) for key, _ in limits}
        wait = max(idle[key] - now - pace.interval.total_seconds() * (pace.burst - 1) for key, pace in limits)
        if wait > 0:
            return timedelta(seconds=wait)
        for key, pace in limits:
            self._idle_at[key] = idle[key] + pace.interval.total_seconds()
            self._idle_at.move_to_end(key)
        while len(self._idle_at) > _LOCAL_KEYS:
            self._idle_at.popitem(last=False)
        return timedelta(0)
