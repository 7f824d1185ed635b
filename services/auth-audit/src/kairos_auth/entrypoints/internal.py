"""What other services ask: tokens, keys, and whose credential this is."""

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from kairos_auth.application.introspect import Introspect
from kairos_auth.application.issue_service_token import IssueServiceToken
from kairos_contracts.permissions import Actor, Permission
from kairos_web import CurrentContext, limited, public, requires

_KEYS_FRESH_S = 60


class TokenOrder(BaseModel):
    service: str = Field(max_length=64)
    secret: str = Field(max_length=512)
    audience: str = Field(default="kairos", max_length=64)


class IssuedToken(BaseModel):
    token: str
    expires_in: int


class Credential(BaseModel):
    credential: str = Field(max_length=1024)


class IntrospectionView(BaseModel):
    active: bool
    actor: Actor | None = None
    expires_at: datetime | None = None


def internal_routes(issue: IssueServiceToken, introspect: Introspect, jwks: dict[str, Any]) -> APIRouter:
    router = APIRouter(tags=["services"])

    @router.post(
        "/internal/token",
        dependencies=[
            public("the service's secret is checked here"),
            limited("service-token", 300, seconds=60),
        ],
    )
    async def issue_token(body: TokenOrder, context: CurrentContext) -> IssuedToken:
        token, expires_in = await issue(body.service, body.secret, body.audience, context)
        return IssuedToken(token=token, expires_in=expires_in)

    @router.post("/internal/introspect", dependencies=[requires(Permission.KEYS_INTROSPECT)])
    async def introspect_credential(body: Credential) -> IntrospectionView:
        known = await introspect(body.credential)
        if known is None:
            return IntrospectionView(active=False)
        return IntrospectionView(active=True, actor=known.actor, expires_at=known.expires_at)

    @router.get("/.well-known/jwks.json", dependencies=[public("public keys")])
    async def show_keys(response: Response) -> dict[str, Any]:
        response.headers["cache-control"] = f"public, max-age={_KEYS_FRESH_S}"
        return jwks

    return router
