"""`kairos bots` and `kairos chat`: the bots, and talking to one from the terminal."""

import json
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kairos_sdk.commands.output import Exit, Json, Limit, ProfileFile, connected, fail, show, show_one

if TYPE_CHECKING:
    from kairos_sdk.client import Client

app = typer.Typer(no_args_is_help=True, help="Bots: list, show, create, change.")
COLUMNS = {"id": "id", "name": "name", "mode": "mode", "model": "model", "state": "observed_state"}
POLL_SECONDS = 0.2


class Mode(StrEnum):
    """How a bot answers."""

    MANUAL = "manual"
    GPT = "gpt"
    HYBRID = "hybrid"


@app.command("list")
def list_bots(profile: ProfileFile = None, as_json: Json = False, limit: Limit = 50) -> None:
    """List the bots of your organisation."""
    with connected(profile) as client:
        show(list(client.items("/api/bot-worker/bots", limit=limit)), COLUMNS, as_json=as_json)


@app.command("show")
def show_bot(bot: str, profile: ProfileFile = None, as_json: Json = False) -> None:
    """Show one bot."""
    with connected(profile) as client:
        show_one(client.get(f"/api/bot-worker/bots/{bot}"), as_json=as_json)


@app.command("create")
def create_bot(
    name: str,
    model: Annotated[str, typer.Option(help="A route or model of the router.")] = "default",
    system_prompt: Annotated[str, typer.Option("--prompt", help="What the bot is told to be.")] = "",
    telegram_token_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the bot's Telegram token; it never stands on a command line.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    profile: ProfileFile = None,
    as_json: Json = False,
) -> None:
    """Create a bot that answers on the web, and on Telegram when it has a token."""
    body: dict[str, Any] = {"name": name, "model": model, "mode": "gpt", "web_enabled": True}
    if system_prompt:
        body["system_prompt"] = system_prompt
    if telegram_token_file:
        body["telegram_token"] = telegram_token_file.read_text(encoding="utf-8").strip()
    with connected(profile) as client:
        show_one(client.call("POST", "/api/bot-worker/bots", json=body), as_json=as_json)


@app.command("mode")
def set_mode(bot: str, mode: Mode, profile: ProfileFile = None, as_json: Json = False) -> None:
    """Switch a bot's mode; the next turn follows it."""
    with connected(profile) as client:
        changed = client.call("PATCH", f"/api/bot-worker/bots/{bot}", json={"mode": mode.value})
        show_one(changed, as_json=as_json)


def chat(
    text: Annotated[str | None, typer.Argument(help="One message; without it, a conversation.")] = None,
    bot: Annotated[str | None, typer.Option(help="Id of the bot; otherwise the profile's.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for a reply.")] = 60.0,
    profile: ProfileFile = None,
    as_json: Json = False,
) -> None:
    """Talk to a bot over its web channel."""
    with connected(profile) as client:
        bot_id = bot or client.profile.bot_id
        if not bot_id:
            raise fail("no bot is named", "kairos chat --bot ID; `kairos bots list` shows them.", Exit.USAGE)
        session = client.call("POST", f"/api/bot-worker/web/{bot_id}/sessions")
        talk = Talk(client, str(session["token"]), timeout)
        if text is not None:
            reply = talk.say(text)
            typer.echo(json.dumps(reply, default=str) if as_json else reply["text"])
            return
        typer.echo("Empty line or Ctrl-D ends.")
        while line := _read():
            typer.echo(talk.say(line)["text"])


def _read() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""


class Talk:
    """One web chat session: say something, wait for the bot's next message."""

    def __init__(self, client: "Client", token: str, timeout: float) -> None:
        self._client, self._timeout = client, timeout
        self._headers = {"Authorization": f"Bearer {token}"}
        self._sequence = 0
        self._seen = 0

    def say(self, text: str) -> dict[str, Any]:
        self._sequence += 1
        body = {"sequence": self._sequence, "text": text}
        self._client.call("POST", "/api/bot-worker/web/messages", json=body, headers=self._headers)
        deadline = time.monotonic() + self._timeout
        while time.monotonic() < deadline:
            page = self._client.call(
                "GET", "/api/bot-worker/web/messages", params={"after": self._seen}, headers=self._headers
            )
            for message in page["items"]:
                self._seen = max(self._seen, int(message["sequence"]))
                if message["author"] == "bot":
                    return dict(message)
            time.sleep(POLL_SECONDS)
        raise fail("no reply came in time", "`kairos doctor` looks for the cause.")
