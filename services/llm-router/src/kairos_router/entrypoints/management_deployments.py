"""Deployments by API: the shared ones to read, an organisation's own ones to change at run time."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import FastAPI, Path, Response
from pydantic import BaseModel, Field, SecretStr

from kairos_contracts.audit import AuditContext
from kairos_contracts.permissions import Permission
from kairos_router.application.catalogue_documents import NAME, DeploymentDocument, Entry, Kind, Sealed
from kairos_router.application.catalogue_store import (
    CatalogueStore,
    Conflict,
    Draft,
    LiveView,
    Missing,
    Seals,
    Surroundings,
    UnreadableSecret,
)
from kairos_router.application.circuits import Circuits
from kairos_router.application.guard_address import Reach
from kairos_router.application.price_book import Named
from kairos_router.application.price_map import price_version
from kairos_router.domain.catalogue import Deployment
from kairos_router.entrypoints.deployment_rules import check, check_key, require_key_again
from kairos_router.entrypoints.listing import IfMatch, IfNoneMatch, conflict, expectation, page_by_name, tag
from kairos_web import CurrentContext, CurrentOrganisation, Page, Paged, Problem, requires

Name = Annotated[str, Path(pattern=NAME)]


@dataclass(frozen=True)
class Catalogues:
    """What the routes of the catalogue work with. `memory` is how many of the newest scores count most."""

    live: LiveView
    store: CatalogueStore
    circuits: Circuits
    surroundings: Surroundings
    reach: Reach = field(default_factory=Reach)
    memory: int = 100

    async def replace(
        self,
        organisation_id: UUID,
        draft: Draft,
        context: AuditContext,
        expected: tuple[int | None, bool],
    ) -> Entry:
        """Write an own row and have it in force here at once. Raises Problem 412."""
        version, only_new = expected
        try:
            entry = await self.store.put(organisation_id, draft, context, expected=version, only_new=only_new)
        except Conflict as error:
            raise conflict(error.version) from error
        await self.live.follow()
        return entry

    async def remove(
        self, organisation_id: UUID, kind: Kind, name: str, context: AuditContext, if_match: str | None
    ) -> None:
        """Remove an own row; what it covered is in force again. Raises Problem 404, 412."""
        expected, _ = expectation(if_match, None)
        try:
            await self.store.delete(organisation_id, kind, name, context, expected=expected)
        except Missing as error:
            raise Problem(404, f"{kind}_not_found", f"You have no {kind} of this name") from error
        except Conflict as error:
            raise conflict(error.version) from error
        await self.live.follow()


class DeploymentIn(DeploymentDocument):
    """`api_key` is the provider's key: kept encrypted, never shown. Left out it stays; null removes it."""

    api_key: SecretStr | None = Field(default=None, repr=False)


class KeyView(BaseModel):
    """Where the provider's key comes from; the key itself is never shown.

    `problem` says why a stored one can't be used here; the deployment is absent then.
    """

    source: Literal["none", "environment", "stored"]
    variable: str | None = None
    sealed_under: str | None = None
    problem: str | None = None


class DeploymentView(BaseModel):
    """`circuit`, `running` and `p95_ms` are this process's view: an open circuit is left alone for a while.

    `quality` is what scores say, from 0 to 1. `free` never asks a budget; without `priced` only an
    organisation without budgets can use it.
    """

    name: str
    shared: bool
    kind: str
    provider: str
    model: str
    context_window: int
    max_output_tokens: int
    capabilities: list[str]
    has_key: bool
    free: bool
    priced: bool
    price_version: str
    max_concurrency: int | None
    retries: int
    circuit: str
    running: int
    p95_ms: int | None
    quality: float | None


class DeploymentDetail(BaseModel):
    """`document` is what PUT takes, for own ones only: the file's may name addresses of the installation.

    `state` tells what this process makes of it, None when it can't be used here: its variable is not set.
    """

    name: str
    shared: bool
    version: int
    key: KeyView | None
    document: dict[str, Any] | None
    state: DeploymentView | None


class ScoreIn(BaseModel):
    """How good an answer was, from 0 to 1; learned per organisation."""

    score: float = Field(ge=0, le=1)


