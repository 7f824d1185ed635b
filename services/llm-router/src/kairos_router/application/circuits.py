"""What this process knows about each deployment: its circuit, its load, its latency."""

import time
from collections.abc import Callable, Sequence

from kairos_router.domain.breaker import Breaker
from kairos_router.domain.catalogue import Deployment
from kairos_router.domain.policy import Latency

# A provider that asks to wait longer than this is tried again anyway: it may have meant something else.
LONGEST_REST_S = 60.0
BUSY_RETRY_S = 1.0

Told = Callable[[str, str, str], None]


class NoneAvailable(Exception):  # noqa: N818 - reads as the fact it states
    """Every deployment that could answer has failed lately or is full; try after `retry_after` seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"retry after {retry_after:.0f} s")
        self.retry_after = retry_after


def _untold(uid: str, state: str, reason: str) -> None:
    """Nobody listens."""


class Circuits:
    """By a deployment's uid. `told` hears of every circuit that opens or closes, with the reason."""

    def __init__(
        self,
        breaker: Breaker | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        told: Told = _untold,
    ) -> None:
        self._fresh = breaker or Breaker()
        self._breakers: dict[str, Breaker] = {}
        self._running: dict[str, int] = {}
        self._latencies: dict[str, Latency] = {}
        self._clock = clock
        self.told = told

    def state(self, uid: str) -> str:
        """closed, open or half_open."""
        return self._breakers.get(uid, self._fresh).state_at(self._clock())

    def running(self, deployment: Deployment) -> int:
        """Calls under way; counted only where there is a limit."""
        return self._running.get(deployment.uid, 0)

    def closed(self, deployments: Sequence[Deployment]) -> tuple[Deployment, ...]:
        """Those that may be tried now. Raises NoneAvailable."""
        if not self._breakers and not self._running:
            return tuple(deployments)
        now = self._clock()
        allowed = tuple(each for each in deployments if self.allows(each, now))
        if not allowed:
            waits = [self._breakers.get(each.uid, self._fresh).left(now) for each in deployments]
            # What rests no more is full, and a call may end at any moment.
            raise NoneAvailable(min(wait or BUSY_RETRY_S for wait in waits))
        return allowed

    def allows(self, deployment: Deployment, now: float | None = None) -> bool:
        breaker = self._breakers.get(deployment.uid)
        if breaker is not None and not breaker.allows(self._clock() if now is None else now):
            return False
        limit = deployment.max_concurrency
        return limit is None or self._running.get(deployment.uid, 0) < limit

    def tried(self, deployment: Deployment) -> None:
        """A call goes out; `ended` follows."""
        uid = deployment.uid
        breaker = self._breakers.get(uid)
        if breaker is not None:
            self._breakers[uid] = breaker.tried(self._clock())
        if deployment.max_concurrency is not None:
            self._running[uid] = self._running.get(uid, 0) + 1

    def ended(self, deployment: Deployment) -> None:
        if deployment.max_concurrency is None:
            return
        left = self._running.get(deployment.uid, 0) - 1
        if left > 0:
            self._running[deployment.uid] = left
        else:
            self._running.pop(deployment.uid, None)

    def succeeded(self, uid: str) -> None:
        breaker = self._breakers.pop(uid, None)
        if breaker is not None and breaker.opened_at is not None:
            self.told(uid, "closed", "answered")

    def failed(self, uid: str, reason: str = "failed") -> None:
        before = self._breakers.get(uid, self._fresh)
        after = self._breakers[uid] = before.failed(self._clock())
        if before.opened_at is None and after.opened_at is not None:
            self.told(uid, "open", reason)

    def rest(self, uid: str, seconds: float) -> None:
        """The provider said when to come back."""
        breaker = self._breakers.get(uid, self._fresh)
        self._breakers[uid] = breaker.resting(self._clock(), min(seconds, LONGEST_REST_S))

    def suspect(self, uid: str) -> None:
        """Another process opened its circuit."""
        self._breakers[uid] = self._breakers.get(uid, self._fresh).suspected()

    def p95(self, deployment: Deployment) -> float | None:
        found = self._latencies.get(deployment.uid)
        return None if found is None else found.p95

    def took(self, uid: str, seconds: float) -> None:
        """The time to the first token of a stream, or of a whole answer."""
        before = self._latencies.get(uid)
        self._latencies[uid] = Latency(seconds) if before is None else before.seen(seconds)
