"""One physical call of a provider, its money, and how it ended."""

from dataclasses import replace
from datetime import datetime
from typing import Literal
from uuid import UUID

from kairos_router.domain.ask import Ask, Caller, Operation, estimate_usage
from kairos_router.domain.catalogue import Deployment
from kairos_router.domain.lease import MOST_ATTEMPT
from kairos_router.domain.pricing import Usage, cost
from kairos_router.domain.records import record
from kairos_router.domain.selection import Degraded

Outcome = Literal["settled", "released", "unknown"]


@record
class Hold:
    """Money kept for one attempt. `lease_id` is None when the attempt can't cost anything.

    `taken_at` is in seconds of the process's monotonic clock. `model` is the deployment's, a scope too.
    """

    attempt_id: UUID
    caller: Caller
    amount: int
    lease_id: UUID | None
    taken_at: float
    model: str = ""


@record
class Attempt:
    """An attempt that may go out: it has its own hold of at least its worst case."""

    attempt_id: UUID
    completion_id: UUID
    deployment: Deployment
    max_tokens: int
    degraded: Degraded | None
    hold: Hold
    stream: bool
    started_at: datetime
    route: str | None = None
    operation: Operation = "chat"


@record
class Settlement:
    """How an attempt ended, and what it is charged.

    settled: `cost` is owed. released: nothing is. unknown: the provider may have answered, so the whole
    hold counts until somebody reconciles it. `status` is the provider's HTTP status, 0 without one.
    """

    outcome: Outcome
    usage: Usage
    cost: int
    status: int
    latency_ms: int
    time_to_first_token_ms: int | None = None
    error: str | None = None


def settled(
    attempt: Attempt,
    ask: Ask,
    usage: Usage | None,
    *,
    content_bytes: int,
    latency_ms: int,
    status: int = 200,
    time_to_first_token_ms: int | None = None,
) -> Settlement:
    """An attempt with an answer. Without the provider's usage, what was seen is counted with a margin."""
    if usage is None:
        usage = estimate_usage(ask, attempt.deployment, attempt.max_tokens, content_bytes)
    elif ask.images or ask.tool_calls:
        usage = _with_unreported(usage, ask)
    charge = min(cost(attempt.deployment.price, usage), MOST_ATTEMPT)
    return Settlement("settled", usage, charge, status, latency_ms, time_to_first_token_ms)


def _with_unreported(usage: Usage, ask: Ask) -> Usage:
    """What has a fee although no provider counts it: pictures, and the search of a model that searches."""
    if ask.images and not usage.images:
        usage = replace(usage, images=ask.images)
    if not usage.tool_calls and ask.payload.get("web_search_options"):
        searches = tuple((name, 1) for name, _ in ask.tool_calls if name.startswith("web_search"))
        usage = replace(usage, tool_calls=searches[:1])
    return usage


def released(*, status: int, latency_ms: int, error: str | None = None) -> Settlement:
    return Settlement("released", Usage(0, 0), 0, status, latency_ms, error=error)


def unknown(*, status: int, latency_ms: int, error: str | None = None) -> Settlement:
    return Settlement("unknown", Usage(0, 0), 0, status, latency_ms, error=error)
