"""What this process knows of the counts that concern a caller."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from kairos_router.application.quota_ports import Header
from kairos_router.domain.allowance import Allowance, Slots
from kairos_router.domain.quota import BUCKETS, Metric, Quota


class Counter:
    """One quota's count for one subject, as this process sees it. `width` is the seconds of one bucket."""

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
        "width",
        "window_ms",
    )

    def __init__(self, quota: Quota, subject: UUID) -> None:
        window = quota.window.value if quota.window else "now"
        # Worked out once: every request asks each of its counters several times.
        self.window_ms = quota.window.milliseconds if quota.window else 0
        self.width = self.window_ms / 1000 / BUCKETS
        self.key = f"{quota.organisation_id}:{quota.quota_id}:{subject}:{window}"
        self.quota = quota
        self.allowance = Allowance(max(1, quota.limit // 100))
        self.slots = Slots()
        self.remaining = quota.limit
        self.reset_at = 0.0
        self.blocked_until = 0.0
        self.blocked_need = 0
        self.blocked_for = 0.0

    def fits(self, units: int, now: float) -> bool:
        return self.allowance.fits(units, now) if self.window_ms else self.slots.fits(now)

    def take(self, units: int, now: float) -> int:
        if self.window_ms:
            return self.allowance.take(units, now)
        self.slots.take()
        return 0

    def low(self, now: float) -> bool:
        """Whether it is time to ask for more while there still is some."""
        if not self.window_ms:
            return self.slots.used * 4 > self.slots.held * 3
        allowance = self.allowance
        return allowance.free * 2 < allowance.aim or now > allowance.until - self.width

    def left(self) -> int:
        if self.window_ms:
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


def _tightest(counters: Sequence[Counter]) -> Counter | None:
    """The one with the smallest share left."""
    if len(counters) == 1:
        return counters[0]
    found: Counter | None = None
    for each in counters:
        if found is None or each.left() * found.quota.limit < found.left() * each.quota.limit:
            found = each
    return found


_OF_METRIC: Final = tuple(
    (metric, b"x-ratelimit-limit-" + name, b"x-ratelimit-remaining-" + name, b"x-ratelimit-reset-" + name)
    for metric, name in ((Metric.REQUESTS, b"requests"), (Metric.TOKENS, b"tokens"))
)


def rate_limit_headers(counters: Iterable[Counter], now: float) -> list[Header]:
    """The tightest quota of each metric, in OpenAI's words and in those of the IETF's draft."""
    by_metric: dict[Metric, list[Counter]] = {}
    for each in counters:
        by_metric.setdefault(each.quota.metric, []).append(each)
    headers: list[Header] = []
    first: Counter | None = None
    for metric, limit, remaining, reset in _OF_METRIC:
        counter = _tightest(by_metric.get(metric, ()))
        if counter is not None:
            first = first or counter
            headers.append((limit, b"%d" % counter.quota.limit))
            headers.append((remaining, b"%d" % counter.left()))
            headers.append((reset, _duration(max(0.0, counter.reset_at - now))))
    first = first or _tightest(by_metric.get(Metric.CONCURRENT, ()))
    if first is not None:
        headers.append((b"ratelimit-limit", b"%d" % first.quota.limit))
        headers.append((b"ratelimit-remaining", b"%d" % first.left()))
        headers.append((b"ratelimit-reset", b"%d" % (max(0.0, first.reset_at - now) + 0.999)))
    return headers
