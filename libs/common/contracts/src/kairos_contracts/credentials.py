"""The shape of credentials that the issuer and every verifier agree on.

The checksum of an API key refuses typing errors without a look-up; it is no secret and proves nothing.
"""

import base64
import hashlib
import hmac
import secrets
import zlib

API_KEY_PREFIX = "kairos_live_"
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_BYTES = 32
_SECRET_LENGTH = 43  # 62**43 > 256**32, so 32 random bytes always fit.
_CHECKSUM_LENGTH = 6  # 62**6 > 2**32, so a CRC-32 always fits.


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode("ascii")), _CHECKSUM_LENGTH)


def new_api_key(entropy: bytes | None = None) -> str:
    """A fresh API key of 256 bits: `kairos_live_<43 base62><6 base62 of its CRC-32>`."""
    number = int.from_bytes(entropy or secrets.token_bytes(_SECRET_BYTES), "big")
    body = API_KEY_PREFIX + _base62(number, _SECRET_LENGTH)
    return body + _checksum(body)


def is_well_formed_api_key(text: str) -> bool:
    """Whether the text has the shape and the checksum of an API key."""
    if len(text) != len(API_KEY_PREFIX) + _SECRET_LENGTH + _CHECKSUM_LENGTH:
        return False
    if not text.isascii() or not text.startswith(API_KEY_PREFIX):
        return False
    body, checksum = text[:-_CHECKSUM_LENGTH], text[-_CHECKSUM_LENGTH:]
    return hmac.compare_digest(_checksum(body), checksum)


def new_session_token() -> str:
    """An opaque browser session token of 256 bits."""
    return secrets.token_urlsafe(_SECRET_BYTES)


def csrf_token(session_token: str) -> str:
    """The token a page repeats in `X-CSRF-Token`.

    It is derived from the session cookie, which scripts of other origins can't read, so every service
    can check it without a look-up.
    """
    digest = hmac.new(session_token.encode(), b"kairos csrf v1", hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")
