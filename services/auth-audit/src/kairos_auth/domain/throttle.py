"""How long sign-in pauses after failures: freely at first, then doubling."""

from dataclasses import dataclass
from datetime import datetime, timedelta

_MAX_DOUBLINGS = 20


@dataclass(frozen=True)
class ThrottleRule:
    """`free` failures cost nothing; each further one doubles the pause from 1 s up to `longest`."""

    name: str
    free: int
    longest: timedelta

    def pause(self, failures: int) -> timedelta:
        beyond = failures - self.free
        if beyond <= 0:
            return timedelta()
        return min(timedelta(seconds=2 ** min(beyond - 1, _MAX_DOUBLINGS)), self.longest)


@dataclass(frozen=True)
class Attempts:
    """What is remembered of one account, address or pair of both."""

    failures: int = 0
    blocked_until: datetime | None = None

    def wait(self, now: datetime) -> timedelta:
        if self.blocked_until is None or self.blocked_until <= now:
            return timedelta()
        return self.blocked_until - now

    def failed(self, rule: ThrottleRule, now: datetime) -> "Attempts":
        failures = self.failures + 1
        pause = rule.pause(failures)
        return Attempts(failures, now + pause if pause else None)


# One address guessing at one account is stopped for long. The account as a whole pauses briefly only,
# so that a stranger can't lock its owner out. One address guessing at many accounts is stopped as well.
PAIR = ThrottleRule("pair", free=10, longest=timedelta(minutes=15))
ACCOUNT = ThrottleRule("account", free=30, longest=timedelta(seconds=30))
ADDRESS = ThrottleRule("address", free=100, longest=timedelta(minutes=15))
FORGET_AFTER = timedelta(days=1)
