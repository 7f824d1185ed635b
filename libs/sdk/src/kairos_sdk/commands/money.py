"""`kairos models`, `kairos budgets`, `kairos spend`: what may be spent and what was."""

from typing import Annotated, Any

import typer

from kairos_sdk.commands.output import Json, Limit, ProfileFile, connected, show, show_one

app = typer.Typer(no_args_is_help=True, help="Budgets: status, set, simulate.")
NANO = 1_000_000_000
BUDGETS = "/api/budget-analytics/budgets"
Period = Annotated[
    str, typer.Option(help="hour, day, week, month, quarter, year or total, in the budget's time zone.")
]
Window = Annotated[
    int | None,
    typer.Option("--window-hours", min=1, help="The last so many hours, always, in place of a period."),
]
TimeZone = Annotated[
    str | None, typer.Option("--tz", help="Time zone of the budget's calendar, as Europe/Istanbul; else UTC.")
]
AMOUNTS = ("settled", "leased", "suspense", "available")


def models(profile: ProfileFile = None, as_json: Json = False) -> None:
    """List the models and routes that you may ask for."""
    with connected(profile) as client:
        show(client.get("/v1/models")["data"], {"model": "id", "owner": "owned_by"}, as_json=as_json)


@app.command("status")
def status(
    budget_id: Annotated[str | None, typer.Argument(help="One budget, with where it is heading.")] = None,
    profile: ProfileFile = None,
    as_json: Json = False,
    limit: Limit = 50,
    closed: Annotated[bool, typer.Option("--closed", help="Closed budgets in place of active ones.")] = False,
) -> None:
    """Show the active budgets; with an id its burn rate, forecast and top consumers too."""
    with connected(profile) as client:
        if budget_id is not None:
            _show_status(client.get(f"{BUDGETS}/{budget_id}/status"), as_json=as_json)
            return
        rows = list(client.items(BUDGETS, limit=limit, active=str(not closed).lower()))
        if not as_json:
            for row in rows:
                row.update({key: row["current"][key]["usd"] for key in AMOUNTS} if row["current"] else {})
                row["limit"] = row["limit"]["usd"]
                row["of"] = row["model"] or row["scope_id"]
                row["period"] = _period(row)
        columns = {name: name for name in ("id", "name", "scope", "of", "period", "limit", *AMOUNTS)}
        show(rows, columns, as_json=as_json)


def _period(row: dict[str, Any]) -> str:
    if row["window_hours"]:
        return f"last {row['window_hours']} h"
    zone = row["time_zone"]
    return str(row["period"]) if zone == "UTC" else f"{row['period']} {zone}"


