"""Where quotas plug into /v1: what it asks of them, and when."""

from collections.abc import Awaitable
from typing import Protocol

from kairos_router.domain.ask import Caller
from kairos_router.entrypoints.openai_errors import Header


class Entry(Protocol):
    """One admitted request's share of the quotas, given back by `leave`."""

    def count(self, tokens: int) -> Awaitable[None] | None:
        """Count the tokens a request may use, once its body is known. Raises QuotaExceeded.

        None when memory could tell; a warm request must not wait.
        """
        ...

    def headers(self) -> list[Header]:
        """`RateLimit-*` and `x-ratelimit-*`, as they are now."""
        ...

    def leave(self, tokens: int | None) -> None:
        """The request is over and used `tokens`, or None when nobody knows. Called exactly once."""
        ...


class Admission(Protocol):
    """The quotas of requests, tokens and concurrency."""

    def known(self, caller: Caller, kind: str) -> Entry | None:
        """Without waiting, before the body is read; None means: ask `admit`. Raises QuotaExceeded."""
        ...

    async def admit(self, caller: Caller, kind: str) -> Entry:
        """Raises QuotaExceeded, QuotasUnknown."""
        ...
