"""Prices by API: what is in force, every version there was, own ones, and imports of a price map."""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request, Response
from pydantic import BaseModel

from kairos_contracts.permissions import Permission
from kairos_router.application import price_map
from kairos_router.application.catalogue_store import Draft
from kairos_router.application.price_book import Book, Named, PriceBook
from kairos_router.application.price_documents import PriceDocument
from kairos_router.domain.catalogue import Deployment
from kairos_router.entrypoints.listing import IfMatch, IfNoneMatch, expectation, page_by_name, tag
from kairos_router.entrypoints.management_deployments import Catalogues
from kairos_web import CurrentContext, CurrentOrganisation, Page, Paged, Problem, requires

PriceName = Annotated[str, Path(min_length=1, max_length=200, pattern=r"^[^\s\x00]+$")]
# Of a long list of changes, as many are told one by one.
TOLD = 200


class PriceView(BaseModel):
    """What a deployment's tokens cost now; nano-USD per million tokens, exact. See /prices/{name} for all.

    `known` is False when nobody has a price: then only organisations without budgets can use it.
    """

    deployment: str
    model: str
    version: str
    known: bool
    input_nano_usd_per_million: int
    output_nano_usd_per_million: int
    cached_input_nano_usd_per_million: int | None


class NamedPrice(BaseModel):
    """`price` is in nano-USD per token; fractions are text, so that nobody rounds them."""

    name: str
    shared: bool
    version: str
    revision: int
    price: dict[str, Any]


class PriceVersionView(BaseModel):
    """`valid_from` is when this installation learned of it."""

    version: str
    shared: bool
    source: str
    valid_from: datetime
    price: dict[str, Any]


class PriceChange(BaseModel):
    name: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class ImportResult(BaseModel):
    """What an import changes, or would change. `changes` lists the first 200."""

    version: str
    models: int
    imported: bool
    added: int
    changed: int
    removed: int
    changes: list[PriceChange]


def _view(deployment: Deployment) -> PriceView:
    price = deployment.price
    return PriceView(
        deployment=deployment.name,
        model=deployment.model,
        version=price.version,
        known=price.known,
        input_nano_usd_per_million=price.input,
        output_nano_usd_per_million=price.output,
        cached_input_nano_usd_per_million=price.cached_input,
    )


def _book(content: bytes, source: str) -> Book:
    models = price_map.read_map(content)
    return Book(f"{source}-{price_map.fingerprint(models)}", source, models)


def _compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[PriceChange]:
    names = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    return [PriceChange(name=name, before=before.get(name), after=after.get(name)) for name in names]


def _documents(book: PriceBook, organisation_id: Any) -> dict[str, Any]:
    """Every price in force from books."""
    found = book.books.get(organisation_id) or book.books.get(None)
    if found is None:
        return {}
    return {name: document for name in found.models if (document := found.document(name)) is not None}


def _result(book: Book, changes: list[PriceChange], *, imported: bool) -> ImportResult:
    added = sum(1 for change in changes if change.before is None)
    removed = sum(1 for change in changes if change.after is None)
    return ImportResult(
        version=book.version,
        models=len(book.models),
        imported=imported,
        added=added,
        removed=removed,
        changed=len(changes) - added - removed,
        changes=changes[:TOLD],
    )


def add_prices(app: FastAPI, parts: Catalogues) -> None:
    _add_reading(app, parts)
    _add_import(app, parts)
    _add_writing(app, parts)


