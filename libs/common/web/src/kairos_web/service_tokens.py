"""Service tokens: fetched by the caller, verified by the called with the published keys."""

import asyncio
import base64
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OKPKey
from pydantic import SecretStr

from kairos_contracts.permissions import SERVICE_GRANTS, Actor

ALGORITHM = "Ed25519"
TOKEN_TYPE = "kairos-service+jwt"  # noqa: S105 - a media type, not a secret
ISSUER = "auth-audit"
ANY_SERVICE = "kairos"

SessionSource = aiohttp.ClientSession | Callable[[], aiohttp.ClientSession]

_RENEW_BEFORE_S = 60
_KEYS_FRESH_S = 300.0
_KEYS_RETRY_S = 5.0


class AuthUnavailable(Exception):  # noqa: N818 - reads as the fact it states
    """auth-audit did not answer; the caller may try again."""


class TokenRefused(Exception):  # noqa: N818 - reads as the fact it states
    """auth-audit refused this service's secret; an operator must correct the settings."""


def open_session(source: SessionSource) -> aiohttp.ClientSession:
    return source if isinstance(source, aiohttp.ClientSession) else source()


@dataclass
class _Held:
    token: str
    renew_at: float


class ServiceTokens:
    """The bearer token this service shows to others; one request per token life, however many ask."""

    def __init__(self, auth_url: str, service: str, secret: str | SecretStr, session: SessionSource) -> None:
        self.service = service
        self._url = f"{auth_url.rstrip('/')}/internal/token"
        self._secret = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
        self._session = session
        self._held: dict[str, _Held] = {}
        self._lock = asyncio.Lock()

    async def bearer(self, audience: str = ANY_SERVICE) -> str:
        """The value for `Authorization`, with the scheme. Raises AuthUnavailable, TokenRefused."""
        held = self._held.get(audience)
        if held is None or time.monotonic() >= held.renew_at:
            async with self._lock:
                held = self._held.get(audience)
                if held is None or time.monotonic() >= held.renew_at:
                    held = await self._fetch(audience)
                    self._held[audience] = held
        return f"Bearer {held.token}"

    def drop(self) -> None:
        """Forget held tokens, after a service answered 401 to one."""
        self._held.clear()

    async def _fetch(self, audience: str) -> _Held:
        body = {"service": self.service, "secret": self._secret, "audience": audience}
        try:
            async with open_session(self._session).post(self._url, json=body) as response:
                if response.status in {401, 403, 422}:
                    raise TokenRefused(self.service)
                if response.status != 200:  # noqa: PLR2004 - HTTP OK
                    raise AuthUnavailable(f"status {response.status}")
                answer: dict[str, Any] = await response.json()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise AuthUnavailable(type(error).__name__) from error
        life = max(1, int(answer["expires_in"]) - _RENEW_BEFORE_S)
        return _Held(str(answer["token"]), time.monotonic() + life)


class TokenVerifier:
    """Verifies service tokens against a key set: fixed algorithm, type, issuer and audience."""

    def __init__(self, service: str) -> None:
        self._claims = jwt.JWTClaimsRegistry(
            leeway=5,
            iss={"essential": True, "value": ISSUER},
            aud={"essential": True, "values": [service, ANY_SERVICE]},
            sub={"essential": True},
            exp={"essential": True},
        )

    def verify(self, token: str, keys: KeySet) -> Actor | None:
        """The service the token names, or None when anything about it is wrong."""
        try:
            decoded = jwt.decode(token, keys, algorithms=[ALGORITHM])
            if decoded.header.get("typ") != TOKEN_TYPE:
                return None
            self._claims.validate(decoded.claims)
        except (JoseError, ValueError):
            return None
        name = str(decoded.claims["sub"])
        return Actor(kind="service", id=name, display=name) if name in SERVICE_GRANTS else None


def key_set(document: dict[str, Any]) -> KeySet:
    """Only Ed25519 keys of a JWKS document; anything else in it is not ours to trust."""
    keys: list[Any] = [
        OKPKey.import_key(key)
        for key in document.get("keys", [])
        if key.get("kty") == "OKP" and key.get("crv") == ALGORITHM and "kid" in key
    ]
    return KeySet(keys)


class RemoteKeys:
    """auth-audit's JWKS, cached; an unknown `kid` asks again, at most every 5 s.

    When auth-audit is away the last known keys stay in use: a signature does not become false by that.
    """

    def __init__(self, auth_url: str, session: SessionSource) -> None:
        self._url = f"{auth_url.rstrip('/')}/.well-known/jwks.json"
        self._session = session
        self._keys: KeySet | None = None
        self._fetched_at = float("-inf")
        self._lock = asyncio.Lock()

    async def for_token(self, token: str) -> KeySet:
        """Keys to check this token with. Raises AuthUnavailable when none were ever fetched."""
        age = time.monotonic() - self._fetched_at
        known = self._keys is not None and _kid_of(token) in {key.kid for key in self._keys.keys}
        if age < (_KEYS_FRESH_S if known else _KEYS_RETRY_S) and self._keys is not None:
            return self._keys
        async with self._lock:
            if time.monotonic() - self._fetched_at >= age:
                await self._refresh()
        if self._keys is None:
            raise AuthUnavailable("no signing keys yet")
        return self._keys

    async def _refresh(self) -> None:
        try:
            async with open_session(self._session).get(self._url) as response:
                response.raise_for_status()
                self._keys = key_set(await response.json())
                self._fetched_at = time.monotonic()
        except (aiohttp.ClientError, TimeoutError, ValueError):
            if self._keys is not None:
                self._fetched_at = time.monotonic()


def _kid_of(token: str) -> str | None:
    try:
        kid = jwt_header(token).get("kid")
    except ValueError:
        return None
    return kid if isinstance(kid, str) else None


def jwt_header(token: str) -> dict[str, Any]:
    """The unverified header of a compact JWS. Raises ValueError when it is none."""
    head = token.partition(".")[0]
    decoded = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    if not isinstance(decoded, dict):
        raise ValueError("not a JOSE header")  # noqa: TRY004 - one error class for every malformed token
    return decoded
