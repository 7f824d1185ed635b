"""JSON in one form only (RFC 8785), so that two parties hash the same bytes."""

import json
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

MAX_INTEGER = 2**53 - 1
"""Beyond this not every integer is exact for every JSON reader (RFC 7493); write it as text."""

_FIXED_BELOW = 21  # ECMAScript writes an exponent from 10**21 on,
_FIXED_ABOVE = -6  # and below 10**-6.


class NotCanonicalError(ValueError):
    """The value has no canonical JSON form; `plain` makes one that has."""


def canonical(value: Any) -> bytes:
    """The canonical UTF-8 bytes of a JSON value. Raises NotCanonicalError."""
    parts: list[str] = []
    _write(value, parts)
    try:
        return "".join(parts).encode()
    except UnicodeEncodeError as error:
        raise NotCanonicalError("a lone surrogate") from error


def plain(value: Any) -> Any:
    """The nearest value that is canonical and that PostgreSQL can store.

    Integers beyond 2**53 and numbers that are none become text; NUL and lone surrogates become U+FFFD.
    """
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode() if _unclean(value) else value
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    too_long = isinstance(value, int) and abs(value) > MAX_INTEGER
    no_number = isinstance(value, float) and not math.isfinite(value)
    return str(value) if too_long or no_number else value


def _unclean(text: str) -> bool:
    return "\0" in text or any("\ud800" <= character <= "\udfff" for character in text)


def _write(value: Any, parts: list[str]) -> None:
    if value is None or isinstance(value, bool):
        parts.append({None: "null", True: "true", False: "false"}[value])
    elif isinstance(value, str):
        parts.append(json.dumps(value, ensure_ascii=False))
    elif isinstance(value, int):
        parts.append(_integer(value))
    elif isinstance(value, float):
        parts.append(_number(value))
    elif isinstance(value, Mapping):
        _write_object(value, parts)
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        _write_array(value, parts)
    else:
        raise NotCanonicalError(f"{type(value).__name__} is not JSON")


def _write_object(value: Mapping[str, Any], parts: list[str]) -> None:
    # The standard sorts by UTF-16 code units, which differs from code points beyond U+FFFF.
    separator = "{"
    for key in sorted(value, key=lambda name: name.encode("utf-16-be", "surrogatepass")):
        parts.append(separator + json.dumps(key, ensure_ascii=False) + ":")
        _write(value[key], parts)
        separator = ","
    parts.append("}" if value else "{}")


def _write_array(value: Sequence[Any], parts: list[str]) -> None:
    separator = "["
    for item in value:
        parts.append(separator)
        _write(item, parts)
        separator = ","
    parts.append("]" if value else "[]")


def _integer(value: int) -> str:
    text = str(value)
    if abs(value) <= MAX_INTEGER:
        return text
    # A reader of canonical text meets large doubles as integers; they must write back as they were.
    if len(text) > _FIXED_BELOW + 1 or _number(float(value)) != text:
        raise NotCanonicalError("an integer that is not exact in every JSON reader")
    return text


def _number(value: float) -> str:
    """ECMAScript Number::toString; Python's repr has the same shortest digits."""
    if not math.isfinite(value):
        raise NotCanonicalError(f"{value} is not JSON")
    if value == 0:
        return "0"
    _, digit_tuple, exponent = Decimal(repr(abs(value))).as_tuple()
    digits = "".join(map(str, digit_tuple))
    point = len(digits) + int(exponent)
    digits = digits.rstrip("0")
    sign = "-" if value < 0 else ""
    if len(digits) <= point <= _FIXED_BELOW:
        return sign + digits.ljust(point, "0")
    if 0 < point <= _FIXED_BELOW:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if _FIXED_ABOVE < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{fraction}e{point - 1:+d}"
