"""`kairos up, down, status, logs, doctor, login, demo, open`: the installation itself."""

import shutil
import subprocess
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from kairos_sdk.commands.output import Exit, Json, ProfileFile, connected, fail, show


def checkout() -> Path:
    """The checkout below which the command runs. `make` there does the work."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "kairos.toml").is_file() and (folder / "Makefile").is_file():
            return folder
    raise fail(
        "this is not a checkout of Kairos",
        "Change into it, or use `kairos login URL` for a remote one.",
        Exit.USAGE,
    )


def make(target: str, *variables: str) -> None:
    tool = shutil.which("make")
    if tool is None:
        raise fail("make is missing", "apt-get install --yes make")
    done = subprocess.run([tool, "--no-print-directory", target, *variables], cwd=checkout(), check=False)  # noqa: S603 - our own Makefile
    raise typer.Exit(done.returncode)


def up() -> None:
    """Start everything on this machine, installing what is missing."""
    make("up")


def down() -> None:
    """Stop everything on this machine; the data stays."""
    make("down")


def logs(service: Annotated[str, typer.Argument(help="For example llm-router.")] = "") -> None:
    """Follow the logs of a service, or of all."""
    make("logs", *([f"S={service}"] if service else []))


def demo() -> None:
    """Send one message through Telegram and one through web chat; show reply, cost, trace and audit entry."""
    make("demo")


def status(profile: ProfileFile = None, as_json: Json = False) -> None:
    """Show whether every service is up."""
    with connected(profile) as client:
        rows = client.get("/api/observability/services")["services"]
        show(rows, {"service": "service", "health": "health", "detail": "detail"}, as_json=as_json)
        if any(row["health"] != "up" for row in rows):
            raise typer.Exit(Exit.FAILED)


def doctor(profile: ProfileFile = None) -> None:
    """Check what an installation needs, in order; stop at the first fault and say how to mend it."""
    with connected(profile) as client:
        typer.echo(f"connection file   {client.profile.front_door}")
        rows = client.get("/api/observability/services")["services"]
        typer.echo("front door        answers")
        down = [row for row in rows if row["health"] != "up"]
        if down:
            names = ", ".join(f"{row['service']} ({row.get('detail', '')})" for row in down)
            raise fail(f"not up: {names}", "`kairos logs SERVICE` shows why.")
        typer.echo("services          up")
        if not client.get("/api/budget-analytics/ledger/check")["balanced"]:
            raise fail("the ledger does not balance", "docs/OPERATIONS_GUIDE.md, KairosLedgerImbalance")
        typer.echo("ledger            balances")
        dead = list(client.items("/api/observability/dead-letters", limit=1))
        if dead:
            raise fail("there are dead letters", "`kairos dlq list` shows them.")
        typer.echo("dead letters      none")


def login(
    address: Annotated[str, typer.Argument(help="Front door, for example https://kairos.example.com")],
    key: Annotated[str, typer.Option("--key", prompt="API key", hide_input=True, envvar="KAIROS_API_KEY")],
) -> None:
    """Remember an installation and an API key for this user."""
    from pydantic import SecretStr  # noqa: PLC0415 - keeps `kairos --help` fast

    from kairos_sdk.profile import USER, Profile, save  # noqa: PLC0415 - as above

    if not address.startswith(("https://", "http://localhost", "http://127.0.0.1")):
        raise fail("an API key is sent over https only", f"Use https instead of {address}", Exit.USAGE)
    with connected(Profile(front_door=address.rstrip("/"), api_key=SecretStr(key))) as client:
        client.get("/v1/models")
    save(address, key, USER)
    typer.echo(f"logged in to {address}; saved in {USER}")


def open_console(profile: ProfileFile = None) -> None:
    """Open the console in a browser."""
    with connected(profile) as client:
        typer.echo(client.profile.front_door)
        webbrowser.open(client.profile.front_door)
