"""`kairos routes|deployments|prices|why|holds`: who answers, at what price, and why somebody was refused."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from kairos_sdk.commands.output import Json, Limit, ProfileFile, connected, show, show_one

if TYPE_CHECKING:
    from kairos_sdk.client import Client

ROUTER = "/api/llm-router"
# Of a price map, what the router reads; the rest of a file of megabytes stays here.
_MODES = frozenset({"chat", "completion", "responses", "embedding"})

_PRICE_HINT = "`price` in the document, or `kairos prices set`, gives it one."

routes = typer.Typer(no_args_is_help=True, help="Routes: list, show, set, remove.")
deployments = typer.Typer(no_args_is_help=True, help="Deployments: list, show, set, remove.")
prices = typer.Typer(no_args_is_help=True, help="Prices: list, show, versions, set, import.")

Name = Annotated[str, typer.Argument(help="Its name.")]
File = Annotated[
    Path, typer.Argument(help="A JSON file with the whole document.", exists=True, dir_okay=False)
]
Optimistic = Annotated[
    int | None, typer.Option("--version", help="Change only this version; otherwise the one there is.")
]
# By environment and not by argument: arguments of a command are seen by everybody on the machine.
ProviderKey = Annotated[
    str | None,
    typer.Option(
        "--provider-key", envvar="KAIROS_PROVIDER_KEY", help="The provider's key; it is kept sealed."
    ),
]


def _at(kind: str, name: str) -> str:
    return f"{ROUTER}/{kind}/{quote(name)}"


def _document(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise typer.BadParameter(f"{file} is no JSON document") from error
    if not isinstance(document, dict):
        raise typer.BadParameter(f"{file} holds no object")
    return document


def _put(client: "Client", kind: str, name: str, body: dict[str, Any], version: int | None) -> dict[str, Any]:
    headers = {"If-Match": f'"{version}"'} if version is not None else None
    found: dict[str, Any] = client.call("PUT", _at(kind, name), json=body, headers=headers)
    return found


@routes.command("list")
def list_routes(profile: ProfileFile = None, as_json: Json = False, limit: Limit = 200) -> None:
    """List the routes that you can ask for, your own and the shared ones."""
    with connected(profile) as client:
        rows = list(client.items(f"{ROUTER}/routes", limit=limit))
        if not as_json:
            for row in rows:
                row["members"] = ", ".join(row["deployments"])
                row["whose"] = "shared" if row["shared"] else "own"
        columns = {"name": "name", "whose": "whose", "policy": "policy", "deployments": "members"}
        show(rows, columns, as_json=as_json)


@routes.command("show")
def show_route(name: Name, profile: ProfileFile = None, as_json: Json = False) -> None:
    """Show one route: how it chooses, and who can answer now."""
    with connected(profile) as client:
        show_one(client.get(_at("routes", name)), as_json=as_json)


@routes.command("set")
def set_route(
    name: Name,
    members: Annotated[list[str], typer.Argument(help="Deployments in order; name=3 gives one a weight.")],
    policy: Annotated[
        str, typer.Option(help="fixed, weighted, cost, latency, quality or balanced.")
    ] = "fixed",
    sticky: Annotated[bool, typer.Option("--sticky", help="Keep a conversation on one deployment.")] = False,
    canary: Annotated[
        list[str] | None, typer.Option(help="name=5 gives a deployment 5 % of the requests.")
    ] = None,
    fallback: Annotated[list[str] | None, typer.Option(help="A route to go on with when all fail.")] = None,
    version: Optimistic = None,
    profile: ProfileFile = None,
    as_json: Json = False,
) -> None:
    """Create or replace an own route."""
    shares = dict(map(_numbered, canary or ()))
    targets = [_numbered(member) for member in members]
    names = {target for target, _ in targets}
    documents = [{"name": target, "weight": weight or 1} for target, weight in targets]
    documents += [{"name": target} for target in shares if target not in names]
    for document in documents:
        if document["name"] in shares:
            document["canary"] = shares[str(document["name"])] or 0
    body = {"deployments": documents, "policy": policy, "sticky": sticky, "fallbacks": fallback or []}
    with connected(profile) as client:
        show_one(_put(client, "routes", name, body, version), as_json=as_json)


def _numbered(text: str) -> tuple[str, int | None]:
    name, given, number = text.partition("=")
    if given and not number.isdigit():
        raise typer.BadParameter(f"{text}: after = comes a whole number")
    return name, int(number) if given else None


@routes.command("remove")
def remove_route(name: Name, profile: ProfileFile = None) -> None:
    """Remove an own route; a shared one of its name is in force again."""
    with connected(profile) as client:
        client.call("DELETE", _at("routes", name))
        typer.echo(f"{name} is removed")


@deployments.command("list")
def list_deployments(profile: ProfileFile = None, as_json: Json = False, limit: Limit = 200) -> None:
    """List the deployments that can answer here and now."""
    with connected(profile) as client:
        rows = list(client.items(f"{ROUTER}/deployments", limit=limit))
        if not as_json:
            for row in rows:
                row["whose"] = "shared" if row["shared"] else "own"
        names = ("name", "whose", "provider", "model", "circuit", "p95_ms", "price_version")
        show(rows, {name: name for name in names}, as_json=as_json)


@deployments.command("show")
def show_deployment(name: Name, profile: ProfileFile = None, as_json: Json = False) -> None:
    """Show one deployment; its key is never among it."""
    with connected(profile) as client:
        show_one(client.get(_at("deployments", name)), as_json=as_json)


@deployments.command("set")
def set_deployment(
    name: Name,
    file: File,
    provider_key: ProviderKey = None,
    version: Optimistic = None,
    profile: ProfileFile = None,
    as_json: Json = False,
) -> None:
    """Create or replace an own deployment. Routers use it within a second."""
    body = _document(file)
    if provider_key:
        body["api_key"] = provider_key
    with connected(profile) as client:
        found = _put(client, "deployments", name, body, version)
        show_one(found, as_json=as_json)
    if not (found.get("state") or {"priced": True})["priced"]:
        typer.echo(
            f"Nobody has a price for it: it answers only where no budget applies. {_PRICE_HINT}", err=True
        )


@deployments.command("remove")
def remove_deployment(name: Name, profile: ProfileFile = None) -> None:
    """Remove an own deployment; a shared one of its name is in force again."""
    with connected(profile) as client:
        client.call("DELETE", _at("deployments", name))
        typer.echo(f"{name} is removed")


@prices.command("list")
def list_prices(profile: ProfileFile = None, as_json: Json = False, limit: Limit = 200) -> None:
    """List what the deployments cost, in USD per million tokens."""
    with connected(profile) as client:
        rows = list(client.items(f"{ROUTER}/prices", limit=limit))
        if not as_json:
            for row in rows:
                for part in ("input", "output", "cached_input"):
                    nano = row[f"{part}_nano_usd_per_million"]
                    # What nobody has a price for is not free.
                    row[part] = _usd_per_million(nano) if row.get("known", True) else None
        names = ("deployment", "model", "input", "output", "cached_input", "version")
        show(rows, {name: name for name in names}, as_json=as_json)


def _usd_per_million(nano: int | None) -> str | None:
    if nano is None:
        return None
    whole, rest = divmod(nano, 1_000_000_000)
    return f"{whole}.{f'{rest:09d}'.rstrip('0').ljust(2, '0')}"


@prices.command("show")
def show_price(name: Name, profile: ProfileFile = None, as_json: Json = False) -> None:
    """Show every dimension of a price of the book, in nano-USD per token."""
    with connected(profile) as client:
        show_one(client.get(_at("prices", name)), as_json=as_json)


@prices.command("versions")
def price_versions(name: Name, profile: ProfileFile = None, as_json: Json = False) -> None:
    """List every price a name has had, the newest first."""
    with connected(profile) as client:
        names = ("version", "source", "valid_from", "price")
        rows = client.get(f"{_at('prices', name)}/versions")
        show(rows, {each: each for each in names}, as_json=as_json)


@prices.command("set")
def set_price(
    name: Name, file: File, version: Optimistic = None, profile: ProfileFile = None, as_json: Json = False
) -> None:
    """Set an own price under a name, from a JSON file in nano-USD per token."""
    with connected(profile) as client:
        show_one(_put(client, "prices", name, _document(file), version), as_json=as_json)


@prices.command("import")
def import_prices(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="LiteLLM's price map; otherwise the copy of this release.", exists=True, dir_okay=False
        ),
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Do it; otherwise only show what would change.")
    ] = False,
    profile: ProfileFile = None,
    as_json: Json = False,
) -> None:
    """Put a newer price map into force for your own deployments. Audited; old versions stay readable."""
    body = None if file is None else _trimmed(_document(file))
    path = f"{ROUTER}/prices/import"
    with connected(profile) as client:
        found = client.call("POST", path, json=body, params={"dry_run": str(not apply).lower()})
    if as_json:
        show_one(found, as_json=True)
        return
    changes = found.pop("changes")
    show_one(found, as_json=False)
    show(changes, {"model": "name", "before": "before", "after": "after"}, as_json=False)
    if not apply:
        typer.echo("Nothing was changed; --apply does it.")


def _trimmed(document: dict[str, Any]) -> dict[str, Any]:
    """The map without models and fields that the router does not read: it is several megabytes long."""
    return {
        name: {
            field: value
            for field, value in entry.items()
            if field in {"mode", "tiered_pricing"} or "_cost" in field
        }
        for name, entry in document.items()
        if isinstance(entry, dict) and entry.get("mode") in _MODES
    }


def why(
    decision_id: Annotated[str, typer.Argument(help="x-kairos-decision-id of the refusal.")],
    profile: ProfileFile = None,
    as_json: Json = False,
) -> None:
    """Say why a request was refused, and what helps."""
    with connected(profile) as client:
        found = client.get(f"{ROUTER}/decisions/{quote(decision_id)}")
    if as_json:
        show_one(found, as_json=True)
        return
    typer.echo(f"{found['decided_at']}  {found['says']}")
    for step in found["steps"]:
        typer.echo(f"  - {step['says']}")
    for advice in found["what_to_do"]:
        typer.echo(f"  > {advice}")


def holds(profile: ProfileFile = None, as_json: Json = False) -> None:
    """Show the holds of the answering router, and of all routers those that have been open for long."""
    with connected(profile) as client:
        found = client.get(f"{ROUTER}/holds")
        everywhere = _open_for_long(client)
    if as_json:
        show_one({**found, "open_for_long": everywhere}, as_json=True)
        return
    typer.echo(f"held by {found['holder']}")
    rows = [hold | {"lease_id": lease["lease_id"]} for lease in found["leases"] for hold in lease["holds"]]
    show(rows, _HOLD_COLUMNS | {"age ms": "age_ms", "lease": "lease_id"}, as_json=False)
    if everywhere is None:
        typer.echo("those of all routers are shown to who may read the ledger")
        return
    typer.echo("open for long, of all routers")
    rows = [hold | {"amount_nano_usd": hold["amount"]["nano_usd"]} for hold in everywhere]
    columns = {"age s": "age_s", "model": "model", "router": "holder", "lease": "lease_state"}
    show(rows, _HOLD_COLUMNS | columns, as_json=False)


def _open_for_long(client: "Client") -> list[dict[str, Any]] | None:
    """Holds of every router that are old; None when the caller may read budgets but not the ledger."""
    from kairos_sdk.client import KairosError  # noqa: PLC0415 - keeps `kairos --help` fast

    try:
        return list(client.items("/api/budget-analytics/leases/holds"))
    except KairosError as error:
        if error.denied:
            return None
        raise


_HOLD_COLUMNS = {"attempt": "attempt_id", "nano-USD": "amount_nano_usd"}
