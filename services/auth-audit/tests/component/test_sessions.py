import asyncio
from datetime import timedelta
from typing import Any

import pytest

from kairos_contracts.permissions import Role

pytestmark = pytest.mark.servers


async def test_an_admin_signs_in_and_sees_who_they_are(running: Any, admin: Any) -> None:
    answer = await admin.client.get("/session")
    assert answer.status_code == 200
    seen = answer.json()
    assert seen["role"] == "admin"
    assert seen["must_change_password"] is True
    assert seen["organisation"]["id"] == str(admin.organisation_id)
    assert seen["csrf_token"] == admin.client.headers["x-csrf-token"]
    entry = await admin.audited(action="session.created", actor=str(admin.member_id))
    assert entry["outcome"] == "allowed"


async def test_the_cookie_can_not_be_read_by_scripts(running: Any, admin: Any) -> None:
    answer = await admin.sign_in()
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("kairos_session=")
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie


async def test_wrong_password_and_unknown_member_look_the_same(running: Any, admin: Any) -> None:
    async with running.anonymous("203.0.113.7") as client:
        wrong = await client.post("/session", json={"email": admin.email, "password": "wrong password"})
        unknown = await client.post("/session", json={"email": "nobody@example.test", "password": "x"})
    assert wrong.status_code == unknown.status_code == 401
    bodies = [answer.json() | {"request_id": ""} for answer in (wrong, unknown)]
    assert bodies[0] == bodies[1]
    assert wrong.headers["content-type"] == "application/problem+json"
    entry = await admin.audited(action="session.failed")
    assert entry["actor"]["kind"] == "anonymous"
    assert entry["ip"] == "203.0.113.7"


@pytest.mark.parametrize("known", [True, False])
async def test_guessing_pauses_and_the_pause_grows_for_known_and_unknown_alike(
    running: Any, known: bool
) -> None:
    owner = await running.organisation()
    email = owner.email if known else "ghost@example.test"
    async with running.anonymous("203.0.113.8" if known else "203.0.113.9") as client:

        async def guess() -> tuple[int, int]:
            answer = await client.post("/session", json={"email": email, "password": "guess"})
            return answer.status_code, int(answer.headers.get("retry-after", "0"))

        try:
            statuses = [await guess() for _ in range(11)]
            assert {status for status, _ in statuses} == {401}
            assert await guess() == (429, 1)
            running.clock.ahead += timedelta(seconds=1.1)
            assert (await guess())[0] == 401
            status, pause = await guess()
            assert (status, pause) == (429, 2)
            if known:
                # A stranger's guesses do not keep the owner out.
                assert (await owner.sign_in()).status_code == 201
        finally:
            running.clock.ahead = timedelta()


async def test_parallel_guesses_are_all_counted(running: Any) -> None:
    owner = await running.organisation()
    async with running.anonymous("203.0.113.10") as client:
        answers = await asyncio.gather(
            *(client.post("/session", json={"email": owner.email, "password": "guess"}) for _ in range(30))
        )
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(401) <= 11
    assert statuses.count(401) + statuses.count(429) == 30


async def test_signing_out_ends_the_session_at_once(running: Any) -> None:
    owner = await running.organisation()
    assert (await owner.client.delete("/session")).status_code == 204
    owner.client.cookies.clear()
    session = await owner.sign_in()
    token = session.cookies["kairos_session"]
    assert (await owner.client.delete("/session")).status_code == 204
    owner.client.cookies.set("kairos_session", token)
    assert (await owner.client.get("/session")).status_code == 401
    await owner.sign_in()
    await owner.audited(action="session.ended")


async def test_a_session_ends_when_it_is_idle(running: Any) -> None:
    owner = await running.organisation()
    try:
        running.clock.ahead = timedelta(hours=11)
        assert (await owner.client.get("/session")).status_code == 200
        running.clock.ahead = timedelta(hours=22)
        assert (await owner.client.get("/session")).status_code == 200
        running.clock.ahead = timedelta(hours=35)
        assert (await owner.client.get("/session")).status_code == 401
    finally:
        running.clock.ahead = timedelta()


async def test_a_session_ends_after_a_week_even_when_used(running: Any) -> None:
    owner = await running.organisation()
    try:
        statuses = []
        for step in range(1, 18):
            running.clock.ahead = timedelta(hours=10 * step)
            statuses.append((await owner.client.get("/session")).status_code)
        assert statuses == [200] * 16 + [401]
    finally:
        running.clock.ahead = timedelta()


