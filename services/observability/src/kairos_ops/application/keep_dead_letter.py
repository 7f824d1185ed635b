import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from kairos_contracts.catalogue import catalogue
from kairos_ops.application.ports import Clock, DeadLetterStore, Redactor
from kairos_ops.domain.dead_letter import DeadLetter
from kairos_ops.domain.event import trace_id_of
from kairos_ops.domain.masking import mask_payload

_SHOWN_HEADERS = ("cloudEvents_", "causation_id", "traceparent")


@dataclass(frozen=True)
class Corpse:
    """A message as it arrived from the dead-letter exchange; nothing in it can be trusted to parse."""

    queue: str
    message_id: str | None
    headers: Mapping[str, Any]
    body: bytes
    reason: str
    error: str
    attempts: int


class KeepDeadLetter:
    def __init__(self, store: DeadLetterStore, clock: Clock, redact: Redactor) -> None:
        self._store = store
        self._clock = clock
        self._redact = redact

    async def __call__(self, corpse: Corpse) -> DeadLetter:
        """Store one dead letter. A message without an id is named by the hash of its body."""
        now = self._clock()
        digest = hashlib.sha256(corpse.body).hexdigest()
        traceparent = corpse.headers.get("traceparent")
        letter = DeadLetter(
            id=uuid4(),
            message_id=corpse.message_id or digest,
            queue=corpse.queue,
            type=_plain(corpse.headers.get("cloudEvents_type"), "unknown"),
            organisation_id=_organisation(corpse.headers),
            reason=corpse.reason,
            error=str(self._redact(corpse.error))[:4_000],
            attempts=corpse.attempts,
            deaths=1,
            trace_id=trace_id_of(traceparent if isinstance(traceparent, str) else None),
            payload_sha256=digest,
            headers={str(name): _jsonable(value) for name, value in corpse.headers.items()},
            body=corpse.body,
            status="open",
            first_died_at=now,
            last_died_at=now,
        )
        await self._store.keep(letter)
        return letter


def shown_payload(letter: DeadLetter, redact: Redactor) -> dict[str, Any] | None:
    """The masked body, or None when it is not a JSON object."""
    try:
        body = json.loads(letter.body)
    except (UnicodeDecodeError, ValueError):
        return None
    if not isinstance(body, dict):
        return None
    entry = catalogue().get(letter.type)
    shown = redact(mask_payload(body, personal=entry is None or entry.personal_data))
    return dict(shown)


def shown_headers(letter: DeadLetter, redact: Redactor) -> dict[str, Any]:
    """Our own envelope headers, redacted; the subject may name a chat and is left out."""
    shown = {
        name: value
        for name, value in letter.headers.items()
        if name.startswith(_SHOWN_HEADERS) and not name.endswith("subject")
    }
    return dict(redact(shown))


def _plain(value: object, default: str) -> str:
    return value[:200] if isinstance(value, str) and value else default


def _organisation(headers: Mapping[str, Any]) -> UUID | None:
    try:
        return UUID(str(headers["organisation_id"]))
    except (KeyError, ValueError):
        return None


def _jsonable(value: object) -> object:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, Mapping):
        return {str(name): _jsonable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return str(value)