class ScoreView(BaseModel):
    name: str
    quality: float
    samples: int


def _view(deployment: Deployment, circuits: Circuits, quality: float | None) -> DeploymentView:
    p95 = circuits.p95(deployment)
    return DeploymentView(
        name=deployment.name,
        shared=deployment.owner is None,
        kind=deployment.kind,
        provider=deployment.provider,
        model=deployment.model,
        context_window=deployment.context_window,
        max_output_tokens=deployment.max_output_tokens,
        capabilities=sorted(deployment.capabilities),
        has_key=deployment.api_key is not None,
        free=deployment.price.free,
        priced=deployment.price.known,
        price_version=deployment.price.version,
        max_concurrency=deployment.max_concurrency,
        retries=deployment.retries,
        circuit=circuits.state(deployment.uid),
        running=circuits.running(deployment),
        p95_ms=None if p95 is None else int(p95 * 1000),
        quality=quality,
    )


def _key(entry: Entry, sealer: Seals | None) -> KeyView:
    if entry.sealed is not None:
        problem = None if sealer is not None else "KAIROS_ROUTER_DATA_KEY is not set"
        try:
            if sealer is not None:
                sealer.open(entry.sealed, bound_to=entry.bound_to)
        except UnreadableSecret as error:
            problem = str(error)
        return KeyView(source="stored", sealed_under=entry.sealed.key_id, problem=problem)
    variable = entry.document.get("api_key_env")
    return KeyView(source="environment" if variable else "none", variable=variable)


def _sealed(parts: Catalogues, entry: Entry, body: DeploymentIn, before: Entry | None) -> Sealed | None:
    """The sealed key of the row to be. Raises Problem 409."""
    if "api_key" not in body.model_fields_set:
        return _kept(before, parts.surroundings.sealer) if before is not None else None
    if body.api_key is None:
        return None
    if parts.surroundings.sealer is None:
        raise Problem(409, "no_data_key", "Keys can't be kept", "KAIROS_ROUTER_DATA_KEY is not set")
    return parts.surroundings.sealer.seal(body.api_key.get_secret_value(), bound_to=entry.bound_to)


def _kept(before: Entry, sealer: Seals | None) -> Sealed | None:
    """The row's key as it is, under the current data key when it can be: every write moves a rotation on."""
    if before.sealed is None or sealer is None:
        return before.sealed
    try:
        return sealer.renewed(before.sealed, bound_to=before.bound_to)
    except UnreadableSecret:
        return before.sealed


def add_deployments(app: FastAPI, parts: Catalogues) -> None:
    _add_reading(app, parts)
    _add_writing(app, parts)
    _add_scores(app, parts)


def _add_reading(app: FastAPI, parts: Catalogues) -> None:
    guard: dict[str, Any] = {"dependencies": [requires(Permission.MODELS_READ)], "tags": ["deployments"]}

    @app.get("/deployments", **guard)
    async def list_deployments(organisation_id: CurrentOrganisation, page: Paged) -> Page[DeploymentView]:
        """What the organisation can use here and now, its own and the shared ones."""
        catalogue = parts.live.current(organisation_id)
        views = (
            (name, _view(each, parts.circuits, catalogue.quality.get(name)))
            for name, each in catalogue.deployments.items()
        )
        return page_by_name(page, views)

    @app.get("/deployments/{name:path}", **guard)
    async def read_deployment(
        name: Name, organisation_id: CurrentOrganisation, response: Response
    ) -> DeploymentDetail:
        """One deployment. Its ETag goes into If-Match of a change."""
        found = await _detail(parts, organisation_id, name)
        response.headers["ETag"] = tag(found.version)
        return found


async def _detail(parts: Catalogues, organisation_id: UUID, name: str) -> DeploymentDetail:
    """Raises Problem 404."""
    catalogue = parts.live.current(organisation_id)
    deployment = catalogue.deployments.get(name)
    state = None
    if deployment is not None:
        state = _view(deployment, parts.circuits, catalogue.quality.get(name))
    entry = await parts.store.find(organisation_id, "deployment", name)
    if entry is not None:
        own = state if deployment is not None and deployment.owner is not None else None
        return DeploymentDetail(
            name=name,
            shared=False,
            version=entry.version,
            key=_key(entry, parts.surroundings.sealer),
            document=dict(entry.document),
            state=own,
        )
    if state is None:
        raise Problem(404, "deployment_not_found", "There is no such deployment")
    return DeploymentDetail(name=name, shared=True, version=0, key=None, document=None, state=state)


