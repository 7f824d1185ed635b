"""Quotas: how many requests or tokens somebody may use in a window, and how many requests at once."""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from kairos_router.domain.ask import Caller

# A window is counted in this many buckets. A slice of an allowance may be used in its bucket and the next
# one, so the units of any window were granted in at most BUCKETS + 2 buckets: those may not exceed the limit.
BUCKETS = 30


class QuotaScope(StrEnum):
    ORGANISATION = "organisation"
    PROJECT = "project"
    TEAM = "team"
    BOT = "bot"
    CONTACT = "contact"
    API_KEY = "api_key"


class Metric(StrEnum):
    REQUESTS = "requests"
    TOKENS = "tokens"
    CONCURRENT = "concurrent"


class Window(StrEnum):
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"

    @property
    def milliseconds(self) -> int:
        return {"minute": 60_000, "hour": 3_600_000, "day": 86_400_000}[self.value]


class InvalidQuota(ValueError):  # noqa: N818 - reads as the fact it states
    """The quota contradicts itself; it is not stored."""


@dataclass(frozen=True, slots=True)
class Quota:
    """At most `limit` of a metric per window.

    `scope_id` names whom it limits; without one, each of that scope has a counter of its own, and the
    organisation has one anyway. `window` is None for concurrent requests only.
    """

    quota_id: UUID
    organisation_id: UUID
    scope: QuotaScope
    scope_id: UUID | None
    metric: Metric
    limit: int
    window: Window | None

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise InvalidQuota("the limit is at least 1")
        if (self.window is None) != (self.metric is Metric.CONCURRENT):
            raise InvalidQuota("requests and tokens need a window, concurrent requests have none")
        if self.scope is QuotaScope.ORGANISATION and self.scope_id is not None:
            raise InvalidQuota("a quota of the organisation names no other scope")

    def subject(self, caller: Caller) -> UUID | None:
        """Whose counter the caller's requests go to, or None when the quota does not concern them."""
        found = subject_of(caller, self.scope)
        return found if self.scope_id is None or self.scope_id == found else None

    def describe(self) -> str:
        """For the one it stops: `60 requests per minute of each api_key`."""
        amount = f"{self.limit} concurrent requests"
        if self.window is not None:
            amount = f"{self.limit} {self.metric.value} per {self.window.value}"
        whose = "each" if self.scope_id is None and self.scope is not QuotaScope.ORGANISATION else "the"
        return f"{amount} of {whose} {self.scope.value}"


def subject_of(caller: Caller, scope: QuotaScope) -> UUID | None:
    chain = caller.scope
    match scope:
        case QuotaScope.ORGANISATION:
            return chain.organisation_id
        case QuotaScope.PROJECT:
            return chain.project_id
        case QuotaScope.TEAM:
            return chain.team_id
        case QuotaScope.BOT:
            return chain.bot_id
        case QuotaScope.CONTACT:
            return chain.contact_id
        case QuotaScope.API_KEY:
            return caller.api_key_id
