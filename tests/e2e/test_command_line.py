"""`kairos` as an operator uses it: what it writes is there, and what is wrong is told."""

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import aio_pika
import pytest
from tests.e2e.fragile import Fragile
from tests.e2e.people import door, new_bot, until
from typer.testing import CliRunner, Result

from kairos_contracts.llm.v1 import UsageRecordedV1
from kairos_sdk import save
from kairos_sdk.commands.app import app
from kairos_sdk.commands.output import Exit
from kairos_testkit.stack import Stack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]


class Terminal:
    def __init__(self, profile: Path) -> None:
        self._profile = profile

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments), env={"KAIROS_PROFILE": str(self._profile)})

    def json(self, *arguments: str) -> Any:
        result = self.run(*arguments, "--json")
        assert result.exit_code == Exit.OK, result.output
        return json.loads(result.stdout)


@pytest.fixture
def terminal(stack: Stack, tmp_path: Path) -> Terminal:
    return Terminal(save(stack.front_door, stack.seeded.api_key, tmp_path / "connection.json"))


def test_a_bot_is_created_and_its_mode_switched(stack: Stack, terminal: Terminal) -> None:
    made = terminal.json("bots", "create", "Clerk of the command line", "--prompt", "You are a clerk")
    assert terminal.json("bots", "mode", made["id"], "manual")["mode"] == "manual"
    bot = door(stack, "bot-worker").get(f"/bots/{made['id']}")
    assert (bot["name"], bot["mode"]) == ("Clerk of the command line", "manual")
    listed = terminal.run("bots", "list").stdout
    assert made["id"] in listed, "an id is never cut in two"


def test_a_mode_that_does_not_exist_is_refused_with_the_ones_that_do(terminal: Terminal) -> None:
    result = terminal.run("bots", "mode", str(uuid4()), "psychic")
    assert result.exit_code == Exit.USAGE
    assert "hybrid" in result.stderr


def test_a_budget_is_set_and_shown(stack: Stack, terminal: Terminal) -> None:
    bot = new_bot(stack, "Bot with a budget")
    made = terminal.json("budgets", "set", "bot", bot["id"], "0.25", "--period", "day")
    budget = door(stack, "budget-analytics").get(f"/budgets/{made['id']}")
    assert budget["limit"]["nano_usd"] == 250_000_000
    assert made["id"] in terminal.run("budgets", "status").stdout


def test_a_refused_value_is_named(terminal: Terminal) -> None:
    result = terminal.run("budgets", "set", "bot", "not-an-id", "1")
    assert result.exit_code == Exit.USAGE
    assert "scope_id" in result.stderr


def test_a_dead_letter_is_listed_shown_and_replayed(fragile: Fragile, tmp_path: Path) -> None:
    stack, message = fragile.stack, str(uuid4())
    terminal = Terminal(save(stack.front_door, stack.seeded.api_key, tmp_path / "connection.json"))

    async def poison() -> None:
        headers = {"cloudEvents_type": UsageRecordedV1.TYPE, "cloudEvents_id": message}
        connection = await aio_pika.connect(stack.suite.amqp_url)
        async with connection:
            channel = await connection.channel()
            letter = aio_pika.Message(b'{"not": "usage"}', message_id=message, headers=headers)
            await channel.default_exchange.publish(letter, "budget-analytics.usage")

    asyncio.run(poison())

    def dead() -> dict[str, Any] | None:
        letters = terminal.json("dlq", "list", "--limit", "200")
        return next((letter for letter in letters if letter["message_id"] == message), None)

    letter = until("the dead letter", dead)
    row = next(line for line in terminal.run("dlq", "list").stdout.splitlines() if letter["id"] in line)
    assert letter["last_died_at"] in row
    assert "open" in row
    assert terminal.json("dlq", "show", letter["id"])["payload"] == {"not": "usage"}
    assert terminal.run("dlq", "replay", letter["id"], "--yes").exit_code == Exit.OK
    # It is as malformed as before, so it dies again: the same letter, one death more.
    until("its second death", lambda: terminal.json("dlq", "show", letter["id"])["deaths"] > 1)
    fragile.forget_dead()
