"""Secrets at rest: AES-256-GCM, each bound to its place."""

import secrets
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kairos_sealing.keys import decoded, key_id

NONCE_BYTES = 12


class _Kept(Protocol):
    @property
    def key_id(self) -> str: ...

    @property
    def ciphertext(self) -> bytes: ...


S = TypeVar("S", bound=_Kept)


class Sealer(Generic[S]):
    """Seals with the first key; opens with whichever key the secret names, so that keys can be rotated.

    `kept_as` makes what the service keeps, of the key's id and the ciphertext; `unreadable` its error, of a
    reason. Raises UnusableKey.
    """

    def __init__(
        self,
        current: str,
        previous: Sequence[str] = (),
        *,
        kept_as: Callable[[str, bytes], S],
        unreadable: Callable[[str], Exception],
    ) -> None:
        keys = [decoded(current)]
        keys += [decoded(text, f"previous data key {number}") for number, text in enumerate(previous, 1)]
        self._current = key_id(keys[0])
        self._keys = {key_id(key): AESGCM(key) for key in keys}
        self._kept_as = kept_as
        self._unreadable = unreadable

    def seal(self, secret: str, *, bound_to: str) -> S:
        """`bound_to` names the one place the secret can be opened for."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        ciphertext = self._keys[self._current].encrypt(nonce, secret.encode(), bound_to.encode())
        return self._kept_as(self._current, nonce + ciphertext)

    def renewed(self, sealed: S, *, bound_to: str) -> S:
        """The same secret under the current key; itself when it is already. Raises as `open` does."""
        if sealed.key_id == self._current:
            return sealed
        return self.seal(self.open(sealed, bound_to=bound_to), bound_to=bound_to)

    def open(self, sealed: S, *, bound_to: str) -> str:
        """Raises what `unreadable` makes: its key is not here, or it was tampered with or moved."""
        key = self._keys.get(sealed.key_id)
        if key is None:
            raise self._unreadable(f"sealed under key {sealed.key_id}, which is not among the data keys")
        nonce, ciphertext = sealed.ciphertext[:NONCE_BYTES], sealed.ciphertext[NONCE_BYTES:]
        try:
            return key.decrypt(nonce, ciphertext, bound_to.encode()).decode()
        except (InvalidTag, ValueError):
            # A nonce or tag that was cut off is a ValueError.
            raise self._unreadable(f"sealed under key {sealed.key_id}, but not for this place") from None
