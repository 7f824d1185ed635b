"""`kairos models`, `kairos budgets`, `kairos spend`: what may be spent and what was."""

from typing import Annotated

import typer

from kairos_sdk.commands.output import Json, Limit, ProfileFile, connected, show, show_one

app = typer.Typer(no_args_is_help=True, help="Budgets: status, set.")
NANO = 1_000_000_000
AMOUNTS = ("settled", "leased", "suspense", "available")


def models(profile: ProfileFile = None, as_json: Json = False) -> None:
    """List the models and routes that you may ask for."""
    with connected(profile) as client:
        show(client.get("/v1/models")["data"], {"model": "id", "owner": "owned_by"}, as_json=as_json)


@app.command("status")
def status(profile: ProfileFile = None, as_json: Json = False, limit: Limit = 50) -> None:
    """Show every budget: limit, settled, held, left."""
    with connected(profile) as client:
        rows = list(client.items("/api/budget-analytics/budgets", limit=limit))
        if not as_json:
            for row in rows:
                row.update({key: row["current"][key]["usd"] for key in AMOUNTS} if row["current"] else {})
                row["limit"] = row["limit"]["usd"]
        columns = {name: name for name in ("id", "scope", "period", "limit", *AMOUNTS)}
        show(rows, columns, as_json=as_json)


@app.command("set")
def set_budget(
    scope: Annotated[str, typer.Argument(help="organisation, project or bot")],
    scope_id: Annotated[str, typer.Argument(help="Its id.")],
    limit_usd: Annotated[str, typer.Argument(help="Limit in USD, for example 10 or 0.25")],
    period: Annotated[str, typer.Option(help="day, month or total")] = "month",
    name: Annotated[str | None, typer.Option(help="What people call it; otherwise scope and period.")] = None,
    profile: ProfileFile = None,
    as_json: Json = False,
) -> None:
    """Create a budget for a scope."""
    from decimal import Decimal, InvalidOperation  # noqa: PLC0415 - keeps `kairos --help` fast

    try:
        nano = Decimal(limit_usd) * NANO
    except InvalidOperation as error:
        raise typer.BadParameter(f"{limit_usd} is not an amount in USD") from error
    if nano != nano.to_integral_value() or nano <= 0:
        raise typer.BadParameter("a limit is positive and has at most nine decimals")
    body = {
        "name": name or f"{scope} per {period}",
        "scope": scope,
        "scope_id": scope_id,
        "limit_nano_usd": int(nano),
        "period": period,
    }
    with connected(profile) as client:
        show_one(client.call("POST", "/api/budget-analytics/budgets", json=body), as_json=as_json)


def spend(
    by: Annotated[str, typer.Option("--by", help="model, bot, project or day")] = "model",
    profile: ProfileFile = None,
    as_json: Json = False,
) -> None:
    """Show what was spent."""
    with connected(profile) as client:
        rows = list(client.items("/api/budget-analytics/spend", group_by=by))
        if not as_json:
            for row in rows:
                row["usd"] = row["cost"]["usd"]
        show(rows, {by: "key", "attempts": "attempts", "USD": "usd"}, as_json=as_json)
