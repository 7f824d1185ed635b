"""Secrets at rest: AES-256-GCM under the installation's data key."""

import base64
import binascii
import hashlib
import secrets
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kairos_bots.domain.bot import Sealed

KEY_BYTES = 32
NONCE_BYTES = 12


class UnusableKeyError(ValueError):
    """The data key is not base64 of 32 bytes; the service does not start."""


class UnreadableSecretError(RuntimeError):
    """The secret was sealed under a key we do not have, or was tampered with or moved."""


class AesGcmCipher:
    """Seals with the first key; opens with whichever key the secret names, so that keys can be rotated."""

    def __init__(self, current: str, previous: Sequence[str] = ()) -> None:
        keys = [_decoded(text) for text in (current, *previous)]
        self._current = key_id(keys[0])
        self._keys = {key_id(key): AESGCM(key) for key in keys}

    def seal(self, secret: str, *, bound_to: str) -> Sealed:
        nonce = secrets.token_bytes(NONCE_BYTES)
        ciphertext = self._keys[self._current].encrypt(nonce, secret.encode(), bound_to.encode())
        return Sealed(self._current, nonce + ciphertext)

    def open(self, sealed: Sealed, *, bound_to: str) -> str:
        key = self._keys.get(sealed.key_id)
        if key is None:
            raise UnreadableSecretError(f"no key {sealed.key_id}")
        nonce, ciphertext = sealed.ciphertext[:NONCE_BYTES], sealed.ciphertext[NONCE_BYTES:]
        try:
            return key.decrypt(nonce, ciphertext, bound_to.encode()).decode()
        except InvalidTag as error:
            raise UnreadableSecretError(f"sealed under key {sealed.key_id}") from error


def key_id(key: bytes) -> str:
    """A name for a key that says nothing about it."""
    return hashlib.sha256(b"kairos key id" + key).hexdigest()[:12]


def derived_key(data_key: str, purpose: str) -> bytes:
    """A key for another purpose, from the same data key (keyed BLAKE2b, RFC 7693)."""
    return hashlib.blake2b(purpose.encode(), key=_decoded(data_key), digest_size=KEY_BYTES).digest()


def _decoded(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnusableKeyError(UnusableKeyError.__doc__) from error
    if len(key) != KEY_BYTES:
        raise UnusableKeyError(UnusableKeyError.__doc__)
    return key
