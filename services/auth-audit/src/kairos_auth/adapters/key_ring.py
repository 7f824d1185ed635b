"""The Ed25519 keys: one signs, the next and the previous one are published beside it."""

import time
from collections.abc import Sequence
from typing import Any, cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from joserfc import jwt
from joserfc.jwk import KeySet, OKPKey

from kairos_contracts.audit_chain import to_base64url
from kairos_web import TokenVerifier
from kairos_web.service_tokens import ALGORITHM, ISSUER, TOKEN_TYPE

LIFE_S = 300


def check_signature(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether an Ed25519 signature holds; a malformed key or signature does not."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _import(seed: bytes) -> tuple[Ed25519PrivateKey, OKPKey]:
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public = private.public_key().public_bytes_raw()
    key = OKPKey.import_key(
        {"kty": "OKP", "crv": ALGORITHM, "d": to_base64url(seed), "x": to_base64url(public)},
        {"use": "sig", "alg": ALGORITHM},
    )
    key.ensure_kid()
    return private, key


class KeyRing:
    """Made of 32-byte seeds. `kid` is the RFC 7638 thumbprint.

    Rotate in three restarts: publish the new key as next; swap it with the current one, which becomes
    previous; drop previous after the longest token life.
    """

    def __init__(self, current: bytes, *, others: Sequence[bytes] = ()) -> None:
        self._private, self._current = _import(current)
        self._all = [self._current, *(_import(seed)[1] for seed in others)]
        self.public = KeySet(
            [OKPKey.import_key(cast("Any", key.as_dict(private=False))) for key in self._all]
        )

    @property
    def key_id(self) -> str:
        return str(self._current.kid)

    @property
    def public_key(self) -> str:
        return to_base64url(self._private.public_key().public_bytes_raw())

    @property
    def public_keys(self) -> frozenset[str]:
        return frozenset(str(key.as_dict(private=False)["x"]) for key in self._all)

    def sign(self, message: bytes) -> bytes:
        return self._private.sign(message)

    def jwks(self) -> dict[str, Any]:
        return {"keys": [key.as_dict(private=False) for key in self._all]}

    def issue(self, service: str, audience: str) -> tuple[str, int]:
        now = int(time.time())
        claims = {"iss": ISSUER, "sub": service, "aud": audience, "iat": now, "exp": now + LIFE_S}
        header = {"alg": ALGORITHM, "kid": self.key_id, "typ": TOKEN_TYPE}
        return jwt.encode(header, claims, self._current, algorithms=[ALGORITHM]), LIFE_S

    def verifier(self, service: str) -> TokenVerifier:
        return TokenVerifier(service)
