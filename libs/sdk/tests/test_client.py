from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from kairos_sdk import (
    Client,
    KairosError,
    Profile,
    ProfileMissing,
    ProfileUnreadable,
    Unreachable,
    load,
    save,
)

PROFILE = Profile(front_door="http://door.test", api_key=SecretStr("kairos_live_canary"))
Answer = Callable[[httpx.Request], httpx.Response]


class Recorded:
    """A client whose server is a function, and whose pauses are written down instead of waited for."""

    def __init__(self, answer: Answer, *, attempts: int = 4) -> None:
        self.requests: list[httpx.Request] = []
        self.pauses: list[float] = []

        def handle(request: httpx.Request) -> httpx.Response:
            self.requests.append(request)
            return answer(request)

        self.client = Client(
            PROFILE, transport=httpx.MockTransport(handle), attempts=attempts, sleep=self.pauses.append
        )


def answers(*responses: httpx.Response) -> Answer:
    left = list(responses)
    return lambda _request: left.pop(0)


def problem(status: int, code: str, **headers: str) -> httpx.Response:
    body = {"type": f"urn:kairos:problem:{code}", "title": "No", "detail": "Do that.", "code": code}
    return httpx.Response(status, json=body, headers={"x-request-id": "r-1", **headers})


def test_a_request_carries_the_key_and_gives_the_body() -> None:
    recorded = Recorded(answers(httpx.Response(200, json={"a": 1})))
    assert recorded.client.get("/x", limit=2, cursor=None) == {"a": 1}
    (request,) = recorded.requests
    assert request.headers["authorization"] == "Bearer kairos_live_canary"
    assert str(request.url) == "http://door.test/x?limit=2"


def test_a_problem_becomes_an_error_with_code_detail_and_request_id() -> None:
    recorded = Recorded(answers(problem(404, "bot_not_found")))
    with pytest.raises(KairosError) as caught:
        recorded.client.get("/x")
    assert (caught.value.status, caught.value.code, caught.value.request_id) == (404, "bot_not_found", "r-1")
    assert str(caught.value) == "No: Do that."
    assert not caught.value.denied


def test_openais_envelope_becomes_the_same_error() -> None:
    body = {"error": {"message": "Budget is used up.", "type": "budget", "code": "budget_exceeded"}}
    recorded = Recorded(answers(httpx.Response(402, json=body)))
    with pytest.raises(KairosError, match=r"Budget is used up\.") as caught:
        recorded.client.call("POST", "/v1/chat/completions", json={})
    assert caught.value.code == "budget_exceeded"


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b"{}", b""])
def test_an_answer_that_is_no_problem_is_still_an_error(body: bytes) -> None:
    recorded = Recorded(answers(httpx.Response(500, content=body)))
    with pytest.raises(KairosError) as caught:
        recorded.client.get("/x")
    assert (caught.value.status, caught.value.code) == (500, "500")


def test_a_busy_server_is_asked_again_after_the_time_it_names() -> None:
    recorded = Recorded(answers(problem(503, "away", **{"retry-after": "7"}), httpx.Response(200, json=[])))
    assert recorded.client.get("/x") == []
    assert recorded.pauses == [7.0]


def test_pauses_without_a_name_grow_and_are_bounded() -> None:
    busy = [problem(429, "slow_down") for _ in range(4)]
    recorded = Recorded(answers(*busy))
    with pytest.raises(KairosError):
        recorded.client.get("/x")
    assert len(recorded.pauses) == 3
    assert all(0 < pause <= 30 for pause in recorded.pauses)


def test_a_post_is_repeated_only_with_an_idempotency_key() -> None:
    once = Recorded(answers(problem(503, "away")))
    with pytest.raises(KairosError):
        once.client.call("POST", "/x", json={})
    again = Recorded(answers(problem(503, "away"), httpx.Response(204)))
    assert again.client.call("POST", "/x", json={}, headers={"Idempotency-Key": "k"}) is None
    assert (len(once.requests), len(again.requests)) == (1, 2)


def test_a_dead_server_is_named() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(Unreachable, match=r"http://door\.test does not answer"):
        Recorded(refuse).client.get("/x")


def test_items_follow_the_cursor_and_stop_at_the_limit() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        start = int(request.url.params.get("cursor", 0))
        rows: list[dict[str, Any]] = [{"n": n} for n in range(start, min(start + 2, 5))]
        return httpx.Response(200, json={"items": rows, "next_cursor": str(start + 2) if start < 3 else None})

    assert [row["n"] for row in Recorded(answer).client.items("/x")] == [0, 1, 2, 3, 4]
    limited = Recorded(answer)
    assert [row["n"] for row in limited.client.items("/x", limit=3)] == [0, 1, 2]
    assert len(limited.requests) == 2


def test_a_profile_is_saved_for_the_user_alone_and_read_back(tmp_path: Path) -> None:
    path = save("https://door.test/", "kairos_live_x", tmp_path / "deep/connection.json")
    assert path.stat().st_mode & 0o777 == 0o600
    profile = load(path)
    assert (profile.front_door, profile.api_key.get_secret_value()) == ("https://door.test", "kairos_live_x")
    assert "kairos_live_x" not in repr(profile)


def test_the_nearest_checkout_is_found_from_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save("http://localhost:5000", "k", tmp_path / ".kairos/connection.json")
    (tmp_path / "a/b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a/b")
    assert load().front_door == "http://localhost:5000"


def test_a_missing_or_broken_profile_says_so(tmp_path: Path) -> None:
    with pytest.raises(ProfileMissing):
        load(tmp_path / "none.json")
    broken = tmp_path / "broken.json"
    broken.write_text('{"front_door": "http://x"}')
    with pytest.raises(ProfileUnreadable, match="api_key"):
        load(broken)
