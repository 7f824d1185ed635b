"""/cache: which answers are kept, for how long, and how to be rid of them."""

from typing import Annotated, Any

from fastapi import FastAPI
from fastapi import Path as PathParameter
from pydantic import BaseModel, ConfigDict, Field

from kairos_contracts.permissions import Permission
from kairos_router.application.cache_policies import CachePolicies
from kairos_router.application.cache_ports import PolicyStore
from kairos_router.domain.cache_policy import (
    DEFAULT_SIMILARITY,
    EVERY_ROUTE,
    LONGEST_TTL_S,
    CachePolicy,
    Mode,
    SharedBy,
)
from kairos_web import CurrentContext, CurrentOrganisation, Page, Problem, requires

RouteName = Annotated[str, PathParameter(min_length=1, max_length=64)]


class NewPolicy(BaseModel):
    """`mode` all keeps every answer, deterministic those asked for with temperature 0."""

    model_config = ConfigDict(extra="forbid")

    mode: Mode
    ttl_seconds: int = Field(3_600, ge=0, le=LONGEST_TTL_S)
    shared_by: SharedBy = SharedBy.ORGANISATION
    semantic: bool = False
    similarity: float = Field(DEFAULT_SIMILARITY, ge=0.5, le=1.0)


class PolicyView(NewPolicy):
    """`route` `*` is the default of routes without a policy of their own."""

    route: str


class Purge(BaseModel):
    """`route` null: everything of the organisation."""

    model_config = ConfigDict(extra="forbid")

    route: str | None = Field(None, min_length=1, max_length=64)


def _view(policy: CachePolicy) -> PolicyView:
    return PolicyView.model_validate(policy, from_attributes=True)


def add_cache(app: FastAPI, store: PolicyStore, policies: CachePolicies, *, semantic: bool) -> None:
    """`semantic` tells whether the local embedding model is installed."""
    read: dict[str, Any] = {"dependencies": [requires(Permission.MODELS_READ)], "tags": ["cache"]}
    write: dict[str, Any] = {"dependencies": [requires(Permission.CACHE_WRITE)], "tags": ["cache"]}

    @app.get("/cache/policies", **read)
    async def show_policies(organisation_id: CurrentOrganisation) -> Page[PolicyView]:
        return Page[PolicyView](items=[_view(each) for each in await store.of(organisation_id)])

    @app.put("/cache/policies/{route:path}", **write)
    async def put_policy(
        route: RouteName, new: NewPolicy, organisation_id: CurrentOrganisation, context: CurrentContext
    ) -> PolicyView:
        """Every router follows within a second; what is kept already obeys the new time too."""
        if new.semantic and not semantic:
            message = "The local embedding model is not installed on this router: make embedding"
            raise Problem(409, "embedding_model_absent", message)
        policy = await store.put(CachePolicy(organisation_id, route, **new.model_dump()), context)
        await policies.changed(organisation_id)
        return _view(policy)

    @app.post("/cache/purge", status_code=204, **write)
    async def purge(what: Purge, organisation_id: CurrentOrganisation, context: CurrentContext) -> None:
        """What is kept now is never served again; every router follows within a second."""
        await store.purge(organisation_id, what.route or EVERY_ROUTE, context)
        await policies.changed(organisation_id)
