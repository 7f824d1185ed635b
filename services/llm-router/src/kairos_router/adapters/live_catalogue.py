"""The catalogue in memory: always there, and within a second what the database says."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from uuid import UUID

from kairos_persistence import DatabaseUnavailable
from kairos_router.adapters.assembly import Assembled, assemble
from kairos_router.adapters.postgres_catalogue import PostgresCatalogue
from kairos_router.adapters.toml_catalogue import FileCatalogue
from kairos_router.application.catalogue_store import Stored, Surroundings
from kairos_router.application.ports import CatalogueUnknown
from kairos_router.application.price_book import Book, Named, PriceBook, vendored_book
from kairos_router.domain.catalogue import Catalogue
from kairos_telemetry import get_logger

_log = get_logger(__name__)

AWAY_PAUSE_S = 0.5


def _unreadable(name: str, version: str) -> None:
    _log.error("price_unreadable", price=name, version=version)


def book_of(stored: Stored) -> PriceBook:
    singles: dict[UUID | None, dict[str, Named]] = {}
    for entry in stored.entries:
        if entry.kind == "price":
            version = entry.price_version or f"{entry.name}@{entry.version}"
            singles.setdefault(entry.organisation_id, {})[entry.name] = Named(version, entry.document)
    return PriceBook(singles, stored.books, _unreadable)


class LiveCatalogue:
    """See CatalogueSource. Until the database has been read, only the file's shared catalogue is known.

    A change is followed when its event comes; the digest is polled every `poll` seconds, in case it is lost.
    """

    def __init__(
        self,
        file: FileCatalogue,
        store: PostgresCatalogue,
        surroundings: Surroundings,
        *,
        poll: float = 5.0,
        vendored: Book | None = None,
    ) -> None:
        self._file = file
        self._store = store
        self._surroundings = surroundings
        self._poll = poll
        self._vendored = vendored or vendored_book()
        self._changed = asyncio.Event()
        self._digest = ""
        self.book = file.book(self._vendored)
        self._assembled = assemble(file.entries, self.book, surroundings)
        self._own: Mapping[UUID, Catalogue] | None = None

    def current(self, organisation_id: UUID | None = None) -> Catalogue:
        if organisation_id is not None:
            if self._own is None:
                raise CatalogueUnknown(CatalogueUnknown.__doc__)
            return self._own.get(organisation_id) or self._assembled.shared
        return self._assembled.shared

    async def check(self) -> None:
        """Health probe: raises CatalogueUnknown before the first read."""
        if self._own is None:
            raise CatalogueUnknown(CatalogueUnknown.__doc__)

    @property
    def vendored(self) -> Book:
        return self._vendored

    def changed(self) -> None:
        """Read the database anew as soon as possible."""
        self._changed.set()

    async def keep(self) -> None:
        """Write the file's rows, then follow the database until cancelled."""
        seeded = False
        while True:
            self._changed.clear()
            try:
                if not seeded:
                    await self._store.seed(self._file, self._vendored)
                    seeded = True
                await self.follow()
            except DatabaseUnavailable:
                await asyncio.sleep(AWAY_PAUSE_S)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll):
                    await self._changed.wait()

    async def follow(self) -> None:
        """Take over what the database says, when it differs. Raises DatabaseUnavailable."""
        if self._digest and await self._store.digest() == self._digest:
            return
        stored = await self._store.load()
        # Thousands of rows take a while to read: requests go on meanwhile.
        book, assembled = await asyncio.to_thread(self._assemble, stored)
        self.book, self._assembled, self._own = book, assembled, assembled.own
        self._digest = stored.digest
        _log.info("catalogue_changed", entries=len(stored.entries), organisations=len(assembled.own))

    def _assemble(self, stored: Stored) -> tuple[PriceBook, Assembled]:
        book = book_of(stored)
        return book, assemble(
            stored.entries, book, self._surroundings, before=self._assembled, scores=stored.scores
        )
