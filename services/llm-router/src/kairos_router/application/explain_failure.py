"""What a caller is told when there is no answer: one table for the API and for queued completions."""

import math
from dataclasses import dataclass
from typing import Literal

from kairos_router.application.choose_deployment import NoneAvailable, Refused
from kairos_router.application.complete_chat import DeadlineExceeded
from kairos_router.application.ports import (
    BudgetUnavailable,
    CatalogueUnknown,
    Fault,
    JournalFull,
    ProviderFailed,
)
from kairos_router.application.quota_ports import QuotaExceeded, QuotasUnknown
from kairos_router.domain.ask import InvalidAsk
from kairos_router.domain.catalogue import ModelNotFound
from kairos_router.domain.selection import NothingFits

ErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "insufficient_quota",
    "rate_limit_error",
    "server_error",
]


@dataclass(frozen=True, slots=True)
class Explanation:
    """An error in OpenAI's terms. `body` is a provider's own error document, passed on as it is.

    `later` tells whether the same request may succeed without any change to it.
    """

    status: int
    code: str
    message: str
    type: ErrorType = "server_error"
    param: str | None = None
    retry_after: str | None = None
    body: bytes = b""
    later: bool = False


_PROVIDER: dict[Fault, tuple[int, str, str, ErrorType]] = {
    Fault.RATE_LIMITED: (429, "provider_rate_limited", "Every provider limits us now", "rate_limit_error"),
    Fault.TIMEOUT: (504, "provider_timeout", "The provider did not answer in time", "server_error"),
    Fault.UNREACHABLE: (503, "provider_unreachable", "The provider can't be reached", "server_error"),
    Fault.FAILED: (502, "provider_error", "The provider failed", "server_error"),
    Fault.BROKEN: (502, "provider_error", "The provider's answer was unusable", "server_error"),
    Fault.MISCONFIGURED: (502, "provider_misconfigured", "The provider refused the router", "server_error"),
    Fault.TOO_LONG: (
        400,
        "context_length_exceeded",
        "The request is longer than the model's context window",
        "invalid_request_error",
    ),
    Fault.INVALID_REQUEST: (
        400,
        "invalid_request",
        "The provider refused the request",
        "invalid_request_error",
    ),
}


def _provider(error: ProviderFailed) -> Explanation:
    status, code, message, kind = _PROVIDER[error.fault]
    return Explanation(
        status=error.status if error.fault is Fault.INVALID_REQUEST and error.status else status,
        code=code,
        message=message,
        type=kind,
        retry_after=error.retry_after or ("1" if status in {429, 503} else None),
        body=error.body,
        later=status >= 429,  # noqa: PLR2004 - 429 and the server errors pass
    )


_FIXED: dict[type[Exception], Explanation] = {
    Refused: Explanation(
        402,
        "budget_exceeded",
        "A budget does not allow this request, not even its cheapest form",
        "insufficient_quota",
    ),
    BudgetUnavailable: Explanation(
        503,
        "budget_unavailable",
        "Budgets can't be checked now; paid models wait until they can",
        retry_after="2",
        later=True,
    ),
    JournalFull: Explanation(
        503,
        "usage_backlog",
        "Usage waits to be reported; new requests wait with it",
        retry_after="2",
        later=True,
    ),
    CatalogueUnknown: Explanation(
        503, "catalogue_unavailable", "Models can't be read now", retry_after="1", later=True
    ),
    QuotasUnknown: Explanation(
        503, "quotas_unavailable", "Quotas can't be read now", retry_after="1", later=True
    ),
    DeadlineExceeded: Explanation(504, "deadline_exceeded", "The deadline of the request has passed"),
}


def _of_request(error: Exception) -> Explanation | None:
    match error:
        case InvalidAsk():
            return Explanation(400, "invalid_request", str(error), "invalid_request_error", error.param)
        case ModelNotFound():
            message = f"The model '{error}' does not exist"
            return Explanation(404, "model_not_found", message, "invalid_request_error", "model")
        case NothingFits():
            long = all(reason == "context window too small" for reason in error.reasons.values())
            code = "context_length_exceeded" if long else "unsupported_by_model"
            return Explanation(400, code, f"No deployment can answer: {error}", "invalid_request_error")
        case _:
            return None


def _quota(error: QuotaExceeded) -> Explanation:
    waits = error.retry_after >= 0
    return Explanation(
        429,
        "rate_limit_exceeded",
        f"Rate limit reached: {error}" if waits else f"The request is larger than the limit: {error}",
        "rate_limit_error",
        retry_after=str(max(1, math.ceil(error.retry_after))) if waits else None,
        later=waits,
    )


def explain(error: Exception) -> Explanation | None:
    """The explanation of an expected error, or None for one nobody foresaw."""
    if isinstance(error, QuotaExceeded):
        return _quota(error)
    if isinstance(error, ProviderFailed):
        return _provider(error)
    if isinstance(error, NoneAvailable):
        message = "Every deployment of this model has failed lately"
        after = str(max(1, round(error.retry_after)))
        return Explanation(503, "provider_unavailable", message, retry_after=after, later=True)
    return _FIXED.get(type(error)) or _of_request(error)
