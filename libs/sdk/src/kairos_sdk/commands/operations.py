"""`kairos events`, `kairos dlq`: what happens, and what could not be handled."""

import json
import sys
import time
from typing import Annotated

import typer

from kairos_sdk.commands.output import Json, Limit, ProfileFile, connected, show, show_one

events = typer.Typer(no_args_is_help=True, help="Events of the suite.")
dlq = typer.Typer(no_args_is_help=True, help="Dead letters: list, show, replay.")
COLUMNS = {"id": "id", "queue": "queue", "type": "type", "error": "error", "at": "dead_at", "state": "state"}


@events.command("tail")
def tail(
    kind: Annotated[str | None, typer.Option("--type", help="Only types that start with this.")] = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Wait for new ones.")] = True,
    profile: ProfileFile = None,
    as_json: Json = False,
) -> None:
    """Print events, oldest first, and go on with new ones."""
    with connected(profile) as client:
        after: object = None
        while True:
            page = client.get("/api/observability/events", after=after, type=kind)
            for event in page["items"]:
                line = (
                    json.dumps(event, default=str)
                    if as_json
                    else f"{event.get('time')} {event.get('type')} {event.get('subject')}"
                )
                typer.echo(line)
            after = page.get("next_after", page.get("next_cursor")) or after
            sys.stdout.flush()
            if not follow and not page["items"]:
                return
            if not page["items"]:
                time.sleep(0.5)


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
