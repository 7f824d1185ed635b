"""/quotas: how many requests and tokens somebody may use."""

from typing import Any, Literal
from uuid import UUID, uuid4

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from kairos_contracts.permissions import Permission
from kairos_router.application.limit_requests import Quotas
from kairos_router.application.quota_ports import QuotaExists, QuotaNotFound, QuotaStore
from kairos_router.domain.quota import InvalidQuota, Metric, Quota, QuotaScope, Window
from kairos_web import CurrentContext, CurrentOrganisation, Page, Paged, Problem, encode_cursor, requires


class NewQuota(BaseModel):
    """`scope_id` null: each of that scope has a counter of its own; the organisation has one anyway.

    `window` is null for concurrent requests, else the length of a sliding window.
    """

    model_config = ConfigDict(extra="forbid")

    scope: QuotaScope
    scope_id: UUID | None = None
    metric: Metric
    limit: int = Field(gt=0, le=10**15)
    window: Window | None = None


class NewLimit(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limit: int = Field(gt=0, le=10**15)


class QuotaView(BaseModel):
    """`counts` says whether one counter is shared or each of the scope has its own."""

    quota_id: UUID
    scope: QuotaScope
    scope_id: UUID | None
    counts: Literal["together", "each"]
    metric: Metric
    limit: int
    window: Window | None
    description: str


def _view(quota: Quota) -> QuotaView:
    each = quota.scope_id is None and quota.scope is not QuotaScope.ORGANISATION
    return QuotaView(
        quota_id=quota.quota_id,
        scope=quota.scope,
        scope_id=quota.scope_id,
        counts="each" if each else "together",
        metric=quota.metric,
        limit=quota.limit,
        window=quota.window,
        description=quota.describe(),
    )


def _not_found() -> Problem:
    return Problem(404, "quota_not_found", "There is no such quota")


def add_quotas(app: FastAPI, store: QuotaStore, quotas: Quotas) -> None:
    read: dict[str, Any] = {"dependencies": [requires(Permission.QUOTAS_READ)], "tags": ["quotas"]}
    write: dict[str, Any] = {"dependencies": [requires(Permission.QUOTAS_WRITE)], "tags": ["quotas"]}

    @app.get("/quotas", **read)
    async def show_quotas(page: Paged, organisation_id: CurrentOrganisation) -> Page[QuotaView]:
        position = page.position()
        after = _id_in(position) if position else None
        found = await store.page(organisation_id, after, page.limit + 1)
        shown = found[: page.limit]
        more = encode_cursor({"after": str(shown[-1].quota_id)}) if len(found) > page.limit else None
        return Page[QuotaView](items=[_view(each) for each in shown], next_cursor=more)

    @app.post("/quotas", status_code=201, **write)
    async def create_quota(
        new: NewQuota, organisation_id: CurrentOrganisation, context: CurrentContext
    ) -> QuotaView:
        """Every router follows within a second."""
        try:
            quota = Quota(
                uuid4(), organisation_id, new.scope, new.scope_id, new.metric, new.limit, new.window
            )
            await store.create(quota, context)
        except InvalidQuota as error:
            raise Problem(422, "invalid_quota", str(error)) from error
        except QuotaExists as error:
            raise Problem(409, "quota_exists", str(QuotaExists.__doc__)) from error
        await quotas.changed(organisation_id)
        return _view(quota)

    @app.patch("/quotas/{quota_id}", **write)
    async def set_limit(
        quota_id: UUID, new: NewLimit, organisation_id: CurrentOrganisation, context: CurrentContext
    ) -> QuotaView:
        """What has been counted stays counted. To change anything else, delete it and make another."""
        try:
            quota = await store.set_limit(organisation_id, quota_id, new.limit, context)
        except QuotaNotFound:
            raise _not_found() from None
        await quotas.changed(organisation_id)
        return _view(quota)

    @app.delete("/quotas/{quota_id}", status_code=204, **write)
    async def delete_quota(
        quota_id: UUID, organisation_id: CurrentOrganisation, context: CurrentContext
    ) -> None:
        try:
            await store.delete(organisation_id, quota_id, context)
        except QuotaNotFound:
            raise _not_found() from None
        await quotas.changed(organisation_id)


def _id_in(position: dict[str, Any]) -> UUID:
    try:
        return UUID(str(position["after"]))
    except (KeyError, ValueError) as error:
        raise Problem(400, "invalid_cursor", "The cursor is not one this service gave out") from error
