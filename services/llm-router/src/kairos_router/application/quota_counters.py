"""What this process knows of the counts that concern a caller."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from kairos_router.application.quota_ports import Header
from kairos_router.domain.allowance import Allowance, Slots
from kairos_router.domain.quota import BUCKETS, Metric, Quota


class Counter:
    """One quota's count for one subject, as this process sees it."""

    __slots__ = (
        "allowance",
        "blocked_for",
        "blocked_need",
        "blocked_until",
        "key",
        "quota",
        "remaining",
        "reset_at",
        "slots",
    )

    def __init__(self, quota: Quota, subject: UUID) -> None:
        window = quota.window.value if quota.window else "now"
        self.key = f"{quota.organisation_id}:{quota.quota_id}:{subject}:{window}"
        self.quota = quota
        self.allowance = Allowance(max(1, quota.limit // 100))
        self.slots = Slots()
        self.remaining = quota.limit
        self.reset_at = 0.0
        self.blocked_until = 0.0
        self.blocked_need = 0
        self.blocked_for = 0.0

    @property
    def window_ms(self) -> int:
        return self.quota.window.milliseconds if self.quota.window else 0

    @property
    def width(self) -> float:
        """Seconds of one bucket."""
        return self.window_ms / 1000 / BUCKETS

    def fits(self, units: int, now: float) -> bool:
        return self.allowance.fits(units, now) if self.quota.window else self.slots.fits(now)

    def take(self, units: int, now: float) -> int:
        if self.quota.window:
            return self.allowance.take(units, now)
        self.slots.take()
        return 0

    def low(self, now: float) -> bool:
        """Whether it is time to ask for more while there still is some."""
        if not self.quota.window:
            return self.slots.used * 4 > self.slots.held * 3
        allowance = self.allowance
        return allowance.free * 2 < allowance.aim or now > allowance.until - self.width

    def left(self) -> int:
        if self.quota.window:
            return max(0, self.remaining + self.allowance.free)
        return max(0, self.remaining + self.slots.held - self.slots.used)


@dataclass(slots=True)
class CallerQuotas:
    """The counters of one caller. `refill` is the request for more that is under way."""

    entry: tuple[Counter, ...]
    tokens: tuple[Counter, ...]
    lock: asyncio.Lock
    refill: "asyncio.Task[None] | None" = None
    refilled_at: float = 0.0


def _duration(seconds: float) -> bytes:
    """As OpenAI's clients know it: `850ms`, `6s`, `1m30s`."""
    if seconds < 1:
        return b"%dms" % max(0, round(seconds * 1000))
    minutes, rest = divmod(round(seconds), 60)
    return b"%dm%ds" % (minutes, rest) if minutes else b"%ds" % rest


def rate_limit_headers(counters: Iterable[Counter], now: float) -> list[Header]:
    """The tightest quota of each metric, in OpenAI's words and in those of the IETF's draft."""
    tightest: dict[Metric, Counter] = {}
    for each in counters:
        metric = each.quota.metric
        known = tightest.get(metric)
        if known is None or each.left() * known.quota.limit < known.left() * each.quota.limit:
            tightest[metric] = each
    headers: list[Header] = []
    for metric, name in ((Metric.REQUESTS, b"requests"), (Metric.TOKENS, b"tokens")):
        counter = tightest.get(metric)
        if counter is not None:
            reset = max(0.0, counter.reset_at - now)
            headers.append((b"x-ratelimit-limit-" + name, b"%d" % counter.quota.limit))
            headers.append((b"x-ratelimit-remaining-" + name, b"%d" % counter.left()))
            headers.append((b"x-ratelimit-reset-" + name, _duration(reset)))
    first = tightest.get(Metric.REQUESTS) or tightest.get(Metric.TOKENS) or tightest.get(Metric.CONCURRENT)
    if first is not None:
        headers.append((b"ratelimit-limit", b"%d" % first.quota.limit))
        headers.append((b"ratelimit-remaining", b"%d" % first.left()))
        headers.append((b"ratelimit-reset", b"%d" % (max(0.0, first.reset_at - now) + 0.999)))
    return headers
