"""What of a message may be kept for the feed and the event store.

Types that carry personal data (`personal_data` in the catalogue) lose every text that is not an
identifier: a field added later is masked until someone puts its name on the list below.
"""

import re
from datetime import datetime
from typing import Any
from uuid import UUID

MASK = "[masked]"

# Fields whose texts are fixed words or names of things, never words of or about a person.
SAFE_TEXT_FIELDS = frozenset(
    {
        "action",
        "channel",
        "code",
        "degraded",
        "deployment",
        "finish_reason",
        "kind",
        "mode",
        "model",
        "outcome",
        "price_version",
        "provider",
        "role",
        "service",
        "source",
        "type",
        "via",
    }
)
# Texts made of parts, `bot:<id>` for one; parts that identify a person are masked one by one.
COMPOUND_FIELDS = frozenset({"subject", "target"})
_KIND = re.compile(r"[a-z_]{1,32}")
_CHANNELS = frozenset({"telegram", "web"})
_TRACE_FIELDS = frozenset({"trace_id", "request_id"})
_HEX = re.compile(r"[0-9a-f-]{8,64}")


def mask_payload(payload: dict[str, Any], *, personal: bool) -> dict[str, Any]:
    """The body of a message as it may be stored. Numbers, ids, times and fixed words stay."""
    if not personal:
        return payload
    return {name: _mask_value(name, value) for name, value in payload.items()}


def mask_subject(subject: str, *, personal: bool) -> str:
    """The aggregate of a message, without a chat's own identifier."""
    return mask_compound(subject) if personal else subject


def mask_compound(text: str) -> str:
    """Mask the parts of `kind:id` or `bot:channel:chat` that are neither ids nor fixed words."""
    first, *rest = text.split(":")
    kind = first if rest and _KIND.fullmatch(first) else _mask_part(first)
    return ":".join([kind, *(_mask_part(part) for part in rest)])


def _mask_part(part: str) -> str:
    return part if part in _CHANNELS or _is_identifier(part) else MASK


def _mask_value(name: str, value: Any) -> Any:
    if isinstance(value, str):
        return _mask_text(name, value)
    if isinstance(value, dict):
        return {key: _mask_value(key, item) for key, item in value.items()}
    if isinstance(value, list):
        return [_mask_value(name, item) for item in value]
    return value


def _mask_text(name: str, text: str) -> str:
    if name in COMPOUND_FIELDS:
        return mask_compound(text)
    if name in SAFE_TEXT_FIELDS or _is_identifier(text) or _is_time(text):
        return text
    if name in _TRACE_FIELDS and _HEX.fullmatch(text):
        return text
    return MASK if text else text


def _is_identifier(text: str) -> bool:
    if len(text) not in {32, 36}:
        return False
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _is_time(text: str) -> bool:
    if not text[:4].isdigit() or "T" not in text:
        return False
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
