"""Data keys as settings hold them, and what is made of them."""

import base64
import binascii
import hashlib

KEY_BYTES = 32


class UnusableKey(ValueError):  # noqa: N818 - reads as the fact it states
    """A data key is not base64 of 32 bytes; the service does not start."""

    def __init__(self, which: str) -> None:
        super().__init__(f"{which} is not base64 of {KEY_BYTES} bytes")


def decoded(text: str, which: str = "the data key") -> bytes:
    """The key itself. `which` is what an error calls it, for it never shows it. Raises UnusableKey."""
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise UnusableKey(which) from None
    if len(key) != KEY_BYTES:
        raise UnusableKey(which)
    return key


def key_id(key: bytes) -> str:
    """A name for a key that says nothing about it."""
    return hashlib.sha256(b"kairos key id" + key).hexdigest()[:12]


def derived_key(data_key: str, purpose: str) -> bytes:
    """A key for another purpose, from the same data key (keyed BLAKE2b, RFC 7693). Raises UnusableKey."""
    return hashlib.blake2b(purpose.encode(), key=decoded(data_key), digest_size=KEY_BYTES).digest()
