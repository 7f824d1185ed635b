"""What one process holds of an organisation's money."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice, takewhile
from uuid import UUID

from kairos_router.application.ports import OldHold, Refusal
from kairos_router.domain.attempt import Hold
from kairos_router.domain.lease import Balance, Scope
from kairos_router.domain.scope_index import LOWER, Key, ScopeIndex

# Holds open for longer are reported with each heartbeat, the oldest of each lease.
OLD_HOLD_S = 30.0
OLD_HOLDS = 20


@dataclass(eq=False, slots=True)
class HeldLease:
    """A lease this process holds. `retired` ones take no more holds and are closed when the last one ends.

    `returned` is the sum of all that was given back of it so far, nano-USD.
    """

    lease_id: UUID
    epoch: int
    scope: Scope
    key: Key
    balance: Balance
    expires_at: float
    used_at: float
    dry_until: float = 0.0
    retired: bool = False
    returned: int = 0
    holds: dict[UUID, Hold] = field(default_factory=dict)

    def serves(self, amount: int, now: float) -> bool:
        return not self.retired and now < self.expires_at and self.balance.fits(amount)

    def shrink(self, keep: int) -> int:
        """Give up what is free above `keep`; the next heartbeat tells. Returns how much."""
        if self.balance.unlimited:
            return 0
        before = self.balance.granted
        self.balance = self.balance.shrink(keep)
        back = before - self.balance.granted
        self.returned += back
        return back

    def old_holds(self, now: float) -> Iterator[OldHold]:
        """The oldest first: holds are kept in the order they were taken in."""
        old = takewhile(lambda hold: now - hold.taken_at >= OLD_HOLD_S, self.holds.values())
        for hold in islice(old, OLD_HOLDS):
            yield OldHold(hold.attempt_id, hold.amount, now - hold.taken_at, hold.model)


@dataclass(eq=False, slots=True)
class Purse:
    """The leases for one organisation. Without an index nobody can tell which lease a request belongs to.

    A lease serves only while the index is at least as new as the lease: an answer that names a newer version
    takes the index away, and the next hold reads it anew.
    """

    index: ScopeIndex | None = None
    leases: dict[Key, list[HeldLease]] = field(default_factory=dict)
    locks: dict[Key, asyncio.Lock] = field(default_factory=dict)
    refused: dict[Key, tuple[float, Refusal]] = field(default_factory=dict)
    unanswered: dict[Key, tuple[UUID, float]] = field(default_factory=dict)
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)

    def serving(self, key: Key, amount: int, now: float) -> HeldLease | None:
        """A lease of this key, or of a lower priority's, that has `amount` free."""
        for lease in self.leases.get(key, ()):
            if lease.serves(amount, now):
                return lease
        priority = key[6]
        if priority is not None:
            for lower in LOWER[priority]:
                for lease in self.leases.get((*key[:6], lower), ()):
                    if lease.serves(amount, now):
                        return lease
        return None

    def all(self) -> list[HeldLease]:
        return [lease for leases in self.leases.values() for lease in leases]

    def add(self, lease: HeldLease) -> None:
        self.leases.setdefault(lease.key, []).append(lease)

    def drop(self, lease: HeldLease) -> None:
        siblings = self.leases.get(lease.key, [])
        if lease in siblings:
            siblings.remove(lease)
        if not siblings:
            self.leases.pop(lease.key, None)
            lock = self.locks.get(lease.key)
            if lock is not None and not lock.locked():
                del self.locks[lease.key]

    def outdated(self, version: int) -> None:
        """Somebody names this version of the index."""
        if self.index is not None and self.index.version < version:
            self.index = None

    @property
    def empty(self) -> bool:
        busy = self.reading.locked() or any(lock.locked() for lock in self.locks.values())
        return not (self.leases or self.unanswered or busy)
