"""Web chat: sessions, messages, replies over WebSocket, catching up by sequence."""

from typing import Any

import aiohttp
import pytest

pytestmark = pytest.mark.servers


async def _session(worker: Any, bot: dict[str, Any]) -> dict[str, Any]:
    status, session = await worker.call("POST", f"/web/{bot['id']}/sessions", role=None)
    assert status == 201, session
    return dict(session)


def _bearer(session: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {session['token']}"}


async def _say(worker: Any, session: dict[str, Any], sequence: int, text: str) -> tuple[int, Any]:
    answer = await worker.call(
        "POST",
        "/web/messages",
        role=None,
        headers=_bearer(session),
        json={"sequence": sequence, "text": text},
    )
    return answer[0], answer[1]


async def _read(worker: Any, session: dict[str, Any], after: int = 0) -> list[tuple[int, str, str]]:
    status, page = await worker.call(
        "GET", f"/web/messages?after={after}", role=None, headers=_bearer(session)
    )
    assert status == 200
    return [(item["sequence"], item["author"], item["text"]) for item in page["items"]]


async def test_a_page_sends_by_rest_and_reads_the_reply_by_sequence(worker: Any, eventually: Any) -> None:
    bot = await worker.create_bot(web_enabled=True)
    session = await _session(worker, bot)
    status, accepted = await _say(worker, session, 1, "hello")
    assert (status, accepted["sequence"]) == (202, 1)
    assert (await _say(worker, session, 1, "hello"))[1]["message_id"] == accepted["message_id"]
    await eventually(lambda: _reads(worker, session, 2), what="the reply")
    assert await _read(worker, session) == [(1, "contact", "hello"), (2, "bot", "echo: hello")]
    assert await _read(worker, session, after=1) == [(2, "bot", "echo: hello")]


async def _reads(worker: Any, session: dict[str, Any], count: int) -> bool:
    return len(await _read(worker, session)) == count


async def _next(socket: aiohttp.ClientWebSocketResponse, kind: str) -> dict[str, Any]:
    while True:
        frame = await socket.receive_json(timeout=15)
        if frame["type"] == kind:
            return dict(frame)


async def test_replies_reach_the_page_on_whichever_replica_it_is(suite: Any, worker: Any) -> None:
    other = await suite.start()
    bot = await worker.create_bot(web_enabled=True)
    session = await _session(worker, bot)
    async with (
        worker.http.ws_connect(f"{worker.base_url}/web/ws?token={session['token']}") as here,
        other.http.ws_connect(f"{other.base_url}/web/ws?token={session['token']}") as there,
    ):
        for socket in (here, there):
            assert (await _next(socket, "ready"))["conversation"] == session["conversation"]
        await here.send_json({"type": "message", "sequence": 1, "text": "hello"})
        assert (await _next(here, "ack"))["sequence"] == 1
        for socket in (here, there):
            reply = await _next(socket, "reply")
            assert (reply["sequence"], reply["text"]) == (2, "echo: hello")


async def test_a_page_that_lost_its_socket_catches_up_by_sequence(worker: Any, eventually: Any) -> None:
    bot = await worker.create_bot(web_enabled=True)
    session = await _session(worker, bot)
    async with worker.http.ws_connect(f"{worker.base_url}/web/ws?token={session['token']}") as socket:
        await socket.send_json({"type": "message", "sequence": 1, "text": "one"})
        seen = (await _next(socket, "reply"))["sequence"]
    await _say(worker, session, 2, "two")
    await eventually(lambda: _reads(worker, session, 4), what="both replies")
    async with worker.http.ws_connect(f"{worker.base_url}/web/ws?token={session['token']}") as socket:
        await _next(socket, "ready")
        missed = await _read(worker, session, after=seen)
    assert missed == [(3, "contact", "two"), (4, "bot", "echo: two")]


async def test_bad_frames_and_forged_sessions_are_closed(worker: Any) -> None:
    bot = await worker.create_bot(web_enabled=True)
    session = await _session(worker, bot)
    forged = session["token"][:-2] + "xx"
    for token, frame, code in ((session["token"], "nonsense", 1007), (forged, None, 4401)):
        async with worker.http.ws_connect(f"{worker.base_url}/web/ws?token={token}") as socket:
            if frame:
                await socket.send_str(frame)
            while not socket.closed:
                await socket.receive(timeout=10)
            assert socket.close_code == code
    headers = {"Authorization": f"Bearer {forged}"}
    assert (await worker.call("GET", "/web/messages", role=None, headers=headers))[0] == 401
    assert (await worker.call("GET", "/web/messages", role=None))[0] == 401


async def test_a_bot_without_web_chat_has_no_sessions(worker: Any) -> None:
    bot = await worker.create_bot(web_enabled=True)
    session = await _session(worker, bot)
    assert (await worker.call("PATCH", f"/bots/{bot['id']}", json={"web_enabled": False}))[0] == 200
    closed = await worker.create_bot(web_enabled=False)
    for path in (f"/web/{closed['id']}/sessions", f"/web/{session['conversation']}/sessions"):
        status, problem = await worker.call("POST", path, role=None)
        assert (status, problem["code"]) == (404, "web_chat_unknown")


async def test_messages_of_a_page_are_limited(suite: Any) -> None:
    worker = await suite.start(web_messages_per_min=2)
    bot = await worker.create_bot(web_enabled=True)
    session = await _session(worker, bot)
    statuses = [(await _say(worker, session, number, "hi"))[0] for number in range(1, 5)]
    assert statuses == [202, 202, 429, 429]
    assert (await _say(worker, session, 9, "x" * 5_000))[0] == 422
    assert (await _say(worker, session, 9, " "))[0] == 422
