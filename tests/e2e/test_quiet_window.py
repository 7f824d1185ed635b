"""Three quick messages get one answer."""

from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise

import pytest
from tests.e2e.fragile import QUIET_WINDOW_MS, Fragile
from tests.e2e.people import Json, conversation_of, messages_of, until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400)]

WINDOW = timedelta(milliseconds=QUIET_WINDOW_MS)
TRIES = 5


def test_three_quick_messages_get_one_answer(fragile: Fragile) -> None:
    fragile.wait_well()
    # A busy machine may make the messages anything but quick; then the next three are tried.
    for number in range(TRIES):
        texts = [f"quick {number}: {part}" for part in ("one", "two", "three")]
        chat = fragile.tell(*texts)
        until("the last answer", partial(ends_with, fragile, chat, f"echo: {texts[-1]}"))
        incoming = asked(fragile, chat)
        assert [each["text"] for each in incoming] == texts
        if all(gap < WINDOW for gap in gaps(incoming)):
            assert len({each["turn_id"] for each in incoming}) == 1
            assert fragile.sent(chat) == [f"echo: {texts[-1]}"]
            assert [record.text for record in fragile.provider.records if record.text in texts] == texts[-1:]
            return
    pytest.fail(f"no three messages in {TRIES} tries were stored within {WINDOW} of each other")


def ends_with(fragile: Fragile, chat: int, text: str) -> bool:
    return fragile.sent(chat)[-1] == text


def asked(fragile: Fragile, chat: int) -> list[Json]:
    messages = messages_of(fragile.stack, conversation_of(fragile.stack, chat))
    return [each for each in messages if each["direction"] == "in"]


def gaps(messages: list[Json]) -> list[timedelta]:
    """The time between messages as the database saw them, which is what the window counts."""
    times = [datetime.fromisoformat(each["created_at"]) for each in messages]
    return [later - earlier for earlier, later in pairwise(times)]
