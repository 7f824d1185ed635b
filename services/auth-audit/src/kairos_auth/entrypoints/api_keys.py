"""API keys over HTTP."""

from datetime import UTC, datetime
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, Field

from kairos_auth.application.manage_api_keys import CreateApiKey, KeyOrder, ListApiKeys, RevokeApiKey
from kairos_auth.application.records import ApiKey
from kairos_auth.entrypoints.positions import after_id
from kairos_contracts.message import AwareTime
from kairos_contracts.permissions import Permission
from kairos_web import (
    CurrentActor,
    CurrentContext,
    CurrentOrganisation,
    Page,
    Paged,
    Problem,
    encode_cursor,
    requires,
)


class NewApiKey(BaseModel):
    name: str = Field(min_length=1, max_length=100)
    scopes: list[Permission] | None = None
    project_id: UUID | None = None
    expires_at: AwareTime | None = None
    team_id: UUID | None = None


class ApiKeyView(BaseModel):
    id: UUID
    name: str
    hint: str
    member_id: UUID
    scopes: list[Permission] | None
    project_id: UUID | None
    team_id: UUID | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


class CreatedApiKey(ApiKeyView):
    """`key` is shown this once; it is not stored."""

    key: str


def _fields(key: ApiKey) -> dict[str, object]:
    scopes = None if key.scopes is None else sorted(key.scopes)
    return {**vars(key), "scopes": scopes}


def api_key_routes(create: CreateApiKey, list_keys: ListApiKeys, revoke: RevokeApiKey) -> APIRouter:
    router = APIRouter(prefix="/api-keys", tags=["api keys"])

    @router.post("", status_code=201, dependencies=[requires(Permission.KEYS_WRITE)])
    async def create_key(
        body: NewApiKey, actor: CurrentActor, organisation_id: CurrentOrganisation, context: CurrentContext
    ) -> CreatedApiKey:
        if body.expires_at is not None and body.expires_at <= datetime.now(UTC):
            raise Problem(422, "invalid_request", "The expiry lies in the past")
        order = KeyOrder(body.name, body.scopes, body.project_id, body.expires_at, body.team_id)
        key, secret = await create(organisation_id, actor, order, context)
        return CreatedApiKey.model_validate({**_fields(key), "key": secret})

    @router.get("", dependencies=[requires(Permission.KEYS_READ)])
    async def show_keys(
        page: Paged, actor: CurrentActor, organisation_id: CurrentOrganisation
    ) -> Page[ApiKeyView]:
        keys = await list_keys(organisation_id, actor, page.limit + 1, after_id(page))
        shown = [ApiKeyView.model_validate(_fields(key)) for key in keys[: page.limit]]
        more = len(keys) > page.limit
        return Page(items=shown, next_cursor=encode_cursor({"id": str(shown[-1].id)}) if more else None)

    @router.delete("/{key_id}", status_code=204, dependencies=[requires(Permission.KEYS_WRITE)])
    async def revoke_key(
        key_id: UUID, actor: CurrentActor, organisation_id: CurrentOrganisation, context: CurrentContext
    ) -> None:
        await revoke(organisation_id, actor, key_id, context)

    return router
