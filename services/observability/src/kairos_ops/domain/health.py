"""How one look at a service becomes its health."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

Health = Literal["up", "degraded", "down"]

# One lost answer on a busy machine is not an outage; two in a row are.
FAILURES_UNTIL_DOWN = 2


@dataclass(frozen=True)
class Probe:
    """One look. `reached` False: no answer came (refused, timed out); `ok` is the service's own verdict."""

    reached: bool
    ok: bool
    detail: str
    latency_ms: int


@dataclass(frozen=True)
class ServiceState:
    service: str
    health: Health
    detail: str
    since: datetime
    checked_at: datetime
    latency_ms: int
    failures: int = 0

    def as_json(self) -> dict[str, Any]:
        return {
            "service": self.service,
            "health": self.health,
            "detail": self.detail,
            "since": self.since.isoformat(),
            "checked_at": self.checked_at.isoformat(),
            "latency_ms": self.latency_ms,
        }


def observe(previous: ServiceState | None, service: str, probe: Probe, at: datetime) -> ServiceState:
    """The state after one more look."""
    failures = 0 if probe.reached else (previous.failures if previous else 0) + 1
    health = _health(previous, probe, failures)
    changed = previous is None or previous.health != health
    return ServiceState(
        service=service,
        health=health,
        detail=probe.detail,
        since=at if changed or previous is None else previous.since,
        checked_at=at,
        latency_ms=probe.latency_ms,
        failures=failures,
    )


def _health(previous: ServiceState | None, probe: Probe, failures: int) -> Health:
    if probe.reached:
        return "up" if probe.ok else "degraded"
    if previous is None or failures >= FAILURES_UNTIL_DOWN:
        return "down"
    return previous.health


def overall(states: list[ServiceState]) -> Health:
    """The suite's health: down when any service is down, degraded when any is less than up."""
    healths = {state.health for state in states}
    if "down" in healths:
        return "down"
    return "degraded" if "degraded" in healths else "up"
