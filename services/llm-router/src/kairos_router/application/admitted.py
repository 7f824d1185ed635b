"""What an admitted request holds of the quotas until it is over."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from kairos_router.application.quota_counters import CallerQuotas, Counter, rate_limit_headers
from kairos_router.application.quota_ports import Header, QuotaExceeded


class Takes(Protocol):
    """The part of Quotas used here."""

    @property
    def clock(self) -> Callable[[], float]: ...

    def try_take(self, of: CallerQuotas, counters: Sequence[Counter], units: int) -> list[int] | None: ...

    async def take(self, of: CallerQuotas, counters: Sequence[Counter], units: int) -> list[int]: ...


class Admitted:
    """One admitted request. `leave` gives its place back and corrects its tokens."""

    __slots__ = ("_buckets", "_estimate", "_quotas", "_refused", "_set", "_token_buckets")

    def __init__(self, quotas: Takes, of: CallerQuotas, buckets: list[int]) -> None:
        self._quotas = quotas
        self._set = of
        self._buckets = buckets
        self._token_buckets: list[int] = []
        self._estimate = 0
        self._refused = False

    def count(self, tokens: int) -> Awaitable[None] | None:
        """Reserve the tokens the request may use. Raises QuotaExceeded."""
        if not self._set.tokens:
            return None
        self._estimate = max(1, tokens)
        try:
            found = self._quotas.try_take(self._set, self._set.tokens, self._estimate)
        except QuotaExceeded:
            self._refused = True
            raise
        if found is None:
            return self._count_later()
        self._token_buckets = found
        return None

    async def _count_later(self) -> None:
        try:
            self._token_buckets = await self._quotas.take(self._set, self._set.tokens, self._estimate)
        except QuotaExceeded:
            self._refused = True
            raise

    def headers(self) -> list[Header]:
        return rate_limit_headers(self._set.told, self._quotas.clock())

    def leave(self, tokens: int | None) -> None:
        for counter, bucket in zip(self._set.entry, self._buckets, strict=True):
            if not counter.quota.window:
                counter.slots.leave()
            elif self._refused:
                # All or nothing: a request that its tokens have stopped counts nowhere.
                counter.allowance.correct(bucket, -1)
        if tokens is None or not self._token_buckets:
            return
        difference = tokens - self._estimate
        if difference:
            for counter, bucket in zip(self._set.tokens, self._token_buckets, strict=True):
                counter.allowance.correct(bucket, difference)


class Unlimited:
    """What a caller without quotas is given: nothing to count, nothing to say."""

    __slots__ = ()

    def count(self, tokens: int) -> None:  # noqa: ARG002 - see Admitted
        return None

    def headers(self) -> list[Header]:
        return []

    def leave(self, tokens: int | None) -> None:
        """Nothing was taken."""


UNLIMITED = Unlimited()
