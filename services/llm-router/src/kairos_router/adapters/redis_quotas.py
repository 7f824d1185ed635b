"""The authority of quotas in Redis: one script counts, by the server's clock, for all processes.

What it keeps may be lost: an epoch tells processes that it was, and they tell anew what they had used.
"""

import asyncio
from collections.abc import Sequence
from importlib import resources
from uuid import uuid4

import orjson
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from kairos_router.application.quota_ports import AuthorityAway, Claim, Share, Taken
from kairos_telemetry import get_logger, metrics

_log = get_logger(__name__)

PREFIX = "kairos:quota"
TIMEOUT_S = 0.25
"""A slower Redis counts as away."""
MARGIN_S = 0.05
"""Taken off how long a slice lasts: no two clocks run at exactly the same speed."""
_SCRIPT = resources.files("kairos_router.adapters").joinpath("quotas.lua").read_text("utf-8")


class RedisQuotas:
    """See QuotaAuthority. Every failure of Redis is AuthorityAway, within TIMEOUT_S."""

    def __init__(self, url: str) -> None:
        self._redis: Redis = Redis.from_url(
            url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        self._script = self._redis.register_script(_SCRIPT)
        self._up = True
        self._present = metrics.gauge("kairos_quota_authority_up")

    async def take(
        self, holder: str, claims: Sequence[Claim], *, epoch: str, replicas: int, returning: bool = False
    ) -> Taken:
        asked = {
            "holder": holder,
            "epoch": epoch,
            "fresh": uuid4().hex,
            "replicas": replicas,
            "returning": returning,
            "claims": [
                {
                    "limit": claim.limit,
                    "window": claim.window_ms,
                    "need": claim.need,
                    "want": claim.want,
                    "held": claim.held,
                    "deltas": list(claim.deltas.items()),
                }
                for claim in claims
            ],
        }
        fixed = (f"{PREFIX}:epoch", f"{PREFIX}:replicas", f"{PREFIX}:settling")
        keys = [*fixed, *(f"{PREFIX}:{claim.key}" for claim in claims)]
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await self._script(keys=keys, args=[orjson.dumps(asked)])
        except (RedisError, OSError, TimeoutError) as error:
            if self._up:
                _log.warning("quota_authority_away", error=type(error).__name__)
            self._up = False
            self._present.set(0)
            raise AuthorityAway(type(error).__name__) from error
        self._up = True
        self._present.set(1)
        return _taken(orjson.loads(answer))

    async def close(self) -> None:
        await self._redis.aclose()


def _taken(document: dict[str, object]) -> Taken:
    rows = document.get("shares")
    return Taken(
        epoch=str(document["epoch"]),
        replicas=int(str(document["replicas"])),
        now=float(str(document["now"])) / 1000,
        lost=document.get("lost") is True,
        refused=document.get("refused") is True,
        shares=[_share(row) for row in rows] if isinstance(rows, list) else [],
    )


def _share(row: list[float]) -> Share:
    granted, bucket, lasts, remaining, reset_after, retry_after = row
    return Share(
        granted=int(granted),
        bucket=int(bucket),
        lasts=lasts / 1000 - MARGIN_S,
        remaining=int(remaining),
        reset_after=reset_after / 1000,
        retry_after=retry_after / 1000 if retry_after > 0 else float(retry_after),
    )
