"""Teams: made by admins, named by API keys, told to whoever asks whose key it is."""

from typing import Any
from uuid import uuid4

import httpx
import pytest

pytestmark = pytest.mark.servers


async def test_a_key_of_a_team_says_so_to_services(running: Any, admin: Any) -> None:
    name = f"support {uuid4()}"
    made = await admin.client.post("/teams", json={"name": name})
    assert made.status_code == 201
    team_id = made.json()["id"]
    assert (await admin.client.post("/teams", json={"name": name})).status_code == 409
    listed = (await admin.client.get("/teams", params={"limit": 200})).json()["items"]
    assert name in {each["name"] for each in listed}
    assert (await admin.audited(action="team.created", target=f"team:{team_id}"))["after"] == {"name": name}

    created = await admin.client.post("/api-keys", json={"name": "of the team", "team_id": team_id})

    assert created.status_code == 201
    assert created.json()["team_id"] == team_id
    token = await running.service_token("llm-router")
    async with running.anonymous() as client:
        answer: httpx.Response = await client.post(
            "/internal/introspect",
            json={"credential": created.json()["key"]},
            headers={"authorization": f"Bearer {token}"},
        )
    assert answer.json()["actor"]["team_id"] == team_id


async def test_a_key_can_not_name_the_team_of_another_organisation(running: Any, admin: Any) -> None:
    made = await admin.client.post("/teams", json={"name": f"ours {uuid4()}"})
    stranger = await running.organisation()

    borrowed = await stranger.client.post("/api-keys", json={"name": "x", "team_id": made.json()["id"]})

    assert borrowed.status_code == 404
    assert (await stranger.client.get("/teams")).json()["items"] == []
