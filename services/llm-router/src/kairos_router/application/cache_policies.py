"""The cache policies of all organisations, in memory: a hot request asks them without waiting."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

from kairos_router.application.cache_ports import PolicyStore
from kairos_router.domain.cache_policy import EVERY_ROUTE, CachePolicy


class CachePolicies:
    """Until they have been read, no answer is kept and none is served: the cache is only ever a saving."""

    def __init__(self, store: PolicyStore) -> None:
        self._store = store
        self._policies: dict[UUID, dict[str, CachePolicy]] = {}
        # What was read earlier never replaces what was read later.
        self._reading = asyncio.Lock()

    def of(self, organisation_id: UUID, model: str) -> CachePolicy | None:
        """The policy of a route or model when the cache is on for it."""
        known = self._policies.get(organisation_id)
        if known is None:
            return None
        policy = known.get(model) or known.get(EVERY_ROUTE)
        return policy if policy is not None and policy.on else None

    def generation(self, organisation_id: UUID) -> int:
        """The organisation's own, which a purge of everything raises."""
        default = self._policies.get(organisation_id, {}).get(EVERY_ROUTE)
        return default.generation if default is not None else 0

    async def read(self) -> None:
        async with self._reading:
            found = await self._store.all()
            self._policies = {organisation_id: _by_route(each) for organisation_id, each in found.items()}

    async def changed(self, organisation_id: UUID) -> None:
        async with self._reading:
            self._policies[organisation_id] = _by_route(await self._store.of(organisation_id))


def _by_route(policies: Sequence[CachePolicy]) -> dict[str, CachePolicy]:
    return {policy.route: policy for policy in policies}
