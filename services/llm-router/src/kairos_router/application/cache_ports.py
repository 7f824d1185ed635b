"""What the answer cache needs from outside."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from kairos_contracts.audit import AuditContext
from kairos_router.domain.cache_policy import CachePolicy


class StoreAway(Exception):  # noqa: N818 - reads as the fact it states
    """Kept answers can't be reached within the time a request may lose on them; it goes on without."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer as it is kept. `cost` in nano-USD is what it once cost; `stored_at` in seconds since 1970."""

    body: bytes
    deployment: str
    model: str
    provider: str
    price_version: str
    cost: int
    input_tokens: int
    output_tokens: int
    stored_at: float


class AnswerStore(Protocol):
    """Kept answers; they may be lost at any time. Every call raises StoreAway."""

    async def get(self, key: str) -> Kept | None: ...

    async def put(self, key: str, kept: Kept, ttl_seconds: int) -> None: ...

    async def lock(self, key: str, holder: str, seconds: float) -> bool:
        """Whether this process may make the answer; others wait for it meanwhile."""
        ...

    async def unlock(self, key: str, holder: str) -> None: ...

    async def vectors(self, space: str) -> dict[str, bytes]:
        """Vectors of a space by the key of their answer."""
        ...

    async def add_vector(self, space: str, key: str, value: bytes, ttl_seconds: int) -> None: ...


class Similar(Protocol):
    """Finds the kept answer whose question means the same."""

    async def find(self, space: str, text: str, numbers: str, floor: float) -> str | None:
        """The key of its answer. Raises StoreAway, EmbedderAbsent."""
        ...

    async def add(self, space: str, text: str, numbers: str, key: str, ttl_seconds: int) -> None: ...


class PolicyStore(Protocol):
    """Cache policies as people change them; every change is audited and told to all routers."""

    async def all(self) -> dict[UUID, tuple[CachePolicy, ...]]: ...

    async def of(self, organisation_id: UUID) -> Sequence[CachePolicy]: ...

    async def put(self, policy: CachePolicy, context: AuditContext) -> CachePolicy: ...

    async def purge(self, organisation_id: UUID, route: str, context: AuditContext) -> CachePolicy:
        """Never serve again what is kept now. Of every route when the route is `*`."""
        ...
