"""A message no consumer could handle, kept until someone looks and replays it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID


class DeadLetterNotFound(LookupError):  # noqa: N818 - reads as the fact it states
    """No dead letter with this id is visible to the caller."""


@dataclass(frozen=True)
class DeadLetter:
    """`deaths` counts how often the message came back; replaying it keeps its message id.

    `body` is the message as it was, for replay; only its masked form is ever shown.
    """

    id: UUID
    message_id: str
    queue: str
    type: str
    organisation_id: UUID | None
    reason: str
    error: str
    attempts: int
    deaths: int
    trace_id: str | None
    payload_sha256: str
    headers: dict[str, object]
    body: bytes
    status: Literal["open", "replayed"]
    first_died_at: datetime
    last_died_at: datetime
    replayed_at: datetime | None = None
    replayed_by: str | None = None
