"""`kairos events`, `kairos dlq`: what happens, and what could not be handled."""

import json
import time
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from kairos_sdk.commands.output import Json, Limit, ProfileFile, connected, show, show_one

events = typer.Typer(no_args_is_help=True, help="Events of the suite.")
dlq = typer.Typer(no_args_is_help=True, help="Dead letters: list, show, replay.")
POLL_SECONDS = 0.5
COLUMNS = {
    "id": "id",
    "queue": "queue",
    "type": "type",
    "error": "error",
    "died": "last_died_at",
    "status": "status",
}


@events.command("tail")
def tail(
    kind: Annotated[str | None, typer.Option("--type", help="Only types that start with this.")] = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Wait for new ones.")] = True,
    profile: ProfileFile = None,
    as_json: Json = False,
) -> None:
    """Print the latest events, oldest first, and go on with new ones."""
    with connected(profile) as client:
        page = client.get("/api/observability/events", type=kind)
        _print(reversed(page["items"]), as_json=as_json)
        after = page["head"]
        while follow:
            page = client.get("/api/observability/events", type=kind, after=after)
            _print(page["items"], as_json=as_json)
            after = page["head"] or after
            if not page["next_cursor"]:
                time.sleep(POLL_SECONDS)


def _print(found: Iterable[dict[str, Any]], *, as_json: bool) -> None:
    for event in found:
        line = f"{event['time']} {event['type']} {event['subject']} trace {event['trace_id'] or '-'}"
        typer.echo(json.dumps(event) if as_json else line)


@dlq.command("list")
def list_dead(profile: ProfileFile = None, as_json: Json = False, limit: Limit = 50) -> None:
    """List dead letters, newest first."""
    with connected(profile) as client:
        show(list(client.items("/api/observability/dead-letters", limit=limit)), COLUMNS, as_json=as_json)


@dlq.command("show")
def show_dead(letter: str, profile: ProfileFile = None, as_json: Json = False) -> None:
    """Show one dead letter: error, trace, headers, body."""
    with connected(profile) as client:
        show_one(client.get(f"/api/observability/dead-letters/{letter}"), as_json=as_json)


@dlq.command("replay")
def replay(
    letter: str,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    profile: ProfileFile = None,
    as_json: Json = False,
) -> None:
    """Put a dead letter back on its queue under its own id; what was done already is not done twice."""
    if not yes:
        typer.confirm(f"Replay {letter}?", abort=True)
    with connected(profile) as client:
        show_one(client.call("POST", f"/api/observability/dead-letters/{letter}/replay"), as_json=as_json)