def _add_reading(app: FastAPI, parts: Catalogues) -> None:
    guard: dict[str, Any] = {"dependencies": [requires(Permission.MODELS_READ)], "tags": ["prices"]}

    @app.get("/prices", **guard)
    async def list_prices(organisation_id: CurrentOrganisation, page: Paged) -> Page[PriceView]:
        """What the deployments cost now; divide by a million for the price of one token."""
        deployments = parts.live.current(organisation_id).deployments
        return page_by_name(page, ((name, _view(each)) for name, each in deployments.items()))

    @app.get("/prices/{name:path}/versions", **guard)
    async def price_versions(name: PriceName, organisation_id: CurrentOrganisation) -> list[PriceVersionView]:
        """Every price the name has had, the newest first; usage names the version it was charged by."""
        found = await parts.store.history(organisation_id, name)
        if not found:
            raise Problem(404, "price_not_found", "The price book has never had this name")
        return [
            PriceVersionView(
                version=each.version,
                shared=each.shared,
                source=each.source,
                valid_from=each.valid_from,
                price=dict(each.document),
            )
            for each in found
        ]

    @app.get("/prices/{name:path}", **guard)
    async def read_price(
        name: PriceName, organisation_id: CurrentOrganisation, response: Response
    ) -> NamedPrice:
        """The price in force under a name of the price book, in every dimension."""
        entry = await parts.store.find(organisation_id, "price", name)
        found = (
            Named(entry.price_version or "", entry.document)
            if entry is not None
            else parts.live.book.named(organisation_id, name)
        )
        if found is None:
            raise Problem(404, "price_not_found", "The price book does not have this name")
        revision = entry.version if entry is not None else 0
        response.headers["ETag"] = tag(revision)
        return NamedPrice(
            name=name,
            shared=entry is None,
            version=found.version,
            revision=revision,
            price=dict(found.document),
        )


def _add_import(app: FastAPI, parts: Catalogues) -> None:
    guard: dict[str, Any] = {"dependencies": [requires(Permission.MODELS_WRITE)], "tags": ["prices"]}

    @app.post("/prices/import", **guard)
    async def import_prices(
        request: Request,
        organisation_id: CurrentOrganisation,
        context: CurrentContext,
        dry_run: Annotated[bool, Query()] = False,
    ) -> ImportResult:
        """Put a price map of LiteLLM's format into force for the organisation's own deployments.

        The body is the map as JSON; an empty one takes the copy this release came with.
        """
        content = await request.body()
        source = "import" if content else "litellm"
        try:
            book = await asyncio.to_thread(_book, content or price_map.vendored(), source)
        except price_map.InvalidPriceMap as error:
            raise Problem(422, "invalid_price_map", "This is no price map", str(error)) from error
        await parts.live.follow()
        before = await asyncio.to_thread(_documents, parts.live.book, organisation_id)
        changes = _compare(before, book.models)
        result = _result(book, changes, imported=False)
        if dry_run:
            return result
        counts = {"added": result.added, "changed": result.changed, "removed": result.removed}
        imported = await parts.store.import_book(organisation_id, book, counts, context)
        await parts.live.follow()
        return _result(book, changes, imported=imported)


def _add_writing(app: FastAPI, parts: Catalogues) -> None:
    guard: dict[str, Any] = {"dependencies": [requires(Permission.MODELS_WRITE)], "tags": ["prices"]}

    @app.put("/prices/{name:path}", **guard)
    async def put_price(
        name: PriceName,
        body: PriceDocument,
        organisation_id: CurrentOrganisation,
        context: CurrentContext,
        response: Response,
        if_match: IfMatch = None,
        if_none_match: IfNoneMatch = None,
    ) -> NamedPrice:
        """Set an own price under a name; it wins over every book. Versions before stay readable."""
        expected = expectation(if_match, if_none_match)
        document = body.short()
        named = Named(price_map.price_version(document), document)
        draft = Draft("price", name, document, named)
        entry = await parts.replace(organisation_id, draft, context, expected)
        response.headers["ETag"] = tag(entry.version)
        return NamedPrice(
            name=name, shared=False, version=named.version, revision=entry.version, price=document
        )

    @app.delete("/prices/{name:path}", status_code=204, **guard)
    async def delete_price(
        name: PriceName,
        organisation_id: CurrentOrganisation,
        context: CurrentContext,
        if_match: IfMatch = None,
    ) -> None:
        """Give an own price up; the book's is in force again."""
        await parts.remove(organisation_id, "price", name, context, if_match)
