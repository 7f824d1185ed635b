"""What quotas need from outside, and how they refuse."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from kairos_contracts.audit import AuditContext
from kairos_router.domain.quota import Quota

Header = tuple[bytes, bytes]


class AuthorityAway(Exception):  # noqa: N818 - reads as the fact it states
    """The counts can't be reached; nobody knows whether the last call took effect."""


class QuotasUnknown(Exception):  # noqa: N818 - reads as the fact it states
    """The quotas have never been read since the start: nobody is admitted before they are."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What one counter needs (all or nothing), wants beyond, and tells.

    `window_ms` 0 means places: then `held` of them are this process's already.
    """

    key: str
    limit: int
    window_ms: int
    need: int
    want: int
    held: int = 0
    deltas: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Share:
    """The authority's answer for one counter. Times are in seconds from the request.

    `granted` is new units of a window, or all places now held. `retry_after` is set when this counter is
    why nothing was granted: when enough will be free, or -1.0 when the limit itself is too small.
    """

    granted: int
    bucket: int
    lasts: float
    remaining: int
    reset_after: float
    retry_after: float = 0.0


@dataclass(frozen=True, slots=True)
class Taken:
    """`epoch` names the authority's memory; another one means that it has lost its counts.

    `lost`: nothing was done, because the caller still spoke of an older memory. `now` is in seconds of the
    authority's clock.
    """

    epoch: str
    replicas: int
    now: float
    lost: bool = False
    refused: bool = False
    shares: Sequence[Share] = ()


class QuotaAuthority(Protocol):
    """The counts of all processes. Raises AuthorityAway."""

    async def take(
        self, holder: str, claims: Sequence[Claim], *, epoch: str, replicas: int, returning: bool = False
    ) -> Taken:
        """Grant the needs of all claims, or of none; note what they tell either way.

        `returning`: the process has worked without the authority, as others may have. Until they have told
        what they used, limits are shared by all processes as one.
        """
        ...


class QuotaRules(Protocol):
    """The quotas as they are stored. Raises what the store raises when it is away."""

    async def all(self) -> dict[UUID, tuple[Quota, ...]]: ...

    async def of(self, organisation_id: UUID) -> tuple[Quota, ...]: ...


class QuotaExceeded(Exception):  # noqa: N818 - reads as the fact it states
    """A quota is used up: nothing was counted. `retry_after` is in seconds; -1.0 when waiting is no use."""

    def __init__(self, quota: Quota, retry_after: float, headers: Sequence[Header] = ()) -> None:
        super().__init__(quota.describe())
        self.quota = quota
        self.retry_after = retry_after
        self.headers = headers


class QuotaExists(Exception):  # noqa: N818 - reads as the fact it states
    """There is a quota of this scope, metric and window already; change its limit instead."""


class QuotaNotFound(LookupError):  # noqa: N818 - reads as the fact it states
    """The organisation has no quota of this id."""


class QuotaStore(QuotaRules, Protocol):
    """The quotas as people change them. Every change is audited and told to all routers."""

    async def page(self, organisation_id: UUID, after: UUID | None, limit: int) -> list[Quota]:
        """By id, those after the given one."""
        ...

    async def create(self, quota: Quota, context: AuditContext) -> None:
        """Raises QuotaExists."""
        ...

    async def set_limit(
        self, organisation_id: UUID, quota_id: UUID, limit: int, context: AuditContext
    ) -> Quota:
        """Raises QuotaNotFound."""
        ...

    async def delete(self, organisation_id: UUID, quota_id: UUID, context: AuditContext) -> None:
        """Raises QuotaNotFound."""
        ...
