import asyncio
import json
from typing import Any

import pytest

from kairos_auth import bootstrap_admin as command

pytestmark = pytest.mark.servers


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert command.main(arguments) == 0
    return json.loads(capsys.readouterr().out)


async def test_the_first_admin_is_made_once(
    running: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KAIROS_AUTH_POSTGRES_URL", running.database.urls["auth"])
    arguments = ("--organisation", "Acme", "--email", "Ada@Example.test")
    made = await asyncio.to_thread(run, capsys, *arguments)
    assert made["created"] is True
    assert made["email"] == "ada@example.test"
    again = await asyncio.to_thread(run, capsys, *arguments)
    assert again["created"] is False
    assert "password" not in again
    assert again["member_id"] == made["member_id"]
    async with running.anonymous() as client:
        credentials = {"email": "ADA@example.test ", "password": made["password"]}
        answer = await client.post("/session", json=credentials)
    assert answer.status_code == 201
    assert answer.json()["organisation"]["name"] == "Acme"
