"""The catalogue in PostgreSQL: rows that are changed with an audit entry, followed by every router."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal
from uuid import UUID, uuid4

import orjson
from sqlalchemy import text

from kairos_contracts.audit import AuditContext
from kairos_contracts.llm.v1 import CatalogueChangedV1
from kairos_persistence import Database, UnitOfWork
from kairos_router.adapters.toml_catalogue import FileCatalogue
from kairos_router.application import price_map
from kairos_router.application.catalogue_documents import Entry, Kind, Sealed
from kairos_router.application.catalogue_store import Conflict, Draft, Missing, PriceVersion, Stored
from kairos_router.application.price_book import Book, Named
from kairos_telemetry import get_logger

_log = get_logger(__name__)

Change = Literal["created", "changed", "deleted"]
_ACTIONS: dict[tuple[Kind, Change], str] = {
    ("deployment", "created"): "deployment.created",
    ("deployment", "changed"): "deployment.updated",
    ("deployment", "deleted"): "deployment.deleted",
    ("route", "created"): "route.created",
    ("route", "changed"): "route.updated",
    ("route", "deleted"): "route.deleted",
    ("price", "created"): "price.updated",
    ("price", "changed"): "price.updated",
    ("price", "deleted"): "price.updated",
}
# One process at a time writes the shared rows; the number is this schema's own.
_SEED_LOCK = text("SELECT pg_advisory_xact_lock(7001)")
_COLUMNS = "organisation_id, kind, name, document, price_version, key_id, sealed, version"
_ALL = text(f"SELECT {_COLUMNS} FROM catalogue_entries ORDER BY kind, name")  # noqa: S608 - fixed names
_DIGEST = text("""
    SELECT md5(coalesce((SELECT string_agg(entry_id::text || version, ',' ORDER BY entry_id)
                         FROM catalogue_entries), '')
            || coalesce((SELECT string_agg(book_id::text, ',' ORDER BY book_id) FROM price_books), '')
            || coalesce((SELECT string_agg(name || samples, ',' ORDER BY organisation_id, name)
                         FROM deployment_scores), ''))
""")
_BOOKS = text("""
    SELECT DISTINCT ON (organisation_id) book_id, organisation_id, version, source FROM price_books
    ORDER BY organisation_id, imported_at DESC, book_id
""")
_MODELS = text("SELECT document FROM price_books WHERE book_id = :book_id")
_SCORES = text("SELECT organisation_id, name, quality FROM deployment_scores")
_ONE = text(  # the names are fixed
    f"SELECT {_COLUMNS} FROM catalogue_entries"  # noqa: S608 - as said
    " WHERE organisation_id IS NOT DISTINCT FROM :owner AND kind = :kind AND name = :name FOR UPDATE"
)
_INSERT = text("""
    INSERT INTO catalogue_entries
        (entry_id, organisation_id, kind, name, document, price_version, key_id, sealed)
    VALUES (:entry_id, :owner, :kind, :name, CAST(:document AS jsonb), :price_version, :key_id, :sealed)
    ON CONFLICT DO NOTHING
""")
_UPDATE = text("""
    UPDATE catalogue_entries SET document = CAST(:document AS jsonb), price_version = :price_version,
        key_id = :key_id, sealed = :sealed, version = version + 1, updated_at = now()
    WHERE organisation_id IS NOT DISTINCT FROM :owner AND kind = :kind AND name = :name
""")
_DELETE = text("""
    DELETE FROM catalogue_entries
    WHERE organisation_id IS NOT DISTINCT FROM :owner AND kind = :kind AND name = :name
""")
_KEEP_PRICE = text("""
    INSERT INTO price_versions (organisation_id, name, version, document, source)
    VALUES (:owner, :name, :version, CAST(:document AS jsonb), :source) ON CONFLICT DO NOTHING
""")
_KEPT_PRICE = text("""
    SELECT document FROM price_versions
    WHERE organisation_id IS NOT DISTINCT FROM :owner AND name = :name AND version = :version
""")
_ADD_BOOK = text("""
    INSERT INTO price_books (book_id, organisation_id, version, source, models, document)
    SELECT CAST(:book_id AS uuid), CAST(:owner AS uuid), :version, :source, :models, CAST(:document AS jsonb)
    WHERE :version IS DISTINCT FROM (
        SELECT version FROM price_books WHERE organisation_id IS NOT DISTINCT FROM CAST(:owner AS uuid)
        ORDER BY imported_at DESC LIMIT 1)
""")
_HISTORY = text("""
    SELECT organisation_id, version, source, document, valid_from FROM price_versions WHERE name = :name
    UNION ALL
    SELECT organisation_id, version, source, document -> CAST(:name AS text), imported_at FROM price_books
    WHERE jsonb_exists(document, CAST(:name AS text))
    ORDER BY valid_from DESC, version