def _show_status(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_one(found, as_json=True)
        return
    forecast = found["forecast"] or {}
    elapsed = found["elapsed_percent"]
    show_one(
        {
            "budget": found["budget"]["name"],
            "limit USD": found["budget"]["limit"]["usd"],
            "settled USD": found["settled"]["usd"],
            "held USD": found["held"]["usd"],
            "suspense USD": found["suspense"]["usd"],
            "available USD": found["available"]["usd"],
            "used": f"{found['used_percent']} %",
            "period elapsed": "-" if elapsed is None else f"{elapsed} %",
            "burn rate USD/h": found["burn_rate"]["usd"],
            "exceeds limit at": forecast.get("exceeds_at") or "not in this period",
        },
        as_json=False,
    )
    rows = [
        {
            "by": dimension,
            "key": row["key"],
            "usd": row["cost"]["usd"],
            "share": f"{100 * row['share']:.1f} %",
        }
        for dimension, consumers in found["top_consumers"].items()
        for row in consumers
    ]
    if rows:
        show(rows, {"by": "by", "consumer": "key", "USD": "usd", "share": "share"}, as_json=False)


def _nano(limit_usd: str) -> int:
    from decimal import Decimal, InvalidOperation  # noqa: PLC0415 - keeps `kairos --help` fast

    try:
        nano = Decimal(limit_usd) * NANO
    except InvalidOperation as error:
        raise typer.BadParameter(f"{limit_usd} is not an amount in USD") from error
    if not nano.is_finite() or nano != nano.to_integral_value() or nano <= 0:
        raise typer.BadParameter("a limit is positive and has at most nine decimals")
    return int(nano)


def _scope(scope: str, scope_id: str) -> dict[str, Any]:
    """A model is named, everything else has an id."""
    return {"scope": scope, "model" if scope == "model" else "scope_id": scope_id}


@app.command("set")
def set_budget(
    scope: Annotated[str, typer.Argument(help="organisation, project, team, bot, contact, api_key or model")],
    scope_id: Annotated[str, typer.Argument(help="Its id; a model's name.")],
    limit_usd: Annotated[str, typer.Argument(help="Limit in USD, for example 10 or 0.25")],
    period: Period = "month",
    window_hours: Window = None,
    tz: TimeZone = None,
    reserve: Annotated[
        list[str] | None,
        typer.Option(help="interactive=20 keeps 20 percent from lower priorities; also normal=5."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What people call it; otherwise scope and period.")] = None,
    profile: ProfileFile = None,
    as_json: Json = False,
) -> None:
    """Set the limit of a scope and period: create its budget, or change the one there is."""
    terms: dict[str, Any] = {"limit_nano_usd": _nano(limit_usd)}
    if reserve:
        terms["reserves"] = dict(map(_percent, reserve))
    kind = _terms(period, window_hours, tz)
    with connected(profile) as client:
        for row in client.items(BUDGETS, limit=200, active="true", scope=scope):
            mine = scope_id in {row["scope_id"], row.get("model")}
            if mine and kind.items() <= row.items() and (name is None or row["name"] == name):
                show_one(client.call("PATCH", f"{BUDGETS}/{row['id']}", json=terms), as_json=as_json)
                return
        called = f", last {window_hours} hours" if window_hours else f" per {period}"
        body = {"name": name or f"{scope}{called}", **_scope(scope, scope_id), **kind, **terms}
        show_one(client.call("POST", BUDGETS, json=body), as_json=as_json)


def _percent(text: str) -> tuple[str, int]:
    priority, _, percent = text.partition("=")
    if not percent.isdigit():
        raise typer.BadParameter(f"{text}: a reserve is written interactive=20")
    return priority, int(percent)


def _terms(period: str, window_hours: int | None, tz: str | None) -> dict[str, Any]:
    """When the budget counts anew, as the API says it."""
    window = {"period": "rolling", "window_hours": window_hours} if window_hours else {"period": period}
    return window | ({"time_zone": tz} if tz else {})


@app.command("simulate")
def simulate(
    scope: Annotated[str, typer.Argument(help="organisation, project, team, bot, contact, api_key or model")],
    scope_id: Annotated[str, typer.Argument(help="Its id; a model's name.")],
    limit_usd: Annotated[str, typer.Argument(help="Limit in USD, for example 10 or 0.25")],
    period: Period = "month",
    since: Annotated[
        str | None, typer.Option("--from", help="A date or moment; otherwise 30 days ago.")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="A date or moment; otherwise now.")] = None,
    window_hours: Window = None,
    tz: TimeZone = None,
    profile: ProfileFile = None,
    as_json: Json = False,
) -> None:
    """Try a budget on past traffic: when it would have run out, and what it would have refused."""
    body = {**_scope(scope, scope_id), "limit_nano_usd": _nano(limit_usd), **_terms(period, window_hours, tz)}
    body |= {key: value for key, value in (("from", since), ("to", until)) if value}
    with connected(profile) as client:
        found = client.call("POST", f"{BUDGETS}/simulate", json=body)
    if as_json:
        show_one(found, as_json=True)
        return
    refused = found["refused"]
    summary = {
        "replayed": f"{found['attempts']} attempts, {found['cost']['usd']} USD, from {found['method']}",
        "exhausted at": found["exhausted_at"] or "never",
        "refused": f"{refused['attempts']} attempts, {refused['cost']['usd']} USD",
    }
    show_one(summary, as_json=False)
    rows = [
        {"by": by, "key": row["key"], "attempts": row["attempts"], "usd": row["cost"]["usd"]}
        for by in ("model", "bot", "day")
        for row in found[f"by_{by}"]
    ]
    if rows:
        columns = {"refused by": "by", "of": "key", "attempts": "attempts", "USD": "usd"}
        show(rows, columns, as_json=False)


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
