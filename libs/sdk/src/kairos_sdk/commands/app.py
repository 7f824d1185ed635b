"""The command tree of `kairos`."""

import typer

from kairos_sdk.commands import audit, bots, installation, limits, money, operations, routing

app = typer.Typer(
    name="kairos",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # Plain help starts three times as fast.
    help="Run and watch a Kairos installation. "
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not reachable, 4 denied.",
)
app.command("up")(installation.up)
app.command("down")(installation.down)
app.command("status")(installation.status)
app.command("logs")(installation.logs)
app.command("doctor")(installation.doctor)
app.command("login")(installation.login)
app.command("demo")(installation.demo)
app.command("open")(installation.open_console)
app.command("chat")(bots.chat)
app.command("models")(money.models)
app.command("why")(routing.why)
app.command("holds")(routing.holds)
app.command("spend")(money.spend)
app.add_typer(bots.app, name="bots")
app.add_typer(money.app, name="budgets")
app.add_typer(limits.quotas, name="quotas")
app.add_typer(limits.cache, name="cache")
app.add_typer(routing.routes, name="routes")
app.add_typer(routing.deployments, name="deployments")
app.add_typer(routing.prices, name="prices")
app.add_typer(operations.events, name="events")
app.add_typer(operations.dlq, name="dlq")
app.add_typer(audit.app, name="audit")
