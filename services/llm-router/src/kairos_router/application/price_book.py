"""Prices by name: own ones of an organisation, its imported book, the file's, the vendored book."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any
from uuid import UUID

import orjson
from pydantic import ValidationError

from kairos_router.application import price_map
from kairos_router.application.price_documents import read_price
from kairos_router.domain.pricing import Price

# As many names are offered to whoever named one that is not there.
NEAR = 5


@dataclass(frozen=True)
class Book:
    """One import. `models` maps names to price documents; the vendored one converts them when asked."""

    version: str
    source: str
    models: Mapping[str, Mapping[str, Any]]
    raw: bool = False

    def document(self, name: str) -> Mapping[str, Any] | None:
        found = self.models.get(name)
        if found is None or not self.raw:
            return found
        return price_map.document_of(found)


def vendored_book() -> Book:
    """The copy that comes with the package. Its content names its version."""
    entries = orjson.loads(price_map.vendored())
    return Book(f"litellm-{price_map.fingerprint(entries)}", "vendored", entries, raw=True)


@dataclass(frozen=True, slots=True)
class Named:
    version: str
    document: Mapping[str, Any]


def _say_nothing(name: str, version: str) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True)
class PriceBook:
    """Own names win over shared ones, and single prices over books.

    `unreadable` is told the name and version of a price that can't be read.
    """

    singles: Mapping[UUID | None, Mapping[str, Named]] = field(default_factory=dict)
    books: Mapping[UUID | None, Book] = field(default_factory=dict)
    unreadable: Callable[[str, str], None] = _say_nothing

    def named(self, organisation_id: UUID | None, name: str) -> Named | None:
        owners = (organisation_id, None) if organisation_id is not None else (None,)
        for owner in owners:
            single = self.singles.get(owner, {}).get(name)
            if single is not None:
                return single
            book = self.books.get(owner)
            document = book.document(name) if book is not None else None
            if book is not None and document is not None:
                return Named(book.version, document)
        return None

    def similar(self, organisation_id: UUID | None, name: str) -> list[str]:
        """Names that somebody may have meant, the nearest first."""
        owners = {organisation_id, None}
        known = {each for owner in owners for each in self.singles.get(owner, {})}
        known |= {each for owner in owners if owner in self.books for each in self.books[owner].models}
        ours = {each.lower(): each for each in sorted(known)}
        near = get_close_matches(name.lower(), ours, n=2 * NEAR)
        return [ours[each] for each in near if self.named(organisation_id, ours[each]) is not None][:NEAR]

    def price(self, organisation_id: UUID | None, names: Sequence[str]) -> Price | None:
        """The price of the first of the names that has one."""
        for name in names:
            found = self.named(organisation_id, name)
            if found is None:
                continue
            try:
                return read_price(found.document, found.version)
            except ValidationError:
                # Written by another release of the router: a model nobody can price is not sold.
                self.unreadable(name, found.version)
        return None
