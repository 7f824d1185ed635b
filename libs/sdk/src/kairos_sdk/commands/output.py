"""How commands print and how they end: JSON for programs, tables for people, stable exit codes."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from kairos_sdk.client import Client
    from kairos_sdk.profile import Profile


class Exit(IntEnum):
    """What a command's exit code means; scripts may rely on it."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    DENIED = 4


PIPE_WIDTH = 1_000
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
ProfileFile = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        envvar="KAIROS_PROFILE",
        help="Connection file; otherwise the checkout's, then the user's.",
    ),
]
Limit = Annotated[int, typer.Option("--limit", min=1, help="At most this many.")]


def fail(message: str, hint: str = "", code: Exit = Exit.FAILED) -> typer.Exit:
    """Say on standard error what happened and what to do next; raise what it returns."""
    typer.secho(f"kairos: {message}", err=True, fg="red" if sys.stderr.isatty() else None)
    if hint:
        typer.echo(hint, err=True)
    return typer.Exit(code)


@contextmanager
def connected(profile: "Path | Profile | None") -> Iterator["Client"]:
    """A client of the installation; every failure ends the command with a sentence and an exit code."""
    from kairos_sdk import client as api  # noqa: PLC0415 - keeps `kairos --help` fast
    from kairos_sdk import profile as profiles  # noqa: PLC0415 - as above

    try:
        known = profile if isinstance(profile, profiles.Profile) else profiles.load(profile)
        with api.Client(known) as session:
            yield session
    except (profiles.ProfileMissing, profiles.ProfileUnreadable) as error:
        raise fail(str(error), code=Exit.USAGE) from error
    except api.Unreachable as error:
        raise fail(str(error), "Is it up? `kairos status` tells.", Exit.UNREACHABLE) from error
    except api.KairosError as error:
        trail = f"request {error.request_id}" if error.request_id else ""
        code = Exit.DENIED if error.denied else Exit.USAGE if error.wrong_usage else Exit.FAILED
        raise fail(f"{error} [{error.code}]", trail, code) from error


def show(rows: Sequence[dict[str, Any]], columns: dict[str, str], *, as_json: bool) -> None:
    """Print rows: `columns` maps a heading to the key of a row."""
    if as_json:
        typer.echo(json.dumps(list(rows), indent=2, default=str))
        return
    if not rows:
        typer.echo("nothing")
        return
    from rich.console import Console  # noqa: PLC0415 - keeps `kairos --help` fast
    from rich.table import Table  # noqa: PLC0415 - as above

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading, key in columns.items():
        # An id that is cut in two can't be copied.
        table.add_column(heading, overflow="fold", no_wrap=key.endswith("id"))
    for row in rows:
        table.add_row(*(_plain(row.get(key)) for key in columns.values()))
    # In a pipe there is no width to fit into.
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table)


def show_one(row: dict[str, Any], *, as_json: bool) -> None:
    """Print one thing: a line per field, those of what is inside it as `outer.inner`."""
    if as_json:
        typer.echo(json.dumps(row, indent=2, default=str))
        return
    lines = dict(_lines(row))
    width = max(map(len, lines), default=0)
    for key, value in lines.items():
        typer.echo(f"{key:<{width}}  {value}".rstrip())


def _lines(row: dict[str, Any], outer: str = "") -> Iterator[tuple[str, str]]:
    for key, value in row.items():
        if isinstance(value, dict) and value and not _is_amount(value):
            yield from _lines(value, f"{outer}{key}.")
        else:
            yield f"{outer}{key}", _plain(value)


def _is_amount(value: dict[str, Any]) -> bool:
    return "usd" in value and value.keys() <= {"nano_usd", "usd"}


def _plain(value: object) -> str:
    """A value as people write it. Amounts are in USD."""
    if isinstance(value, dict) and _is_amount(value):
        return f"{value['usd']} USD"
    if isinstance(value, list) and not any(isinstance(each, dict | list) for each in value):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, dict | list):
        return json.dumps(value) if value else "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)
