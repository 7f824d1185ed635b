"""What the use cases need from outside."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from kairos_budget.application.readings import Finding
from kairos_budget.domain.attempt import Attempt
from kairos_budget.domain.book import Book, Timing
from kairos_budget.domain.budget import Budget, ScopeKey
from kairos_budget.domain.calendar import Bounds
from kairos_budget.domain.forecast import Sample
from kairos_budget.domain.period import Period
from kairos_contracts.llm.v1 import UsageRecordedV1
from kairos_contracts.message import Message


@dataclass(frozen=True, slots=True)
class LeasePolicy:
    """How long silence is borne.

    `ttl`: how long a lease may be spent from without a heartbeat. `grace`: how much longer its holder may be
    silent before the rest is suspended. `close_grace`: how long a closed lease waits for usage on the way.
    """

    ttl: timedelta
    grace: timedelta
    close_grace: timedelta

    def timing(self, now: datetime, ends: Collection[datetime | None]) -> Timing:
        """A lease is never spent from after the end of a period it holds money of."""
        expires_at = min([now + self.ttl, *(end for end in ends if end is not None)])
        return Timing(expires_at=expires_at, suspend_after=now + self.ttl + self.grace)


@dataclass(frozen=True, slots=True)
class Pressure:
    """Nano-USD of one period. `holders` is counted where little is left and 1 elsewhere."""

    available: int
    limit: int
    excess: int
    recalling: bool
    holders: int


@dataclass(frozen=True, slots=True)
class Usage:
    """A usage event with what its envelope says."""

    message_id: UUID
    organisation_id: UUID
    message: UsageRecordedV1
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class Outlook:
    """A period at a moment, an earlier sample of it, and whether it was heading over its limit then."""

    period: Period
    at: datetime
    then: Sample
    over: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """An attempt as it is first reported, and the posting that moves its cost, if any does."""

    attempt: Attempt
    posting_id: UUID | None


class Transaction(Protocol):
    """One database transaction.

    Locks are taken in the order leases, attempts, budgets, periods, and each kind by id, so that transactions
    wait for each other but never in a circle. Call the methods in that order.
    """

    async def now(self) -> datetime:
        """The database's clock, which is the only one that decides about leases and periods."""

    async def first_times(self, consumer: str, message_ids: Collection[UUID]) -> set[UUID]:
        """The messages this consumer has not handled before; they are noted as handled."""

    async def lock_leases(self, book: Book, lease_ids: Collection[UUID]) -> None:
        """Lock the leases that exist and put them into the book."""

    async def lock_silent_leases(self, book: Book, limit: int) -> None:
        """Lock leases whose holder has been silent for too long; those others have locked are left out."""

    async def lease_ids_of(self, attempt_ids: Collection[UUID]) -> set[UUID]:
        """The leases of known attempts."""

    async def lock_attempts(self, book: Book, attempt_ids: Collection[UUID]) -> None:
        """Lock the attempts that exist and put them into the book."""

    async def lock_unknown_attempts(self, book: Book, lease_id: UUID) -> None:
        """Lock the unresolved attempts of a lease and put them into the book."""

    async def budgets_of(self, keys: Collection[ScopeKey]) -> list[Budget]:
        """The active budgets of these scopes."""

    async def lock_budget(self, budget_id: UUID) -> Budget | None:
        """Lock a budget's definition; None when it does not exist."""

    async def lock_periods(
        self,
        book: Book,
        period_ids: Collection[UUID],
        current: Collection[tuple[Budget, Bounds]] = (),
    ) -> set[UUID]:
        """Lock periods by id and by bounds, opening those that do not exist; returns the ids of `current`."""

    async def lock_existing_period(self, book: Book, budget: Budget, bounds: Bounds) -> UUID | None:
        """Lock a period if it was opened already."""

    async def count_holders(self, period_ids: Collection[UUID], besides: str) -> int:
        """How many other processes hold open leases on these periods."""

    async def index_versions(self, organisation_ids: Collection[UUID]) -> dict[UUID, int]:
        """Versions of the indexes of scopes with budgets; 0 for an organisation that never had one.

        Read it before the budgets, so that a budget made meanwhile counts as newer.
        """

    async def scopes_since(self, versions: Mapping[UUID, int]) -> list[tuple[ScopeKey, int]]:
        """Scopes of active budgets that entered their organisation's index after the given version."""

    async def pressure_on(self, period_ids: Collection[UUID]) -> dict[UUID, Pressure]:
        """How short money is in these periods; read without locks, as a hint."""

    async def note_refusal(self, period_id: UUID) -> None:
        """Remember that a lease was refused which other holders' unused money could have served."""

    async def claim_attempts(self, claims: Sequence[Claim]) -> set[UUID]:
        """Write attempts nobody reported before; returns their ids.

        An attempt another transaction is claiming is waited for. What is not returned exists already and is
        not touched. Call it after `lock_leases` and before `lock_attempts`.
        """

    async def save(self, book: Book) -> None:
        """Write everything that changed in the book, and tell analytics what it counts."""

    async def append_usage(self, counted: Sequence[Usage], told_again: Sequence[Usage]) -> None:
        """Keep the facts of attempts row by row; those `counted` go into the rollups as well."""

    async def take_samples(self) -> list[Outlook]:
        """Note what the open periods have settled, and return them.

        None while another process does it, or when it was done just before.
        """

    async def keep_forecast(
        self, period: Period, *, over: bool, exceeds_at: datetime | None, crossing: bool
    ) -> None:
        """Remember that a period began or ceased to head over its limit."""

    async def periods_charged_by(self, attempt_id: UUID) -> dict[UUID, datetime]:
        """The periods that bore the attempt's cost, alone or in a posting."""

    async def is_reversed(self, attempt_id: UUID) -> bool: ...

    async def insert_adjustment(
        self,
        *,
        adjustment_id: UUID,
        organisation_id: UUID,
        kind: str,
        attempt_id: UUID | None,
        period_ids: Collection[UUID],
        amount: int,
        reason: str,
        actor: str,
    ) -> None: ...

    async def insert_budget(self, budget: Budget) -> None: ...

    async def update_budget(self, budget: Budget) -> None: ...

    async def index_budget(self, budget: Budget) -> None:
        """Give the organisation's index of scopes a new version, because of this budget."""

    async def check_ledger(self, *, full: bool) -> list[Finding]:
        """Compare what is stored with what the transfers say; `full` reads the whole ledger."""

    def emit(
        self,
        message: Message,
        *,
        organisation_id: UUID,
        causation_id: UUID | None = None,
        traceparent: str | None = None,
    ) -> None:
        """Publish with the commit. Without `traceparent` the current span is the parent."""


class Money(Protocol):
    """Opens transactions; they commit when left without an error."""

    def tenant(self, organisation_id: UUID) -> AbstractAsyncContextManager[Transaction]:
        """Sees rows of one organisation only."""

    def system(self) -> AbstractAsyncContextManager[Transaction]:
        """Sees every organisation's rows; for services and workers."""


class Meters(Protocol):
    """What use cases count."""

    def refused(self) -> None: ...

    def overspent(self, times: int) -> None: ...

    def above_hold(self) -> None:
        """An attempt cost more than was held for it, whether or not there was room."""

    def imbalance(self, nano_usd: int) -> None: ...


class Log(Protocol):
    """Structured log with constant event names."""

    def info(self, event: str, **fields: Any) -> Any: ...

    def warning(self, event: str, **fields: Any) -> Any: ...

    def error(self, event: str, **fields: Any) -> Any: ...
