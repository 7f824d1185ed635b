"""auth-audit asks itself who calls: always the database, never a cache."""

from joserfc.jwk import KeySet
from starlette.requests import HTTPConnection

from kairos_auth.application.introspect import Introspect
from kairos_contracts.permissions import Actor
from kairos_web import TokenVerifier, credential_of, is_service_token, refuse_forgery


class LocalAuthenticator:
    def __init__(
        self, introspect: Introspect, verifier: TokenVerifier, keys: KeySet, *, cookie_secure: bool
    ) -> None:
        self._introspect = introspect
        self._verifier = verifier
        self._keys = keys
        self._cookie_secure = cookie_secure

    async def authenticate(self, connection: HTTPConnection) -> Actor | None:
        found = credential_of(connection, cookie_secure=self._cookie_secure)
        if found is None:
            return None
        credential, is_cookie = found
        if is_cookie:
            refuse_forgery(connection, credential)
        elif is_service_token(credential):
            return self._verifier.verify(credential, self._keys)
        known = await self._introspect(credential)
        return known.actor if known is not None else None
