"""`kairos quotas` and `kairos cache`: how much may be asked, and which answers are kept."""

from typing import Annotated, Any
from urllib.parse import quote
from uuid import UUID

import typer

from kairos_sdk.commands.output import Json, Limit, ProfileFile, connected, fail, show, show_one

quotas = typer.Typer(no_args_is_help=True, help="Quotas: list, set, delete.")
cache = typer.Typer(no_args_is_help=True, help="The answer cache: policies, ttl, purge.")
ROUTER = "/api/llm-router"
_QUOTA = {
    "id": "quota_id",
    "scope": "scope",
    "of": "scope_id",
    "metric": "metric",
    "limit": "limit",
    "per": "window",
}


@quotas.command("list")
def list_quotas(profile: ProfileFile = None, as_json: Json = False, limit: Limit = 50) -> None:
    """Show every quota; without an id in `of`, each of the scope has its own counter."""
    with connected(profile) as client:
        show(list(client.items(f"{ROUTER}/quotas", limit=limit)), _QUOTA, as_json=as_json)


@quotas.command("set")
def set_quota(
    scope: Annotated[str, typer.Argument(help="organisation, project, team, bot, contact or api_key")],
    metric: Annotated[str, typer.Argument(help="requests, tokens or concurrent")],
    limit: Annotated[int, typer.Argument(min=1, help="The most there may be.")],
    per: Annotated[str, typer.Option(help="minute, hour or day; concurrent requests have none")] = "minute",
    of: Annotated[UUID | None, typer.Option(help="Whose; otherwise each one's of that scope.")] = None,
    profile: ProfileFile = None,
    as_json: Json = False,
) -> None:
    """Create a quota, or change the limit of the one there is. Routers follow within a second."""
    window = None if metric == "concurrent" else per
    body: dict[str, Any] = {"scope": scope, "metric": metric, "window": window}
    body["scope_id"] = str(of) if of else None
    with connected(profile) as client:
        for known in client.items(f"{ROUTER}/quotas", limit=200):
            if all(known[name] == value for name, value in body.items()):
                path = f"{ROUTER}/quotas/{known['quota_id']}"
                show_one(client.call("PATCH", path, json={"limit": limit}), as_json=as_json)
                return
        answer = client.call("POST", f"{ROUTER}/quotas", json={**body, "limit": limit})
        show_one(answer, as_json=as_json)


@quotas.command("delete")
def delete_quota(
    quota_id: Annotated[UUID, typer.Argument(help="As `kairos quotas list` shows it.")],
    profile: ProfileFile = None,
) -> None:
    """Delete a quota."""
    with connected(profile) as client:
        client.call("DELETE", f"{ROUTER}/quotas/{quota_id}")
        typer.echo(f"{quota_id} is deleted")


@cache.command("policies")
def policies(profile: ProfileFile = None, as_json: Json = False) -> None:
    """Show which routes keep answers; `*` is the default of all others."""
    columns = {name: name for name in ("route", "mode", "ttl_seconds", "shared_by", "semantic", "similarity")}
    with connected(profile) as client:
        show(client.get(f"{ROUTER}/cache/policies")["items"], columns, as_json=as_json)


@cache.command("ttl")
def set_ttl(
    route: Annotated[str, typer.Argument(help="A route or model, or * for every other one.")],
    seconds: Annotated[int, typer.Argument(min=0, help="How long answers are kept; 0 keeps none.")],
    mode: Annotated[str | None, typer.Option(help="off, deterministic or all; otherwise as it is.")] = None,
    profile: ProfileFile = None,
    as_json: Json = False,
) -> None:
    """Set how long answers are kept. Without a policy yet, those of temperature 0 are."""
    with connected(profile) as client:
        known = {each["route"]: each for each in client.get(f"{ROUTER}/cache/policies")["items"]}
        policy = {**known.get(route, {"mode": "deterministic"}), "ttl_seconds": seconds}
        policy.pop("route", None)
        path = f"{ROUTER}/cache/policies/{quote(route, safe='*')}"
        show_one(client.call("PUT", path, json={**policy, "mode": mode or policy["mode"]}), as_json=as_json)


@cache.command("purge")
def purge(
    route: Annotated[str | None, typer.Argument(help="A route or model; otherwise everything.")] = None,
    profile: ProfileFile = None,
) -> None:
    """Never serve again what is kept now. Takes no longer for many answers than for one, so counts none."""
    with connected(profile) as client:
        if route is not None:
            names = {each["id"] for each in client.get("/v1/models")["data"]}
            names |= {each["route"] for each in client.get(f"{ROUTER}/cache/policies")["items"]}
            if route not in names:
                raise fail(f"there is no route or model {route}", "`kairos models` lists them.")
        client.call("POST", f"{ROUTER}/cache/purge", json={"route": route})
        what = f"what was kept for {route}" if route else "what was kept for all routes"
        typer.echo(f"{what} is not served any more; every router follows within a second")
