"""The catalogue as its owners change it, and what may be lent to their rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from kairos_contracts.audit import AuditContext
from kairos_router.application.catalogue_documents import Entry, Kind, Sealed
from kairos_router.application.guard_address import InvalidAddress, origin
from kairos_router.application.price_book import Book, Named, PriceBook
from kairos_router.domain.catalogue import Catalogue, Deployment


class Conflict(Exception):  # noqa: N818 - reads as the fact it states
    """Somebody else has changed the row meanwhile, or it exists already; nothing was written."""

    def __init__(self, version: int | None) -> None:
        super().__init__(f"the current version is {version}")
        self.version = version


class Missing(LookupError):  # noqa: N818 - reads as the fact it states
    """The organisation has no row of this name; nothing was changed."""


@dataclass(frozen=True)
class Stored:
    """All there is, of all organisations. `digest` changes with every change."""

    entries: tuple[Entry, ...]
    books: Mapping[UUID | None, Book]
    scores: Mapping[UUID, Mapping[str, float]]
    digest: str


@dataclass(frozen=True, slots=True)
class PriceVersion:
    shared: bool
    version: str
    source: str
    document: Mapping[str, Any]
    valid_from: datetime


@dataclass(frozen=True, slots=True)
class Draft:
    """What a row becomes. `sealed` None means no key; `source` tells where a price comes from."""

    kind: Kind
    name: str
    document: Mapping[str, Any]
    price: Named | None = None
    sealed: Sealed | None = None
    source: str = "api"


class UnreadableSecret(RuntimeError):  # noqa: N818 - reads as the fact it states
    """The secret was sealed under a key we do not have, or was tampered with or moved."""


class Seals(Protocol):
    """Encrypts secrets, each for one place; kairos_sealing does."""

    def seal(self, secret: str, *, bound_to: str) -> Sealed: ...

    def open(self, sealed: Sealed, *, bound_to: str) -> str:
        """Raises UnreadableSecret."""
        ...

    def renewed(self, sealed: Sealed, *, bound_to: str) -> Sealed:
        """The same secret under the current key. Raises UnreadableSecret."""
        ...


class CatalogueStore(Protocol):
    """Every organisation's own rows. What changes is audited and told to all routers."""

    async def put(
        self,
        organisation_id: UUID,
        draft: Draft,
        context: AuditContext,
        *,
        expected: int | None = None,
        only_new: bool = False,
    ) -> Entry:
        """Create or replace an own row. `expected` is the version to replace. Raises Conflict."""
        ...

    async def find(self, organisation_id: UUID, kind: Kind, name: str) -> Entry | None: ...

    async def delete(
        self,
        organisation_id: UUID,
        kind: Kind,
        name: str,
        context: AuditContext,
        *,
        expected: int | None = None,
    ) -> None:
        """Remove an own row; a shared one of the same name is in force again. Raises Missing, Conflict."""
        ...

    async def import_book(
        self, organisation_id: UUID, book: Book, changes: Mapping[str, int], context: AuditContext
    ) -> bool:
        """Keep a book and put it into force. False when this very book is in force already."""
        ...

    async def history(self, organisation_id: UUID, name: str) -> Sequence[PriceVersion]:
        """Every price the name has had, the newest first: own ones and shared ones."""
        ...

    async def score(self, organisation_id: UUID, name: str, score: float, memory: int) -> tuple[float, int]:
        """Learn one score, from 0 to 1; the newest `memory` ones count most."""
        ...


class LiveView(Protocol):
    """The catalogue as this process uses it."""

    @property
    def book(self) -> PriceBook: ...

    @property
    def vendored(self) -> Book: ...

    def current(self, organisation_id: UUID | None = None) -> Catalogue:
        """Without waiting: hot requests call it. Raises CatalogueUnknown."""
        ...

    async def follow(self) -> None:
        """Read anew what has changed. Does nothing while the database is away."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What rows may refer to. Rows of an organisation may use only the variables in `key_names`.

    Otherwise whoever may edit a deployment could send any of our secrets to an address of theirs.
    """

    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    key_names: frozenset[str] = frozenset()
    sealer: Seals | None = None


def lends(shared: Catalogue, key: str | None, base_url: str) -> bool:
    """Whether a shared deployment sends this key of ours to the same server already."""
    try:
        wanted = origin(base_url)
    except InvalidAddress:
        return False
    return any(
        each.api_key == key and each.kind == "openai" and _origin(each) == wanted
        for each in shared.deployments.values()
        if key
    )


def _origin(deployment: Deployment) -> tuple[str, str, int] | None:
    try:
        return origin(deployment.base_url)
    except InvalidAddress:
        return None