async def test_a_cookie_alone_changes_nothing(running: Any, admin: Any) -> None:
    body = {"name": "forged"}
    for change in (
        {"x-csrf-token": "wrong"},
        {"origin": "http://evil.test"},
        {"sec-fetch-site": "cross-site"},
    ):
        answer = await admin.client.post("/projects", json=body, headers=change)
        assert answer.status_code == 403
        assert answer.json()["code"] in {"csrf", "cross_origin"}
    kept = {name: admin.client.headers.pop(name) for name in ("origin", "x-csrf-token")}
    try:
        assert (await admin.client.post("/projects", json=body)).status_code == 403
    finally:
        admin.client.headers.update(kept)


async def test_signing_in_from_a_foreign_page_is_refused(running: Any, admin: Any) -> None:
    async with running.anonymous() as client:
        answer = await client.post(
            "/session",
            json={"email": admin.email, "password": admin.password},
            headers={"origin": "http://evil.test"},
        )
    assert answer.status_code == 403


async def test_a_member_changes_the_password_and_other_sessions_end(running: Any) -> None:
    owner = await running.organisation()
    elsewhere, owner.client = owner.client, None
    await owner.sign_in()
    change = {"current_password": owner.password, "new_password": "a fine long phrase"}
    weak = await owner.client.put("/session/password", json=change | {"new_password": "password1234"})
    assert (weak.status_code, weak.json()["code"]) == (422, "weak_password")
    wrong = await owner.client.put("/session/password", json=change | {"current_password": "no"})
    assert wrong.status_code == 401
    assert (await owner.client.put("/session/password", json=change)).status_code == 204
    assert (await elsewhere.get("/session")).status_code == 401
    seen = await owner.client.get("/session")
    assert seen.json()["must_change_password"] is False
    owner.password = "a fine long phrase"
    await owner.sign_in()
    entry = await owner.audited(action="member.password_changed")
    assert "phrase" not in str(entry)


async def test_the_last_admin_stays(running: Any) -> None:
    owner = await running.organisation()
    demote = await owner.client.patch(f"/members/{owner.member_id}", json={"role": "viewer"})
    assert (demote.status_code, demote.json()["code"]) == (409, "last_admin")
    assert (await owner.client.delete(f"/members/{owner.member_id}")).status_code == 409
    second = await owner.colleague(Role.ADMIN)
    answers = await asyncio.gather(
        owner.client.patch(f"/members/{second.member_id}", json={"role": "viewer"}),
        second.client.patch(f"/members/{owner.member_id}", json={"role": "viewer"}),
    )
    assert sorted(answer.status_code for answer in answers) == [200, 409]


async def test_a_role_change_holds_for_open_sessions_and_keys(running: Any) -> None:
    owner = await running.organisation()
    developer = await owner.colleague(Role.DEVELOPER)
    _, key = await developer.api_key()
    changed = await owner.client.patch(f"/members/{developer.member_id}", json={"role": "viewer"})
    assert changed.json()["role"] == "viewer"
    assert (await developer.client.get("/session")).json()["role"] == "viewer"
    async with running.anonymous() as client:
        client.headers["authorization"] = f"Bearer {key}"
        assert (await client.get("/session")).json()["role"] == "viewer"
        assert (await client.get("/api-keys")).status_code == 403
    entry = await owner.audited(action="member.role_changed")
    assert (entry["before"], entry["after"]) == ({"role": "developer"}, {"role": "viewer"})


async def test_a_removed_member_loses_sessions_and_keys_and_may_be_invited_again(running: Any) -> None:
    owner = await running.organisation()
    gone = await owner.colleague(Role.DEVELOPER)
    _, key = await gone.api_key()
    assert (await owner.client.delete(f"/members/{gone.member_id}")).status_code == 204
    assert (await gone.client.get("/session")).status_code == 401
    async with running.anonymous() as client:
        client.headers["authorization"] = f"Bearer {key}"
        assert (await client.get("/session")).status_code == 401
    again = await owner.client.post("/members", json={"email": gone.email, "role": "viewer"})
    assert again.status_code == 201
    twice = await owner.client.post("/members", json={"email": gone.email, "role": "viewer"})
    assert (twice.status_code, twice.json()["code"]) == (409, "already_exists")
