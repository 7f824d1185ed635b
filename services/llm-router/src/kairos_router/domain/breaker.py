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

    def succeeded(self) -> Self:
        if not self.failures and self.opened_at is None:
            return self
        return type(self)(self.threshold, self.rest)

    def failed(self, now: float) -> Self:
        failures = self.failures + 1
        opened_at = now if failures >= self.threshold else self.opened_at
        return type(self)(self.threshold, self.rest, failures, opened_at)

    @property
    def state(self) -> str:
        return "closed" if self.opened_at is None else "open"