""")
_SCORE = text("""
    INSERT INTO deployment_scores AS s (organisation_id, name, quality, samples)
    VALUES (:owner, :name, :score, 1)
    ON CONFLICT (organisation_id, name) DO UPDATE SET samples = s.samples + 1, updated_at = now(),
        quality = s.quality + (:score - s.quality) / least(s.samples + 1, :memory)
    RETURNING quality, samples
""")


def _entry(row: Any) -> Entry:
    sealed = Sealed(row.key_id, bytes(row.sealed)) if row.key_id else None
    return Entry(
        row.organisation_id, row.kind, row.name, row.document, row.version, row.price_version, sealed
    )


def _text(document: Mapping[str, Any]) -> str:
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS).decode()


class PostgresCatalogue:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._models: dict[UUID, Book] = {}

    async def digest(self) -> str:
        async with self._database.system_unit_of_work() as unit:
            return str((await unit.session.execute(_DIGEST)).scalar_one())

    async def load(self) -> Stored:
        async with self._database.system_unit_of_work() as unit:
            execute = unit.session.execute
            digest = str((await execute(_DIGEST)).scalar_one())
            entries = tuple(_entry(row) for row in await execute(_ALL))
            books = {row.organisation_id: row for row in await execute(_BOOKS)}
            scores: dict[UUID, dict[str, float]] = {}
            for row in await execute(_SCORES):
                scores.setdefault(row.organisation_id, {})[row.name] = row.quality
            loaded = {owner: await self._book(unit, row) for owner, row in books.items()}
        self._models = {row.book_id: loaded[owner] for owner, row in books.items()}
        return Stored(entries, loaded, scores, digest)

    async def _book(self, unit: UnitOfWork, row: Any) -> Book:
        """A book never changes: what is in memory need not be read again."""
        known = self._models.get(row.book_id)
        if known is not None:
            return known
        document = (await unit.session.execute(_MODELS, {"book_id": row.book_id})).scalar_one()
        return Book(row.version, row.source, document, raw=row.source == "vendored")

    async def seed(self, file: FileCatalogue, vendored: Book) -> bool:
        """Make the shared rows what the file says; True when that changed anything."""
        async with self._database.system_unit_of_work() as unit:
            await unit.session.execute(_SEED_LOCK)
            before: dict[tuple[str, str], Entry] = {
                (entry.kind, entry.name): entry
                for entry in map(_entry, await unit.session.execute(_ALL))
                if entry.organisation_id is None
            }
            wanted = list(file.entries)
            wanted += [
                Entry(None, "price", name, named.document, price_version=named.version)
                for name, named in file.prices.items()
            ]
            changes = [each for each in [await _seeded(unit, before, entry) for entry in wanted] if each]
            kept = {(entry.kind, entry.name) for entry in wanted}
            for entry in [entry for key, entry in before.items() if key not in kept]:
                kind, name = entry.kind, entry.name
                await unit.session.execute(_DELETE, {"owner": None, "kind": kind, "name": name})
                changes.append(CatalogueChangedV1(kind=kind, name=name, change="deleted"))
            if await _add_book(unit, None, vendored):
                changes.append(CatalogueChangedV1(kind="price", name=vendored.version, change="created"))
            for change in changes:
                unit.emit(change, organisation_id=None)
        return bool(changes)

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
        async with self._database.unit_of_work(organisation_id) as unit:
            before = await _find(unit, organisation_id, draft.kind, draft.name)
            if (only_new and before is not None) or (
                expected is not None and (before is None or before.version != expected)
            ):
                raise Conflict(before.version if before else None)
            values = _values(organisation_id, draft)
            if before is None:
                inserted = await unit.session.execute(_INSERT, values | {"entry_id": uuid4()})
                if not getattr(inserted, "rowcount", 0):
                    raise Conflict(None)
            else:
                await unit.session.execute(_UPDATE, values)
            if draft.price is not None:
                await _keep_price(unit, organisation_id, draft.name, draft.price, draft.source)
            after = await _find(unit, organisation_id, draft.kind, draft.name)
            if after is None:
                raise Missing(draft.name)
            _tell(unit, draft.kind, draft.name, before, after, context)
        return after

    async def find(self, organisation_id: UUID, kind: Kind, name: str) -> Entry | None:
        async with self._database.unit_of_work(organisation_id) as unit:
            return await _find(unit, organisation_id, kind, name)

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
        async with self._database.unit_of_work(organisation_id) as unit:
            before = await _find(unit, organisation_id, kind, name)
            if before is None:
                raise Missing(name)
            if expected is not None and before.version != expected:
                raise Conflict(before.version)
            values = {"owner": organisation_id, "kind": kind, "name": name}
            await unit.session.execute(_DELETE, values)
            _tell(unit, kind, name, before, None, context)

    async def import_book(
        self, organisation_id: UUID, book: Book, changes: Mapping[str, int], context: AuditContext
    ) -> bool:
        """Keep a book and put it into force. False when this very book is in force already."""
        async with self._database.unit_of_work(organisation_id) as unit:
            if not await _add_book(unit, organisation_id, book):
                return False
            after = {"version": book.version, "source": book.source, **changes}
            unit.emit(context.entry("prices.imported", book.version, after=after))
            unit.emit(CatalogueChangedV1(kind="price", name=book.version, change="created"))
        return True

    async def history(self, organisation_id: UUID, name: str) -> Sequence[PriceVersion]:
        """Every price the name has had, the newest first: own ones and shared ones."""
        async with self._database.unit_of_work(organisation_id) as unit:
            rows = await unit.session.execute(_HISTORY, {"name": name})
            found = [(row, _told(row)) for row in rows]
        return [
            PriceVersion(row.organisation_id is None, row.version, row.source, document, row.valid_from)
            for row, document in found
            if document is not None
        ]

    async def score(self, organisation_id: UUID, name: str, score: float, memory: int) -> tuple[float, int]:
        """Learn one score, from 0 to 1; the newest `memory` ones count most."""
        async with self._database.unit_of_work(organisation_id) as unit:
            values = {"owner": organisation_id, "name": name, "score": score, "memory": memory}
            row = (await unit.session.execute(_SCORE, values)).one()
        return float(row.quality), int(row.samples)


def _told(row: Any) -> Mapping[str, Any] | None:
    """The price document of a line of the history; the vendored book has the map's own entries."""
    document: Mapping[str, Any] = row.document
    return price_map.document_of(document) if row.source == "vendored" else document


