"""What a failed message carries with it, and how it is read back."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from pydantic import ValidationError

from kairos_contracts.message import HEADER_PREFIX
from kairos_messaging.delivery import RawDelivery
from kairos_telemetry import redact

ATTEMPT = "kairos-attempt"
QUEUE = "kairos-queue"
ERROR_CLASS = "kairos-error-class"
ERROR_TEXT = "kairos-error-text"
PAYLOAD_HASH = "kairos-payload-sha256"
FAILED_AT = "kairos-failed-at"
# The broker adds these when it dead-letters by itself. A message that goes round again starts
# without them, or the broker could take the ladder for a dead-letter cycle and drop the message.
BROKER_MADE = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count")
TEXT_LIMIT = 2_000


def attempt_of(headers: Mapping[str, Any]) -> int:
    """The attempt a delivery is, from 1. Anything but a positive whole number counts as the first."""
    value = headers.get(ATTEMPT)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 1


def without_history(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The headers as first published: no attempt, no error, nothing the broker added."""
    ours = (ATTEMPT, QUEUE, ERROR_CLASS, ERROR_TEXT, PAYLOAD_HASH, FAILED_AT)
    return {
        name: value
        for name, value in headers.items()
        if name not in ours and not name.startswith(BROKER_MADE)
    }


def failure_headers(
    headers: Mapping[str, Any], *, queue: str, attempt: int, error: Exception, body: bytes
) -> dict[str, Any]:
    """The original headers plus why and where the message failed."""
    return without_history(headers) | {
        ATTEMPT: attempt,
        QUEUE: queue,
        ERROR_CLASS: type(error).__name__,
        ERROR_TEXT: describe(error),
        PAYLOAD_HASH: hashlib.sha256(body).hexdigest(),
        FAILED_AT: datetime.now(UTC).isoformat(),
    }


def describe(error: Exception) -> str:
    """The error's text without secrets. A validation error is told without the values that failed it."""
    if isinstance(error, ValidationError):
        parts = error.errors(include_url=False, include_context=False, include_input=False)
        text = "; ".join(f"{'.'.join(str(step) for step in part['loc'])}: {part['msg']}" for part in parts)
    else:
        text = str(error)
    return str(redact(text))[:TEXT_LIMIT]


@dataclass(frozen=True)
class DeadLetter:
    """A message nobody could handle, with everything needed to show and replay it.

    `queue` is where to replay it to. `error_class` is `delivery_limit` (or another reason of the
    broker) when the broker gave up, as it does for a message that kills its consumer 20 times.
    """

    queue: str
    message_id: str | None
    type: str | None
    organisation_id: str | None
    error_class: str
    error_text: str
    attempts: int
    payload_sha256: str
    traceparent: str | None
    headers: Mapping[str, Any]
    body: bytes

    @classmethod
    def of(cls, raw: RawDelivery) -> Self:
        """Read a delivery of the dead-letter queue; never fails, whatever the headers hold."""
        reason = _text(raw.headers.get("x-first-death-reason")) or "unknown"
        return cls(
            queue=_text(raw.headers.get(QUEUE)) or raw.routing_key,
            message_id=raw.message_id or _text(raw.headers.get(f"{HEADER_PREFIX}id")),
            type=_text(raw.headers.get(f"{HEADER_PREFIX}type")),
            organisation_id=_text(raw.headers.get("organisation_id")),
            error_class=_text(raw.headers.get(ERROR_CLASS)) or reason,
            error_text=_text(raw.headers.get(ERROR_TEXT)) or f"the broker gave up: {reason}",
            attempts=attempt_of(raw.headers),
            payload_sha256=hashlib.sha256(raw.body).hexdigest(),
            traceparent=_text(raw.headers.get("traceparent")),
            headers=without_history(raw.headers),
            body=raw.body,
        )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
