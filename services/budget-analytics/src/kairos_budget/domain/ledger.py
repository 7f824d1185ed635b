"""Double entry: every change of a period's balances is a movement from one account to another.

`limit` and `excess` are sources: their balance is what they gave, kept as a positive figure. The other four
hold what was given. So for every period, at every instant:

    available + leased + settled + suspense = limit + excess        and        available = 0 or excess = 0

which makes `excess` exactly what is committed above the limit, and zero whenever the cap holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self
from uuid import UUID, uuid5


class Account(StrEnum):
    LIMIT = "limit"
    AVAILABLE = "available"
    LEASED = "leased"
    SETTLED = "settled"
    SUSPENSE = "suspense"
    EXCESS = "excess"


class Kind(StrEnum):
    LEASE = "lease"
    POST = "post"
    RETURN = "return"
    SUSPENSE = "suspense"
    RELEASE = "release"
    RECONCILE = "reconcile"
    ADJUST = "adjust"
    EXPIRE = "expire"
    CORRECTION = "correction"
    REVERSAL = "reversal"


SOURCES = frozenset({Account.LIMIT, Account.EXCESS})
_KEYS = UUID("6b0e4f4e-6f0c-5a0c-9a54-1f3f2f7c1d10")


class ImpossibleBalances(ArithmeticError):  # noqa: N818 - reads as the fact it states
    """The accounts of a period do not add up, or one is negative; the transaction is rolled back."""


class Exhausted(Exception):  # noqa: N818 - reads as the fact it states
    """The period has less left than is asked for; nothing is reserved."""


@dataclass(frozen=True, slots=True)
class Movement:
    source: Account
    target: Account
    amount: int


@dataclass(frozen=True, slots=True)
class Transfer:
    """A movement as the ledger stores it. `key` is unique: the same cause can't move money twice."""

    key: UUID
    organisation_id: UUID
    budget_id: UUID
    period_id: UUID
    kind: Kind
    movement: Movement
    lease_id: UUID | None
    attempt_id: UUID | None
    posting_id: UUID | None = None
    adjustment_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Balances:
    """The accounts of one budget in one period, nano-USD.

    `overspend` is a record, not an account: all that was ever committed with no room left. It never falls.
    """

    limit: int = 0
    available: int = 0
    leased: int = 0
    settled: int = 0
    suspense: int = 0
    excess: int = 0
    overspend: int = 0

    def __post_init__(self) -> None:
        accounts = (self.limit, self.available, self.leased, self.settled, self.suspense, self.excess)
        held = self.available + self.leased + self.settled + self.suspense
        if min(accounts) < 0 or held != self.limit + self.excess or (self.available and self.excess):
            raise ImpossibleBalances(repr(self.as_tuple()))

    def as_tuple(self) -> tuple[int, int, int, int, int, int, int]:
        return (
            self.limit,
            self.available,
            self.leased,
            self.settled,
            self.suspense,
            self.excess,
            self.overspend,
        )

    @property
    def committed(self) -> int:
        """All that counts against the limit."""
        return self.leased + self.settled + self.suspense

    def apply(self, movements: Sequence[Movement]) -> Self:
        """The balances after the movements. Raises ImpossibleBalances."""
        change = dict.fromkeys(Account, 0)
        overspend = 0
        for movement in movements:
            change[movement.source] += movement.amount if movement.source in SOURCES else -movement.amount
            change[movement.target] += -movement.amount if movement.target in SOURCES else movement.amount
            if movement.source is Account.EXCESS and movement.target is not Account.LIMIT:
                overspend += movement.amount
        return type(self)(
            limit=self.limit + change[Account.LIMIT],
            available=self.available + change[Account.AVAILABLE],
            leased=self.leased + change[Account.LEASED],
            settled=self.settled + change[Account.SETTLED],
            suspense=self.suspense + change[Account.SUSPENSE],
            excess=self.excess + change[Account.EXCESS],
            overspend=self.overspend + overspend,
        )

    def reserve(self, amount: int) -> list[Movement]:
        """Set money aside for a lease. Raises Exhausted: only here can a budget say no, and it always can."""
        if amount > self.available:
            raise Exhausted
        return _some(Movement(Account.AVAILABLE, Account.LEASED, amount))

    def give_back(self, amount: int, source: Account) -> list[Movement]:
        """Undo a reservation; excess is made good before anything becomes available."""
        repaid = min(amount, self.excess)
        return _some(
            Movement(source, Account.EXCESS, repaid),
            Movement(source, Account.AVAILABLE, amount - repaid),
        )

    def cover(self, amount: int, target: Account) -> list[Movement]:
        """Commit money nobody reserved: what is available first, the rest as excess. Always in full."""
        covered = min(amount, self.available)
        return _some(
            Movement(Account.AVAILABLE, target, covered),
            Movement(Account.EXCESS, target, amount - covered),
        )

    def change_limit(self, limit: int) -> list[Movement]:
        """Raise or lower the limit. What is committed above a lower one is excess until money returns."""
        if limit >= self.limit:
            repaid = min(limit - self.limit, self.excess)
            return _some(
                Movement(Account.LIMIT, Account.EXCESS, repaid),
                Movement(Account.LIMIT, Account.AVAILABLE, limit - self.limit - repaid),
            )
        free = min(self.limit - limit, self.available)
        return _some(
            Movement(Account.AVAILABLE, Account.LIMIT, free),
            Movement(Account.EXCESS, Account.LIMIT, self.limit - limit - free),
        )


def _some(*movements: Movement) -> list[Movement]:
    return [movement for movement in movements if movement.amount > 0]


def transfer_key(cause: str, period_id: UUID, movement: Movement) -> UUID:
    """The same cause in the same period between the same accounts always has the same key."""
    return uuid5(_KEYS, f"{cause}:{period_id}:{movement.source}:{movement.target}")
