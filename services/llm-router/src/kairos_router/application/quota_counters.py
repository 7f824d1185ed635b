"""What this process knows of the counts that concern a caller."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
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
    # Worked out once: every answer tells them.
    told: "Told" = field(init=False)

    def __post_init__(self) -> None:
        self.told = told((*self.entry, *self.tokens))


def _duration(seconds: float) -> bytes:
    """As OpenAI's clients know it: `850ms`, `6s`, `1m30s`."""
    if seconds < 1:
        return b"%dms" % max(0, round(seconds * 1000))
    minutes, rest = divmod(round(seconds), 60)
    return b"%dm%ds" % (minutes, rest) if minutes else b"%ds" % rest


def _tightest(counters: Sequence[Counter]) -> Counter:
    """The one with the smallest share left."""
    found = counters[0]
    for each in counters[1:]:
        if each.left() * found.quota.limit < found.left() * each.quota.limit:
            found = each
    return found


_NAMES: Final = tuple(
    (metric, (b"x-ratelimit-limit-" + name, b"x-ratelimit-remaining-" + name, b"x-ratelimit-reset-" + name))
    for metric, name in ((Metric.REQUESTS, b"requests"), (Metric.TOKENS, b"tokens"))
)

Names = tuple[bytes, bytes, bytes]


@dataclass(frozen=True, slots=True)
class Told:
    """What answers tell of: counters by the names of their headers, and those of concurrent requests."""

    windows: tuple[tuple[Names, tuple[Counter, ...]], ...]
    concurrent: tuple[Counter, ...]


def told(counters: Sequence[Counter]) -> Told:
    def of(metric: Metric) -> tuple[Counter, ...]:
        return tuple(each for each in counters if each.quota.metric is metric)

    return Told(tuple((names, of(metric)) for metric, names in _NAMES if of(metric)), of(Metric.CONCURRENT))


def rate_limit_headers(of: Told, now: float) -> list[Header]:
    """The tightest quota of each metric, in OpenAI's words and in those of the IETF's draft."""
    headers: list[Header] = []
    first: tuple[bytes, bytes, float] | None = None
    for (limit_name, remaining_name, reset_name), counters in of.windows:
        counter = counters[0] if len(counters) == 1 else _tightest(counters)
        limit, left, reset = figures = _figures(counter, now)
        first = first or figures
        headers += ((limit_name, limit), (remaining_name, left), (reset_name, _duration(reset)))
    if first is None:
        if not of.concurrent:
            return headers
        first = _figures(_tightest(of.concurrent), now)
    headers += (
        (b"ratelimit-limit", first[0]),
        (b"ratelimit-remaining", first[1]),
        (b"ratelimit-reset", b"%d" % (first[2] + 0.999)),
    )
    return headers


def _figures(counter: Counter, now: float) -> tuple[bytes, bytes, float]:
    """The limit, what is left of it, and the seconds until it is whole again."""
    return b"%d" % counter.quota.limit, b"%d" % counter.left(), max(0.0, counter.reset_at - now)
