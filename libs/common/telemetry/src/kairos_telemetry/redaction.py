"""What must never reach a log, a span or an error report, and how it is masked.

Two ways find a secret: the name of the field that holds it, and the shape of the value itself.
`docs/telemetry.md` lists both from the tables below; adding a secret's shape here is the whole change.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

MASK = "[redacted]"
DEEPEST = 12
"""Nesting below this is masked whole: a log record is never that deep, an attack on the logger may be."""

SECRET_WORDS = frozenset(
    {
        "apikey",
        "authorization",
        "cookie",
        "cookies",
        "credential",
        "credentials",
        "passphrase",
        "passwd",
        "password",
        "passwords",
        "pepper",
        "pgpassword",
        "secret",
        "secrets",
        "token",
    }
)
SECRET_PAIRS = frozenset(
    {
        ("access", "key"),
        ("api", "key"),
        ("csrf", "token"),
        ("data", "key"),
        ("encryption", "key"),
        ("private", "key"),
        ("recovery", "code"),
        ("recovery", "codes"),
        ("service", "secrets"),
        ("signing", "key"),
    }
)


@dataclass(frozen=True)
class Shape:
    """One shape a secret has in running text.

    `markers` are lower-case pieces of which a text with such a secret holds at least one: looking for
    them is cheap, so that most texts never meet a pattern. The group `keep` is put back before the
    mask, so that a reader sees what stood there.
    """

    name: str
    markers: tuple[str, ...]
    pattern: re.Pattern[str]


_KEYS = (
    "password",
    "passwd",
    "passphrase",
    "pepper",
    "secret",
    "credential",
    "credentials",
    "token",
    "kairos_session",
)
_KEY_OWNERS = ("api", "access", "private", "signing", "data")
_NAMED = rf"(?i:{'|'.join(_KEYS)}|(?:{'|'.join(_KEY_OWNERS)})[_-]?key)"
_NAMED_MARKERS = ("pass", "pepper", "secret", "credential", "token", "kairos_session", "key")

# Each pattern starts with a literal or at the edge of a word, so that masking stays linear in the text.
SHAPES: tuple[Shape, ...] = (
    Shape(
        "private key block",
        ("-----begin",),
        re.compile(
            r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)"
        ),
    ),
    Shape(
        "authorization or cookie header",
        ("authorization", "cookie"),
        re.compile(r"(?P<keep>(?i:authorization|cookie)[\"']?\s*[=:]\s*[\"']?)[^\r\n\"']+"),
    ),
    Shape("Kairos API key", ("kairos_",), re.compile(r"(?P<keep>kairos_(?:live|test)_)[A-Za-z0-9]{6,}")),
    Shape("Telegram bot token", (":",), re.compile(r"(?<![0-9])[0-9]{6,12}:[A-Za-z0-9_-]{30,}")),
    Shape(
        "JSON Web Token",
        ("eyj",),
        re.compile(r"(?<![A-Za-z0-9])eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]*"),
    ),
    Shape(
        "provider key",
        ("sk", "xox", "gh"),
        re.compile(r"(?P<keep>(?<![A-Za-z0-9])(?:sk|xox[abp]|gh[pousr])[-_])[A-Za-z0-9_-]{16,}"),
    ),
    Shape("argon2 hash", ("$argon2",), re.compile(r"\$argon2(?:id|i|d)\$[^\s\"']+")),
    Shape(
        "bearer or basic credentials",
        ("bearer", "basic"),
        re.compile(r"(?P<keep>(?:(?i:bearer|basic)(?:\s|%20)+)+)[A-Za-z0-9._~+/=%:-]{4,}"),
    ),
    Shape(
        "password in a URL",
        ("://",),
        re.compile(r"(?P<keep>://[^\s:/@\"']{0,128}:)[^\s\"']{1,512}(?=@)"),
    ),
    Shape(
        "quoted secret",
        _NAMED_MARKERS,
        re.compile(
            rf"(?P<keep>{_NAMED}[\"']?\s*[=:]\s*(?P<quote>[\"']))(?:\\.|(?!(?P=quote))[^\\])+",
        ),
    ),
    Shape(
        "assigned secret",
        _NAMED_MARKERS,
        re.compile(rf"(?P<keep>{_NAMED}[\"']?\s*[=:]\s*)(?!\[redacted\])[^\s\"'&]+"),
    ),
)
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


def _mask(match: re.Match[str]) -> str:
    return f"{match.groupdict().get('keep', '')}{MASK}"


def redact_text(text: str) -> str:
    """Mask every secret a string contains; the rest of it stays readable."""
    lowered = text.lower()
    for shape in SHAPES:
        for marker in shape.markers:
            if marker in lowered:
                text = shape.pattern.sub(_mask, text)
                break
    return text


def is_secret_name(name: str) -> bool:
    """Whether a field of this name holds a secret, in snake_case, kebab-case or camelCase."""
    words = [word.lower() for word in _WORDS.findall(name)]
    return not SECRET_WORDS.isdisjoint(words) or any(pair in SECRET_PAIRS for pair in pairwise(words))


def _named(name: object, value: Any, depth: int) -> Any:
    # A number or a flag is a measure about secrets ("token": 17 counts tokens), never one.
    if isinstance(name, str) and is_secret_name(name) and not isinstance(value, int | float | None):
        return MASK
    return _redact(value, depth + 1)


def _redact(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, bytes | bytearray):
        return redact_text(bytes(value).decode("utf-8", "replace")).encode()
    if isinstance(value, BaseException):
        return redact_text(f"{type(value).__name__}: {value}")
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return MASK if depth > DEEPEST else _container(value, depth)
    return value


def _container(value: Any, depth: int) -> Any:
    if isinstance(value, Mapping):
        return {_redact(key, depth + 1): _named(key, item, depth) for key, item in value.items()}
    items = [_redact(item, depth + 1) for item in value]
    if isinstance(value, list):
        return items
    if isinstance(value, tuple):
        return tuple(items)
    return frozenset(items) if isinstance(value, frozenset) else set(items)


def redact(value: Any) -> Any:
    """Return the same structure with secrets masked; the argument is not changed.

    Mappings, sequences, sets, strings and bytes are walked; an exception becomes its masked text;
    any other object is returned as it is, because only its renderer knows what it shows.
    """
    return _redact(value, 0)
