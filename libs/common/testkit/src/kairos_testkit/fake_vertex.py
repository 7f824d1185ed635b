"""Vertex AI as documented: Gemini's answers below a project and a location, and the server of its tokens.

A token is given for an assertion that the service account has signed, and a request needs such a token.
"""

import asyncio
import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from kairos_testkit.fake_gemini import FakeGemini

EMAIL: Final = "router@mine.iam.gserviceaccount.com"
# Google's library signs for this one, whatever the address of the token is.
_AUDIENCE: Final = "https://oauth2.googleapis.com/token"
_GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_BELOW: Final = r"/{version}/projects/{project}/locations/{location}/publishers/google/models/{model}"


@cache
def _private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65_537, key_size=2_048)


def service_account(token_uri: str, **more: Any) -> dict[str, Any]:
    """The JSON that Google gives out for a service account; its key is the same in a process."""
    pem = _private_key().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {
        "type": "service_account",
        "project_id": "mine",
        "private_key_id": "fake",
        "private_key": pem.decode(),
        "client_email": EMAIL,
        "client_id": "1",
        "token_uri": token_uri,
        "universe_domain": "googleapis.com",
    } | more


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """What somebody asked a token with."""

    headers: Mapping[str, str]
    claims: Mapping[str, Any]


class FakeVertex(FakeGemini):
    """`base_url` is the deployment's address, `token_uri` the service account's."""

    def __init__(self, *, port: int = 0) -> None:
        super().__init__(port=port)
        self.tokens: list[TokenRecord] = []
        self.token_status = 200
        self.token_delay_s = 0.0

    @property
    def url(self) -> str:
        return self.base_url

    @property
    def token_uri(self) -> str:
        return f"{self.base_url}/token"

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/token", self._token),
            web.post(f"{_BELOW}:generateContent", self._signed_generate),
            web.post(f"{_BELOW}:streamGenerateContent", self._signed_stream),
        ]

    async def _token(self, request: web.Request) -> web.Response:
        form = await request.post()
        await asyncio.sleep(self.token_delay_s)
        claims = _claims(str(form.get("assertion", "")))
        self.tokens.append(TokenRecord(dict(request.headers), claims))
        if self.token_status != web.HTTPOk.status_code:
            return web.json_response({"error": "scripted"}, status=self.token_status)
        wanted = {"iss": EMAIL, "aud": _AUDIENCE}
        if form.get("grant_type") != _GRANT or any(claims.get(name) != wanted[name] for name in wanted):
            return web.json_response({"error": "invalid_grant"}, status=400)
        token = f"ya29.{len(self.tokens)}"
        return web.json_response({"access_token": token, "expires_in": 3_600, "token_type": "Bearer"})

    async def _signed_generate(self, request: web.Request) -> web.StreamResponse:
        return self._refusal(request) or await self._generate(request)

    async def _signed_stream(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("alt") != "sse":
            return web.json_response({"error": {"code": 400, "message": "alt=sse"}}, status=400)
        return self._refusal(request) or await self._stream(request)

    def _refusal(self, request: web.Request) -> web.Response | None:
        if request.headers.get("Authorization", "").startswith("Bearer ya29."):
            return None
        error = {"code": 401, "message": "no token of ours", "status": "UNAUTHENTICATED"}
        return web.json_response({"error": error}, status=401)


def _claims(assertion: str) -> dict[str, Any]:
    """What it says when the service account has signed it, nothing otherwise."""
    signed, _, signature = assertion.rpartition(".")
    try:
        _private_key().public_key().verify(
            _decoded(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256()
        )
        found = json.loads(_decoded(signed.partition(".")[2]))
    except (InvalidSignature, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
