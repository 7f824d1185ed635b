"""Provider keys at rest: AES-256-GCM under the installation's data key."""

import base64
import binascii
import hashlib
import secrets
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kairos_router.application.catalogue_documents import Sealed
from kairos_router.application.catalogue_store import UnreadableSecret

KEY_BYTES = 32
NONCE_BYTES = 12


class UnusableKey(ValueError):  # noqa: N818 - reads as the fact it states
    """The data key is not base64 of 32 bytes; the service does not start."""


class Sealer:
    """Seals with the first key; opens with whichever key the secret names, so that keys can be rotated."""

    def __init__(self, current: str, previous: Sequence[str] = ()) -> None:
        keys = [_decoded(text) for text in (current, *previous)]
        self._current = _key_id(keys[0])
        self._keys = {_key_id(key): AESGCM(key) for key in keys}

    def seal(self, secret: str, *, bound_to: str) -> Sealed:
        """`bound_to` names the one place the secret can be opened for."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        ciphertext = self._keys[self._current].encrypt(nonce, secret.encode(), bound_to.encode())
        return Sealed(self._current, nonce + ciphertext)

    def open(self, sealed: Sealed, *, bound_to: str) -> str:
        """Raises UnreadableSecret."""
        key = self._keys.get(sealed.key_id)
        if key is None:
            raise UnreadableSecret(f"no key {sealed.key_id}")
        nonce, ciphertext = sealed.ciphertext[:NONCE_BYTES], sealed.ciphertext[NONCE_BYTES:]
        try:
            return key.decrypt(nonce, ciphertext, bound_to.encode()).decode()
        except InvalidTag as error:
            raise UnreadableSecret(f"sealed under key {sealed.key_id}") from error


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"kairos key id" + key).hexdigest()[:12]


def _decoded(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnusableKey(UnusableKey.__doc__) from error
    if len(key) != KEY_BYTES:
        raise UnusableKey(UnusableKey.__doc__)
    return key
