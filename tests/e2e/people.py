"""Who talks to the suite in these tests, and how a test looks at what became of it."""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from kairos_testkit.api_client import ApiClient
from kairos_testkit.stack import Stack

T = TypeVar("T")
Json = dict[str, Any]
PATIENCE_S: Final = 60.0
_POLL_S: Final = 0.1
# Every conversation of a run is new, whichever test began it.
chat_ids: Final[Iterator[int]] = itertools.count(880_001)


def until(what: str, look: Callable[[], T], *, timeout: float = PATIENCE_S) -> T:
    """What the look finds once it is truthy. Errors of the look count as "not yet"."""
    deadline = time.monotonic() + timeout
    seen: object = None
    while time.monotonic() < deadline:
        try:
            found = look()
        except Exception as error:  # noqa: BLE001 - a service that is away is what some tests wait for
            seen = error
        else:
            if found:
                return found
            seen = found
        time.sleep(_POLL_S)
    raise AssertionError(f"{what} did not come within {timeout:g} s; last seen: {seen!r}")


def door(stack: Stack, service: str, *, api_key: str | None = None) -> ApiClient:
    """REST of one service through the front door, as the seeded admin key or another."""
    return ApiClient(f"{stack.front_door}/api/{service}").with_key(api_key or stack.seeded.api_key)


def conversation_of(stack: Stack, chat: str | int, bot_id: str | None = None) -> str:
    """The conversation of a chat of a channel, once its first message is stored."""
    path = f"/bots/{bot_id or stack.seeded.bot_id}/conversations"

    def found() -> str | None:
        items = stack.client("bot-worker").items(path)
        return next((str(each["id"]) for each in items if each["external_chat_id"] == str(chat)), None)

    return str(until(f"the conversation of chat {chat}", found))


def messages_of(stack: Stack, conversation_id: str) -> list[Json]:
    """Both sides, in order."""
    found: list[Json] = stack.client("bot-worker").get(f"/conversations/{conversation_id}/messages")["items"]
    return found


def replies_of(stack: Stack, conversation_id: str) -> list[str]:
    return [each["text"] for each in messages_of(stack, conversation_id) if each["direction"] == "out"]


def new_bot(stack: Stack, name: str, **more: Any) -> Json:
    """A bot with web chat that the fake Telegram does not know."""
    body = {"name": name, "model": "default", "web_enabled": True, "max_tokens": 64, **more}
    made: Json = door(stack, "bot-worker").post("/bots", body)
    return made


def signed_in(stack: Stack, email: str) -> ApiClient:
    """A new admin of the organisation with a session, as the console has one: only members make API keys."""
    made = door(stack, "auth-audit").post("/members", {"email": email, "role": "admin"})
    auth = ApiClient(f"{stack.front_door}/api/auth-audit")
    credentials = {"email": email, "password": made["password"]}
    session, headers = auth.exchange("POST", "/session", credentials)
    named = {name.lower(): value for name, value in headers.items()}
    return auth.with_headers(
        Cookie=named["set-cookie"].partition(";")[0],
        X_CSRF_Token=session["csrf_token"],
        Sec_Fetch_Site="same-origin",
    )


class Visitor:
    """A page with a web chat session, through the front door."""

    def __init__(self, stack: Stack, bot_id: str | None = None) -> None:
        page = ApiClient(f"{stack.front_door}/api/bot-worker/web")
        bot_id = bot_id or stack.seeded.bot_id
        # A bot that has just been made is known to ingress a moment later.
        session = until("a web chat session", lambda: page.post(f"/{bot_id}/sessions"))
        self.conversation: str = session["conversation"]
        self.page = page.with_key(session["token"])
        self._sequence = 0

    def say(self, text: str) -> Json:
        self._sequence += 1
        accepted: Json = self.page.post("/messages", {"sequence": self._sequence, "text": text})
        return accepted

    def replies(self) -> list[str]:
        items = self.page.get("/messages")["items"]
        return [each["text"] for each in items if each["author"] == "bot"]

    def wait_replies(self, count: int, *, timeout: float = PATIENCE_S) -> list[str]:
        def enough() -> list[str] | None:
            found = self.replies()
            return found if len(found) >= count else None

        return until(f"{count} replies in web chat", enough, timeout=timeout) or []