def _add_writing(app: FastAPI, parts: Catalogues) -> None:
    guard: dict[str, Any] = {"dependencies": [requires(Permission.MODELS_WRITE)], "tags": ["deployments"]}

    @app.put("/deployments/{name:path}", **guard)
    async def put_deployment(
        name: Name,
        body: DeploymentIn,
        organisation_id: CurrentOrganisation,
        context: CurrentContext,
        response: Response,
        if_match: IfMatch = None,
        if_none_match: IfNoneMatch = None,
    ) -> DeploymentDetail:
        """Create or replace an own deployment; a shared one of the same name is covered by it."""
        expected, only_new = expectation(if_match, if_none_match)
        before = await parts.store.find(organisation_id, "deployment", name)
        document = body.model_dump(mode="json", exclude_defaults=True, exclude_none=True, exclude={"api_key"})
        sealed = _sealed(parts, Entry(organisation_id, "deployment", name, document), body, before)
        check(body, parts.reach, parts.surroundings, parts.live.current(), has_key=sealed is not None)
        if body.api_key is not None:
            check_key(body, body.api_key.get_secret_value())
        require_key_again(before, document, key_given="api_key" in body.model_fields_set)
        if (
            expected is None
            and not only_new
            and before is not None
            and "api_key" not in body.model_fields_set
        ):
            # A key that is taken over is the one that was read, and not one that is removed meanwhile.
            expected = before.version
        price = None
        if isinstance(body.price, str):
            await _require_known(parts, organisation_id, body.price)
        elif body.price is not None:
            price = Named(price_version(document["price"]), document["price"])
        draft = Draft("deployment", name, document, price, sealed)
        entry = await parts.replace(organisation_id, draft, context, (expected, only_new))
        response.headers["ETag"] = tag(entry.version)
        return await _detail(parts, organisation_id, name)

    @app.delete("/deployments/{name:path}", status_code=204, **guard)
    async def delete_deployment(
        name: Name,
        organisation_id: CurrentOrganisation,
        context: CurrentContext,
        if_match: IfMatch = None,
    ) -> None:
        """Remove an own deployment; a shared one of the same name is in force again."""
        await parts.remove(organisation_id, "deployment", name, context, if_match)


async def _require_known(parts: Catalogues, organisation_id: UUID, price: str) -> None:
    """Raises Problem 422 for a price nobody has: it would keep the deployment from every budget."""
    if parts.live.book.named(organisation_id, price) is None:
        # A price set a moment ago at another replica counts.
        await parts.live.follow()
    book = parts.live.book
    if book.named(organisation_id, price) is not None:
        return
    near = book.similar(organisation_id, price)
    found = f"Near it are {', '.join(near)}" if near else "Nothing in it is near"
    raise Problem(
        422,
        "unknown_price",
        f"The price book has no {price}",
        f"{found}. Or write the rates as an object, or leave `price` out where no budget applies.",
        errors=[{"at": "body/price", "problem": "nobody has a price of this name", "kind": "unknown_price"}],
        near=near,
    )


def _add_scores(app: FastAPI, parts: Catalogues) -> None:
    guard: dict[str, Any] = {"dependencies": [requires(Permission.MODELS_WRITE)], "tags": ["deployments"]}

    @app.post("/deployments/{name:path}/scores", **guard)
    async def score_deployment(name: Name, body: ScoreIn, organisation_id: CurrentOrganisation) -> ScoreView:
        """Learn how good an answer of this deployment was; routes by quality follow within seconds."""
        if name not in parts.live.current(organisation_id).deployments:
            raise Problem(404, "deployment_not_found", "There is no such deployment")
        quality, samples = await parts.store.score(organisation_id, name, body.score, parts.memory)
        return ScoreView(name=name, quality=quality, samples=samples)
