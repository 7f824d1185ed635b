"""A circuit breaker per deployment: after repeated failures it is left alone for a while."""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Breaker:
    """`failures` in a row open the circuit; after `rest` seconds one request may try again."""

    threshold: int = 5
    rest: float = 5.0
    failures: int = 0
    opened_at: float | None = None

    def allows(self, now: float) -> bool:
        return self.opened_at is None or now - self.opened_at >= self.rest

    def tried(self, now: float) -> Self:
        """A request goes out. An open circuit rests anew, so that one request probes and not all."""
        if self.opened_at is None:
            return self
        return type(self)(self.threshold, self.rest, self.failures, now)

    def failed(self, now: float) -> Self:
        failures = self.failures + 1
        opened_at = now if failures >= self.threshold else self.opened_at
        return type(self)(self.threshold, self.rest, failures, opened_at)

    def resting(self, now: float, seconds: float) -> Self:
        """The provider asked to be left alone for a while: nothing goes there until then."""
        return type(self)(self.threshold, self.rest, self.failures, now + seconds - self.rest)

    def suspected(self) -> Self:
        """Another process saw it fail: one failure here is enough to open."""
        return type(self)(self.threshold, self.rest, max(self.failures, self.threshold - 1), self.opened_at)

    def left(self, now: float) -> float:
        """Seconds until it may be tried again."""
        return 0.0 if self.opened_at is None else max(0.0, self.opened_at + self.rest - now)

    def state_at(self, now: float) -> str:
        """closed, open, or half_open: rested, and the next request decides."""
        if self.opened_at is None:
            return "closed"
        return "half_open" if self.allows(now) else "open"
