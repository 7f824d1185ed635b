"""Who calls: credentials read from the request and resolved with auth-audit's help."""

import asyncio
import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import aiohttp
from pydantic import TypeAdapter
from starlette.requests import HTTPConnection

from kairos_contracts.credentials import API_KEY_PREFIX, is_well_formed_api_key
from kairos_contracts.permissions import Actor
from kairos_telemetry import get_logger
from kairos_web.problems import unavailable
from kairos_web.same_origin import refuse_forgery, session_cookie_name
from kairos_web.service_tokens import (
    AuthUnavailable,
    RemoteKeys,
    ServiceTokens,
    SessionSource,
    TokenRefused,
    TokenVerifier,
    open_session,
)

_log = get_logger(__name__)

FRESH_S = 30.0
STALE_S = 60.0
_NEGATIVE_S = 5.0
_MAX_ENTRIES = 50_000
_JWT_DOTS = 2
_ATTEMPTS = 3

ACTOR = TypeAdapter(Actor)


def credential_of(connection: HTTPConnection, *, cookie_secure: bool) -> tuple[str, bool] | None:
    """The credential and whether it is the session cookie. A bearer token wins over a cookie."""
    scheme, _, value = connection.headers.get("authorization", "").partition(" ")
    if scheme:
        return (value.strip(), False) if scheme.lower() == "bearer" and value.strip() else None
    cookie = connection.cookies.get(session_cookie_name(secure=cookie_secure))
    return (cookie, True) if cookie else None


def is_service_token(credential: str) -> bool:
    return credential.count(".") == _JWT_DOTS


@dataclass(frozen=True)
class _Entry:
    actor: Actor | None
    fresh_until: float
    stale_until: float


class RemoteAuthenticator:
    """Verifies service tokens here; has API keys and sessions introspected by auth-audit.

    An answer is fresh for 30 s and dropped at once by `forget` (call it on auth.access.changed.v1).
    When auth-audit is away an answer up to 60 s old still serves; after that callers get 503.
    """

    def __init__(
        self, auth_url: str, tokens: ServiceTokens, session: SessionSource, *, cookie_secure: bool = False
    ) -> None:
        self._introspect_url = f"{auth_url.rstrip('/')}/internal/introspect"
        self._tokens = tokens
        self._session = session
        self._cookie_secure = cookie_secure
        self._keys = RemoteKeys(auth_url, session)
        self._verifier = TokenVerifier(tokens.service)
        self._cache: OrderedDict[bytes, _Entry] = OrderedDict()
        self._flights: dict[bytes, asyncio.Task[Actor | None]] = {}
        self._changes = 0

    async def authenticate(self, connection: HTTPConnection) -> Actor | None:
        found = credential_of(connection, cookie_secure=self._cookie_secure)
        if found is None:
            return None
        credential, is_cookie = found
        if is_cookie:
            refuse_forgery(connection, credential)
        return await self.resolve(credential)

    def cached(self, credential: str) -> Actor | None:
        """A fresh answer without any await, or None: then `resolve` decides."""
        entry = self._cache.get(_digest(credential))
        return entry.actor if entry is not None and time.monotonic() < entry.fresh_until else None

    async def resolve(self, credential: str) -> Actor | None:
        """Who this credential belongs to. Raises Problem 503 when that can't be known now."""
        if is_service_token(credential):
            try:
                return self._verifier.verify(credential, await self._keys.for_token(credential))
            except AuthUnavailable as error:
                raise unavailable("auth-audit") from error
        if credential.startswith(API_KEY_PREFIX) and not is_well_formed_api_key(credential):
            return None
        key = _digest(credential)
        entry = self._cache.get(key)
        if entry is not None and time.monotonic() < entry.fresh_until:
            return entry.actor
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.create_task(self._introspect(key, credential))
            self._flights[key] = flight
            flight.add_done_callback(lambda _: self._flights.pop(key, None))
        return await asyncio.shield(flight)

    def forget(self, kind: str, subject_id: UUID) -> None:
        """Drop what is cached about a session, API key or member."""
        self._changes += 1
        for key in [key for key, entry in self._cache.items() if _concerns(entry.actor, kind, subject_id)]:
            del self._cache[key]

    def forget_all(self) -> None:
        """Drop everything, when change events may have been missed."""
        self._changes += 1
        self._cache.clear()

    async def _introspect(self, key: bytes, credential: str) -> Actor | None:
        try:
            for _ in range(_ATTEMPTS):
                before = self._changes
                entry = await self._ask(credential)
                if before == self._changes:
                    # An answer that crossed a change event may describe the state before it.
                    self._remember(key, entry)
                    break
        except (AuthUnavailable, TokenRefused) as error:
            stale = self._cache.get(key)
            if stale is not None and time.monotonic() < stale.stale_until:
                return stale.actor
            _log.warning("introspection_failed", error=type(error).__name__)
            raise unavailable("auth-audit") from error
        return entry.actor

    def _remember(self, key: bytes, entry: _Entry) -> None:
        self._cache[key] = entry
        self._cache.move_to_end(key)
        while len(self._cache) > _MAX_ENTRIES:
            self._cache.popitem(last=False)

    async def _ask(self, credential: str) -> _Entry:
        headers = {"Authorization": await self._tokens.bearer()}
        body = {"credential": credential}
        try:
            async with open_session(self._session).post(
                self._introspect_url, json=body, headers=headers
            ) as response:
                if response.status in {401, 403}:
                    self._tokens.drop()
                if response.status != 200:  # noqa: PLR2004 - HTTP OK
                    raise AuthUnavailable(f"status {response.status}")
                answer: dict[str, Any] = await response.json()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise AuthUnavailable(type(error).__name__) from error
        now = time.monotonic()
        if not answer.get("active"):
            return _Entry(None, now + _NEGATIVE_S, now + _NEGATIVE_S)
        life = _seconds_left(answer.get("expires_at"))
        actor = ACTOR.validate_python(answer["actor"])
        return _Entry(actor, now + min(FRESH_S, life), now + min(STALE_S, life))


def _digest(credential: str) -> bytes:
    # Credentials themselves do not stay in memory longer than their request.
    return hashlib.sha256(credential.encode()).digest()


def _seconds_left(expires_at: str | None) -> float:
    if expires_at is None:
        return float("inf")
    return (datetime.fromisoformat(expires_at) - datetime.now(UTC)).total_seconds()


def _concerns(actor: Actor | None, kind: str, subject_id: UUID) -> bool:
    if actor is None:
        return False
    if kind == "session":
        return actor.session_id == subject_id
    return actor.kind == kind and actor.id == str(subject_id)
