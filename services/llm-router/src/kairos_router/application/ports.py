"""What the use cases need from outside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, Protocol
from uuid import UUID

from kairos_contracts.llm.v1 import Priority
from kairos_router.domain.ask import Operation
from kairos_router.domain.attempt import Attempt, Settlement
from kairos_router.domain.catalogue import Catalogue, Deployment
from kairos_router.domain.lease import Scope
from kairos_router.domain.pricing import Usage
from kairos_router.domain.records import record
from kairos_router.domain.scope_index import ScopeIndex


class Fault(Enum):
    """How a provider failed. `next` tells whether another deployment may do better."""

    INVALID_REQUEST = "invalid_request"
    TOO_LONG = "context_length_exceeded"
    MISCONFIGURED = "misconfigured"
    RATE_LIMITED = "rate_limited"
    UNREACHABLE = "unreachable"
    FAILED = "failed"
    TIMEOUT = "timeout"
    BROKEN = "broken"

    @property
    def next(self) -> bool:
        return self is not Fault.INVALID_REQUEST

    @property
    def callers(self) -> bool:
        """Whether the request is at fault and not the deployment, which then stays trusted."""
        return self in {Fault.INVALID_REQUEST, Fault.TOO_LONG}


class ProviderFailed(Exception):  # noqa: N818 - reads as the fact it states
    """The provider gave no usable answer.

    `may_have_run`: it may have generated (and charge for) an answer we never got, so the hold stays.
    `body` is the provider's own error document, kept for faults of the request only.
    """

    def __init__(
        self,
        fault: Fault,
        *,
        status: int = 0,
        may_have_run: bool = False,
        body: bytes = b"",
        retry_after: str | None = None,
        detail: str = "",
    ) -> None:
        super().__init__(f"{fault.value} ({status})" + (f": {detail}" if detail else ""))
        self.fault = fault
        self.status = status
        self.may_have_run = may_have_run
        self.body = body
        self.retry_after = retry_after

    @property
    def passing(self) -> bool:
        """Whether the same deployment may do better a moment later."""
        return self.fault in {Fault.RATE_LIMITED, Fault.UNREACHABLE, Fault.FAILED, Fault.BROKEN}

    @property
    def wait(self) -> float | None:
        """How many seconds the provider asks to be left alone, when it gave a number."""
        try:
            seconds = float(self.retry_after) if self.retry_after else 0.0
        except ValueError:
            return None
        return seconds if 0 < seconds < float("inf") else None


@record
class ProviderCall:
    """`payload` is the caller's document; the adapter sets model, output limit and stream options in it."""

    deployment: Deployment
    payload: Mapping[str, Any]
    max_tokens: int
    attempt_id: UUID
    include_usage: bool = False
    operation: Operation = "chat"


@record
class ProviderReply:
    """A whole answer: its bytes, the same parsed, and the usage when the provider gave believable one."""

    body: bytes
    document: Mapping[str, Any]
    usage: Usage | None


class ProviderStream(Protocol):
    """An answer on its way."""

    @property
    def usage(self) -> Usage | None:
        """What the provider has told so far."""
        ...

    @property
    def finished(self) -> bool:
        """Whether the terminator came."""
        ...

    async def next(self) -> bytes:
        """Whole server-sent events as bytes, b"" at the end. Raises ProviderFailed."""
        ...

    def content_bytes(self) -> int:
        """How much of the answer was seen so far."""
        ...

    def close(self) -> None:
        """Break the call off when it is not over."""
        ...


class Provider(Protocol):
    """Reaches deployments of one kind."""

    async def complete(self, call: ProviderCall) -> ProviderReply:
        """Raises ProviderFailed."""
        ...

    async def open_stream(self, call: ProviderCall) -> ProviderStream:
        """Returns when the provider has accepted the request. Raises ProviderFailed."""
        ...

    async def close(self) -> None: ...


class CatalogueUnknown(Exception):  # noqa: N818 - reads as the fact it states
    """The catalogue has never been read since the start; nobody is served before it is.

    A name may be an organisation's own, and asking the shared deployment of that name would be wrong.
    """


class CatalogueSource(Protocol):
    def current(self, organisation_id: UUID | None = None) -> Catalogue:
        """The organisation's own catalogue over the shared one. Without waiting: hot requests call it.

        Raises CatalogueUnknown, but never for the shared one alone.
        """
        ...


