"""From the rows of the catalogue to what requests use, for everybody and for each organisation."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

from pydantic import ValidationError

from kairos_router.adapters.minilm import weights_installed
from kairos_router.application.catalogue_documents import (
    DeploymentDocument,
    Entry,
    RouteDocument,
    Section,
    Unset,
    build_deployment,
    build_route,
    expand,
)
from kairos_router.application.catalogue_store import Surroundings, UnreadableSecret, lends
from kairos_router.application.price_book import PriceBook
from kairos_router.application.price_documents import PriceDocument, price_of
from kairos_router.domain.catalogue import Catalogue, Deployment
from kairos_router.domain.pricing import UNPRICED, Price
from kairos_telemetry import get_logger

_log = get_logger(__name__)

_NOTHING = Catalogue({}, {})


@dataclass(frozen=True)
class Assembled:
    """`own` has an entry for each organisation with rows or scores of its own."""

    shared: Catalogue
    own: Mapping[UUID, Catalogue]


class _Absent(LookupError):  # noqa: N818 - reads as the fact it states
    """The deployment can't be used here and now: its variable or its key is missing."""


def price_for(book: PriceBook, entry: Entry, document: DeploymentDocument, model: str) -> Price:
    """Its own price, the one it names, or the book's for its model. UNPRICED when nobody has one."""
    if isinstance(document.price, PriceDocument):
        return price_of(document.price, entry.price_version or f"{entry.name}@{entry.version}")
    if document.price is not None:
        names: tuple[str, ...] = (document.price,)
    else:
        names = (f"{document.provider}/{model}", model)
    return book.price(entry.organisation_id, names) or UNPRICED


def _text(entry: Entry, surroundings: Surroundings) -> Callable[[str], str]:
    if entry.organisation_id is not None:
        return lambda text: text
    return lambda text: expand(text, surroundings.environment)


def _key(
    entry: Entry, document: DeploymentDocument, surroundings: Surroundings, shared: Catalogue | None
) -> str | None:
    """Raises _Absent."""
    if document.kind == "local" and not weights_installed():
        raise _Absent("its weights are not installed")
    if entry.sealed is not None:
        if surroundings.sealer is None:
            raise _Absent("no data key")
        try:
            return surroundings.sealer.open(entry.sealed, bound_to=entry.bound_to)
        except UnreadableSecret as error:
            raise _Absent(str(error)) from error
    name = document.api_key_env
    if name is None:
        return None
    if entry.organisation_id is not None and name not in surroundings.key_names:
        raise _Absent(f"{name} may not be used by organisations")
    key = surroundings.environment.get(name)
    if not key:
        raise _Absent(f"{name} is not set")
    if entry.organisation_id is not None and not lends(shared or _NOTHING, key, document.base_url):
        raise _Absent(f"{name} is not lent to that address")
    return key


def _deployment(
    entry: Entry,
    document: DeploymentDocument,
    book: PriceBook,
    surroundings: Surroundings,
    shared: Catalogue | None,
) -> Deployment | None:
    text = _text(entry, surroundings)
    try:
        key = _key(entry, document, surroundings, shared)
        price = price_for(book, entry, document, text(document.model))
        return build_deployment(entry, document, price, key, text)
    except Unset:
        return None
    except _Absent as error:
        if entry.organisation_id is not None:
            _log.warning("deployment_absent", deployment=entry.name, reason=str(error))
        return None


def _documents(entries: Iterable[Entry]) -> dict[tuple[str, str], tuple[Entry, object]]:
    """Rows with their parsed documents; later ones win over earlier ones of the same name."""
    kinds: dict[str, type[Section]] = {"deployment": DeploymentDocument, "route": RouteDocument}
    found: dict[tuple[str, str], tuple[Entry, object]] = {}
    for entry in entries:
        kind = kinds.get(entry.kind)
        if kind is None:
            continue
        try:
            found[entry.kind, entry.name] = entry, kind.model_validate(entry.document)
        except ValidationError:
            # Written by another release of the router: the rest of the catalogue must not go with it.
            _log.error("catalogue_entry_unreadable", kind=entry.kind, name=entry.name)
    return found


def assemble_one(
    entries: Iterable[Entry],
    book: PriceBook,
    surroundings: Surroundings,
    *,
    former: Mapping[str, Deployment] | None = None,
    quality: Mapping[str, float] | None = None,
    shared: Catalogue | None = None,
) -> Catalogue:
    """A catalogue of these rows. Deployments that did not change stay the `former` objects, by uid.

    Connections to a provider belong to the object and are made anew with it. `shared` is what an
    organisation's rows may borrow keys from.
    """
    documents = _documents(entries)
    deployments: dict[str, Deployment] = {}
    stand_ins: dict[str, bool] = {}
    for (_, name), (entry, document) in documents.items():
        if isinstance(document, DeploymentDocument):
            built = _deployment(entry, document, book, surroundings, shared)
            if built is not None:
                same = (former or {}).get(built.uid)
                deployments[name] = same if same is not None and same == built else built
                if deployments[name] is built and not built.price.known:
                    # It is left out wherever a budget applies.
                    _log.warning("deployment_unpriced", deployment=name, model=built.model)
                stand_ins[name] = document.stand_in
    routes = {}
    for (_, name), (entry, document) in documents.items():
        if isinstance(document, RouteDocument):
            route = build_route(entry, document, stand_ins)
            if route is not None:
                routes[name] = route
    return Catalogue(deployments, routes, dict(quality or {}))


def assemble(
    entries: Iterable[Entry],
    book: PriceBook,
    surroundings: Surroundings,
    *,
    before: Assembled | None = None,
    scores: Mapping[UUID, Mapping[str, float]] | None = None,
) -> Assembled:
    """The shared catalogue, and one for each organisation that has anything of its own."""
    scores = scores or {}
    by_owner: dict[UUID | None, list[Entry]] = {}
    for entry in entries:
        by_owner.setdefault(entry.organisation_id, []).append(entry)
    common = by_owner.pop(None, [])
    former: dict[str, Deployment] = {}
    for catalogue in (before.shared, *before.own.values()) if before is not None else ():
        former |= {each.uid: each for each in catalogue.deployments.values()}
    shared = assemble_one(common, book, surroundings, former=former)
    former |= {each.uid: each for each in shared.deployments.values()}
    own = {
        owner: assemble_one(
            (*common, *by_owner.get(owner, ())),
            book,
            surroundings,
            former=former,
            quality=scores.get(owner),
            shared=shared,
        )
        for owner in {owner for owner in by_owner if owner is not None} | set(scores)
    }
    return Assembled(shared, own)
