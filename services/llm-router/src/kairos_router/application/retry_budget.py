"""How often failed calls may be repeated, so that retries never become the load that keeps a provider down.

A token bucket per route: an answer earns a part of a retry, a retry spends a whole one (the retry budget
of Finagle, and of the Google SRE book, chapter 22).
"""

import random
from collections.abc import Callable
from uuid import UUID

from kairos_router.domain.catalogue import Route

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
_WHOLE = 100


class RetryBudgets:
    """By route and organisation. `random` gives numbers in [0, 1)."""

    def __init__(self, *, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        self._percent: dict[tuple[UUID | None, str], int] = {}

    def earn(self, route: Route) -> None:
        """An answer came."""
        key = (route.owner, route.name)
        most = route.retries.burst * _WHOLE
        self._percent[key] = min(most, self._percent.get(key, most) + route.retries.percent)

    def spend(self, route: Route) -> bool:
        """Whether one retry is left; it is taken."""
        key = (route.owner, route.name)
        left = self._percent.get(key, route.retries.burst * _WHOLE)
        if left < _WHOLE:
            return False
        self._percent[key] = left - _WHOLE
        return True

    def pause(self, done: int) -> float:
        """Seconds before the next try: doubled each time, with full jitter so that callers spread out."""
        return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * (1 << done)) * self._chance()