class TokenCounter(Protocol):
    """Counts what a request's text really is, off the event loop when it is long."""

    async def count(self, payload: Mapping[str, Any], tokenizer: str | None) -> tuple[int, str]:
        """The tokens, and which tokenizer counted them: the one asked for, or the best guess."""
        ...


@dataclass(frozen=True, slots=True)
class Grant:
    """A lease as budget-analytics grants it. `expires_in` is in seconds from the request.

    `scope` is what the lease is for: the scopes of the request that have a budget. `priority` is set when one
    of those budgets keeps reserves. `index_version` is the newest version of the organisation's index.
    """

    lease_id: UUID
    epoch: int
    granted: int
    unlimited: bool
    expires_in: float
    scope: Scope
    priority: Priority | None = None
    index_version: int = 0


@dataclass(frozen=True, slots=True)
class OldHold:
    """A hold that has been open for long; `age` in seconds."""

    attempt_id: UUID
    amount: int
    age: float
    model: str


@dataclass(frozen=True, slots=True)
class RenewalRequest:
    lease_id: UUID
    epoch: int
    settled: int
    open: int
    want_more: int
    returned: int = 0
    holds: tuple[OldHold, ...] = ()


@dataclass(frozen=True, slots=True)
class Renewal:
    """ok: go on. expired: take no new hold, close it when the last one has ended. unknown: it is gone.

    `keep` is the most free money the lease may keep; None: as much as it has.
    """

    lease_id: UUID
    status: Literal["ok", "expired", "unknown"]
    granted_more: int
    expires_in: float
    index_version: int = 0
    keep: int | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a budget said no. `remaining` is what a smaller hold may still get, in nano-USD."""

    decision_id: UUID | None
    budget_id: UUID | None
    scope: str
    remaining: int
    limit: int


class BudgetExceeded(Exception):  # noqa: N818 - reads as the fact it states
    """The hold does not fit a budget; nothing was reserved."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(f"remaining {refusal.remaining} of {refusal.limit} nano-USD ({refusal.scope})")
        self.refusal = refusal


class BudgetUnavailable(Exception):  # noqa: N818 - reads as the fact it states
    """Nobody can tell whether the money is there: paid models are refused until budget-analytics is back."""


class LeaseOver(Exception):  # noqa: N818 - reads as the fact it states
    """The lease asked for by this id has ended meanwhile; another id gets another lease."""


class Budgets(Protocol):
    """budget-analytics, the authority. Every call raises BudgetUnavailable when it can't be reached."""

    async def scopes(self, organisation_id: UUID) -> ScopeIndex:
        """Which scopes have a budget now."""
        ...

    async def grant(
        self, scope: Scope, lease_id: UUID, *, want: int, need: int, priority: Priority = "normal"
    ) -> Grant:
        """`scope` names everything the request belongs to. Asking again with the same id grants once.

        Raises BudgetExceeded when `need` does not fit, LeaseOver when the id has been used up.
        """
        ...

    async def renew(self, leases: Sequence[RenewalRequest]) -> Sequence[Renewal]: ...

    async def close(self, lease_id: UUID, *, epoch: int, settled: int) -> None:
        """Give the lease back. A lease the authority does not know any more counts as given back."""
        ...


class JournalFull(Exception):  # noqa: N818 - reads as the fact it states
    """Too much usage waits to be reported; nothing is sent to a provider until it has gone out."""


class Journal(Protocol):
    """Where attempts are written down: in memory for HTTP callers, in PostgreSQL for queued completions."""

    async def dispatched(self, attempt: Attempt) -> None:
        """The provider is called right after this returns. Raises JournalFull."""
        ...

    async def failed(self, attempt: Attempt, settlement: Settlement) -> None:
        """The attempt gave no answer; another may follow."""
        ...

    async def answered(self, attempt: Attempt, settlement: Settlement, reply: ProviderReply | None) -> None:
        """The attempt is the answer. `reply` is None for a stream, whose caller already has it."""
        ...

    def abandoned(self, attempt: Attempt, settlement: Settlement) -> None:
        """The caller is gone in the middle of the attempt; there is no time to wait for anything."""
        ...
