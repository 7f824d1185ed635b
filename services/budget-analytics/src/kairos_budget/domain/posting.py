"""Many settled attempts moved together: one set of transfers for what they cost in sum."""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import md5
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Posting:
    """Attempts of one lease that bear on the same periods. `costs` are nano-USD, one per attempt.

    `uncovered` are periods of budgets that apply although the lease holds nothing of them.
    """

    id: UUID
    organisation_id: UUID
    lease_id: UUID | None
    uncovered: tuple[UUID, ...]
    costs: tuple[int, ...]

    @property
    def cost(self) -> int:
        return sum(self.costs)


def posting_id(attempt_ids: Iterable[UUID]) -> UUID:
    """The same attempts have the same posting, so a repeated post can't get keys of its own."""
    digest = md5(usedforsecurity=False)
    for each in sorted(attempt_ids):
        digest.update(each.bytes)
    return UUID(bytes=digest.digest())
