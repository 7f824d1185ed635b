"""kairos.toml: the shared deployments, routes and prices. The file is the truth about them."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import Field, ValidationError

from kairos_router.adapters.assembly import assemble_one
from kairos_router.application.catalogue_documents import (
    DeploymentDocument,
    Entry,
    Kind,
    Name,
    PriceName,
    RouteDocument,
    Section,
    Unset,
    expand,
)
from kairos_router.application.catalogue_store import Surroundings
from kairos_router.application.price_book import Book, Named, PriceBook, vendored_book
from kairos_router.application.price_documents import PriceDocument
from kairos_router.domain.catalogue import Catalogue
from kairos_web.problems import findings


class InvalidCatalogue(ValueError):  # noqa: N818 - reads as the fact it states
    """kairos.toml can't be used as it is; the router does not start with it."""


class _File(Section):
    price_version: str
    deployments: dict[Name, DeploymentDocument]
    routes: dict[Name, RouteDocument] = Field(default_factory=dict)
    prices: dict[PriceName, PriceDocument] = Field(default_factory=dict)


@dataclass(frozen=True)
class FileCatalogue:
    """The rows of the file, as the database would hold them."""

    price_version: str
    entries: tuple[Entry, ...]
    prices: Mapping[str, Named]

    def book(self, vendored: Book | None = None) -> PriceBook:
        return PriceBook({None: self.prices}, {None: vendored} if vendored is not None else {})


def _check(file: _File, environment: Mapping[str, str]) -> None:
    for name, deployment in file.deployments.items():
        try:
            base_url = expand(deployment.base_url, environment)
        except Unset:
            continue
        if deployment.kind == "openai" and not base_url.startswith(("http://", "https://")):
            raise InvalidCatalogue(f"deployment {name}: base_url must be an http address")
    for name, route in file.routes.items():
        for deployment_name in route.names():
            if deployment_name not in file.deployments:
                raise InvalidCatalogue(f"route {name}: there is no deployment {deployment_name}")
        for fallback in route.fallbacks:
            if fallback not in file.routes:
                raise InvalidCatalogue(f"route {name}: there is no route {fallback}")


def _check_prices(file: _File, vendored: Book | None) -> None:
    """Whoever names a price that nobody has would sell for nothing, or nothing at all."""
    named = {
        name: each.price
        for name, each in file.deployments.items()
        if isinstance(each.price, str) and each.price not in file.prices
    }
    if not named:
        return
    own = {name: Named(file.price_version, price.short()) for name, price in file.prices.items()}
    book = PriceBook({None: own}, {None: vendored or vendored_book()})
    for deployment, price in named.items():
        if book.named(None, price) is None:
            near = book.similar(None, price)
            hint = f"; near it are {', '.join(near)}" if near else ""
            raise InvalidCatalogue(f"deployment {deployment}: the price book has no {price}{hint}")


def read_file(
    document: Mapping[str, Any], environment: Mapping[str, str], vendored: Book | None = None
) -> FileCatalogue:
    """The rows of a parsed file. Raises InvalidCatalogue."""
    try:
        file = _File.model_validate(document)
    except ValidationError as error:
        # The input is left out: somebody may have written a key where its variable's name belongs.
        found = findings(error.errors(include_input=False), document)
        told = (f"{each['at'].replace('/', '.')}: {each['problem']}" for each in found)
        raise InvalidCatalogue("; ".join(told)) from None
    _check(file, environment)
    _check_prices(file, vendored)

    def entry(kind: Kind, name: str, section: Section) -> Entry:
        stored = section.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
        return Entry(None, kind, name, stored, price_version=file.price_version)

    entries = [entry("deployment", name, section) for name, section in file.deployments.items()]
    entries += [entry("route", name, section) for name, section in file.routes.items()]
    prices = {name: Named(file.price_version, price.short()) for name, price in file.prices.items()}
    return FileCatalogue(file.price_version, tuple(entries), prices)


def load_file(path: Path, environment: Mapping[str, str]) -> FileCatalogue:
    """Raises InvalidCatalogue, OSError."""
    try:
        document = tomllib.loads(path.read_text("utf-8"), parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise InvalidCatalogue(f"{path}: {error}") from None
    return read_file(document, environment)


def read_catalogue(
    document: Mapping[str, Any], environment: Mapping[str, str], vendored: Book | None = None
) -> Catalogue:
    """The catalogue of a parsed file alone. Raises InvalidCatalogue."""
    file = read_file(document, environment)
    return assemble_one(file.entries, file.book(vendored), Surroundings(environment))


def load_catalogue(path: Path, environment: Mapping[str, str], vendored: Book | None = None) -> Catalogue:
    """Raises InvalidCatalogue, OSError."""
    file = load_file(path, environment)
    return assemble_one(file.entries, file.book(vendored), Surroundings(environment))


class FixedCatalogue:
    """A catalogue that never changes and is the same for everybody."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def current(self, organisation_id: UUID | None = None) -> Catalogue:  # noqa: ARG002 - the same for all
        return self._catalogue
