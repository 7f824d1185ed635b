"""Routes by API: which deployments answer under which name, and how they are chosen."""

from typing import Any
from uuid import UUID

from fastapi import FastAPI, Response
from pydantic import BaseModel

from kairos_contracts.permissions import Permission
from kairos_router.application.catalogue_documents import RouteDocument
from kairos_router.application.catalogue_store import Draft
from kairos_router.domain.catalogue import Catalogue, Route
from kairos_router.entrypoints.listing import IfMatch, IfNoneMatch, expectation, page_by_name, tag
from kairos_router.entrypoints.management_deployments import Catalogues, Name
from kairos_web import CurrentContext, CurrentOrganisation, Page, Paged, Problem, requires


class RouteView(BaseModel):
    """`deployments` are those that can be used here and now, in the route's order."""

    name: str
    shared: bool
    deployments: list[str]
    policy: str
    sticky: bool
    weights: dict[str, int]
    canaries: dict[str, int]
    fallbacks: list[str]
    priority: str | None


class RouteDetail(BaseModel):
    """`document` is what PUT takes, for own routes only; `state` is None when nothing of it can be used."""

    name: str
    shared: bool
    version: int
    document: dict[str, Any] | None
    state: RouteView | None


def _view(route: Route) -> RouteView:
    return RouteView(
        name=route.name,
        shared=route.owner is None,
        deployments=list(route.deployments),
        policy=route.policy,
        sticky=route.sticky,
        weights=dict(zip(route.deployments, route.weights, strict=False)),
        canaries=dict(route.canaries),
        fallbacks=list(route.fallbacks),
        priority=route.priority,
    )


def _check(name: str, body: RouteDocument, catalogue: Catalogue) -> None:
    """Raises Problem 422 for a route over something that is not there."""
    unknown = [each for each in body.names() if each not in catalogue.deployments]
    unknown += [each for each in body.fallbacks if each not in catalogue.routes or each == name]
    if unknown:
        raise Problem(
            422, "unknown_target", "The route names what is not there", ", ".join(unknown), unknown=unknown
        )
    if sum(target.canary or 0 for target in body.targets()) > 100:  # noqa: PLR2004 - percent
        raise Problem(422, "too_many_canaries", "Canaries can't take more than 100 % of the requests")


def add_routes(app: FastAPI, parts: Catalogues) -> None:
    guard: dict[str, Any] = {"dependencies": [requires(Permission.MODELS_READ)], "tags": ["routes"]}

    @app.get("/routes", **guard)
    async def list_routes(organisation_id: CurrentOrganisation, page: Paged) -> Page[RouteView]:
        routes = parts.live.current(organisation_id).routes
        return page_by_name(page, ((name, _view(route)) for name, route in routes.items()))

    @app.get("/routes/{name:path}", **guard)
    async def read_route(name: Name, organisation_id: CurrentOrganisation, response: Response) -> RouteDetail:
        """One route. Its ETag goes into If-Match of a change."""
        found = await _detail(parts, organisation_id, name)
        response.headers["ETag"] = tag(found.version)
        return found

    _add_writing(app, parts)


async def _detail(parts: Catalogues, organisation_id: UUID, name: str) -> RouteDetail:
    """Raises Problem 404."""
    route = parts.live.current(organisation_id).routes.get(name)
    entry = await parts.store.find(organisation_id, "route", name)
    if entry is not None:
        state = _view(route) if route is not None and route.owner is not None else None
        return RouteDetail(
            name=name, shared=False, version=entry.version, document=dict(entry.document), state=state
        )
    if route is None:
        raise Problem(404, "route_not_found", "There is no such route")
    return RouteDetail(name=name, shared=True, version=0, document=None, state=_view(route))


def _add_writing(app: FastAPI, parts: Catalogues) -> None:
    guard: dict[str, Any] = {"dependencies": [requires(Permission.MODELS_WRITE)], "tags": ["routes"]}

    @app.put("/routes/{name:path}", **guard)
    async def put_route(
        name: Name,
        body: RouteDocument,
        organisation_id: CurrentOrganisation,
        context: CurrentContext,
        response: Response,
        if_match: IfMatch = None,
        if_none_match: IfNoneMatch = None,
    ) -> RouteDetail:
        """Create or replace an own route; a shared one of the same name is covered by it."""
        expected = expectation(if_match, if_none_match)
        # A deployment made a moment ago by another replica counts.
        await parts.live.follow()
        _check(name, body, parts.live.current(organisation_id))
        document = body.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
        draft = Draft("route", name, document)
        entry = await parts.replace(organisation_id, draft, context, expected)
        response.headers["ETag"] = tag(entry.version)
        return await _detail(parts, organisation_id, name)

    @app.delete("/routes/{name:path}", status_code=204, **guard)
    async def delete_route(
        name: Name, organisation_id: CurrentOrganisation, context: CurrentContext, if_match: IfMatch = None
    ) -> None:
        """Remove an own route; a shared one of the same name is in force again."""
        await parts.remove(organisation_id, "route", name, context, if_match)