def _values(owner: UUID | None, draft: Draft) -> dict[str, Any]:
    return {
        "owner": owner,
        "kind": draft.kind,
        "name": draft.name,
        "document": _text(draft.document),
        "price_version": draft.price.version if draft.price else None,
        "key_id": draft.sealed.key_id if draft.sealed else None,
        "sealed": draft.sealed.ciphertext if draft.sealed else None,
    }


async def _find(unit: UnitOfWork, owner: UUID, kind: Kind, name: str) -> Entry | None:
    row = (await unit.session.execute(_ONE, {"owner": owner, "kind": kind, "name": name})).first()
    return _entry(row) if row is not None else None


async def _keep_price(unit: UnitOfWork, owner: UUID | None, name: str, price: Named, source: str) -> None:
    values = {"owner": owner, "name": name, "version": price.version}
    document = {"document": _text(price.document), "source": source}
    await unit.session.execute(_KEEP_PRICE, values | document)
    kept = (await unit.session.execute(_KEPT_PRICE, values)).scalar_one()
    if kept != price.document:
        _log.warning("price_version_reused", price=name, version=price.version)


async def _seeded(
    unit: UnitOfWork, before: Mapping[tuple[str, str], Entry], entry: Entry
) -> CatalogueChangedV1 | None:
    """Write one shared row when it differs; what changed."""
    former = before.get((entry.kind, entry.name))
    price = entry.document if entry.kind == "price" else entry.document.get("price")
    if isinstance(price, Mapping) and entry.price_version:
        await _keep_price(unit, None, entry.name, Named(entry.price_version, price), "kairos.toml")
    if former is not None and (former.document, former.price_version) == (
        entry.document,
        entry.price_version,
    ):
        return None
    values = {
        "owner": None,
        "kind": entry.kind,
        "name": entry.name,
        "document": _text(entry.document),
        "price_version": entry.price_version,
        "key_id": None,
        "sealed": None,
    }
    statement = _INSERT if former is None else _UPDATE
    await unit.session.execute(statement, values | ({"entry_id": uuid4()} if former is None else {}))
    return CatalogueChangedV1(
        kind=entry.kind, name=entry.name, change="created" if former is None else "changed"
    )


async def _add_book(unit: UnitOfWork, owner: UUID | None, book: Book) -> bool:
    values = {
        "book_id": uuid4(),
        "owner": owner,
        "version": book.version,
        "source": book.source,
        "models": len(book.models),
        "document": _text(book.models),
    }
    added = await unit.session.execute(_ADD_BOOK, values)
    return bool(getattr(added, "rowcount", 0))


def _tell(
    unit: UnitOfWork,
    kind: Kind,
    name: str,
    before: Entry | None,
    after: Entry | None,
    context: AuditContext,
) -> None:
    """The audit entry and the event, in the transaction of the change. A key is never in them."""
    change: Change = "deleted" if after is None else "created" if before is None else "changed"
    unit.emit(
        context.entry(_ACTIONS[kind, change], f"{kind}:{name}", before=_shown(before), after=_shown(after))
    )
    unit.emit(CatalogueChangedV1(kind=kind, name=name, change=change))


def _shown(entry: Entry | None) -> dict[str, Any] | None:
    if entry is None:
        return None
    shown = {"version": entry.version, "document": dict(entry.document)}
    return shown | ({"key_id": entry.sealed.key_id} if entry.sealed else {})
