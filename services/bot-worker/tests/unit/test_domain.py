"""Decisions that need no store."""

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos_bots.domain.bot import Mode, Sealed, changed, difference, shown
from kairos_bots.domain.delivery import (
    Accepted,
    GiveUp,
    NotTaken,
    Paced,
    Refused,
    RetryRules,
    Sent,
    TryAgain,
    Unsure,
    after_try,
)
from kairos_bots.domain.errors import InvalidBotError
from kairos_bots.domain.prompt import HistoryBounds, Line, assemble
from kairos_bots.domain.reply import TELEGRAM_LIMIT, split_text
from kairos_bots.domain.turn import (
    QuietWindow,
    Source,
    Turn,
    TurnState,
    TurnStateError,
    answered,
    collect,
    may_answer,
    open_for_answer,
    reopen,
)

RULES = RetryRules()
SECOND = timedelta(seconds=1)


def _units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


@given(st.text(max_size=300), st.integers(2, 40))
def test_parts_of_a_reply_fit_the_channel_and_lose_only_white_space(text: str, limit: int) -> None:
    parts = split_text(text, limit)
    assert all(part.strip() and _units(part) <= limit for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())


def test_a_long_reply_is_cut_between_paragraphs() -> None:
    first, second = "a" * 3000, "b" * 3000
    assert split_text(f"{first}\n\n{second}") == (first, second)


def test_characters_outside_the_basic_plane_count_twice() -> None:
    assert [len(part) for part in split_text("😀" * 3000)] == [
        TELEGRAM_LIMIT // 2,
        3000 - TELEGRAM_LIMIT // 2,
    ]


def _turn(kit: Any, **changes: Any) -> Turn:
    values: dict[str, Any] = {
        "id": uuid4(),
        "organisation_id": uuid4(),
        "conversation_id": uuid4(),
        "bot_id": uuid4(),
        "channel": "telegram",
        "state": TurnState.COLLECTING,
        "created_at": kit.start,
        "due_at": kit.start,
    }
    return Turn(**(values | changes))


def test_every_message_restarts_the_pause_but_never_beyond_the_longest_wait(kit: Any) -> None:
    window = QuietWindow(pause=SECOND, longest=3 * SECOND)
    turn = _turn(kit)
    for seconds, due in ((0, 1), (0.9, 1.9), (1.8, 2.8), (2.7, 3), (2.9, 3)):
        turn = collect(turn, kit.start + timedelta(seconds=seconds), window)
        assert turn.due_at == kit.start + timedelta(seconds=due)
    assert turn.message_count == 5


def test_only_the_epoch_that_waits_may_answer(kit: Any) -> None:
    completion = uuid4()
    opened = open_for_answer(
        _turn(kit), epoch=4, mode=Mode.GPT, completion_id=completion, now=kit.start, patience=SECOND
    )
    assert may_answer(opened, epoch=4, completion_id=completion)
    assert not may_answer(opened, epoch=3, completion_id=completion)
    assert not may_answer(opened, epoch=4, completion_id=uuid4())
    assert not may_answer(reopen(opened, kit.start), epoch=4, completion_id=completion)
    assert not may_answer(answered(opened, Source.MODEL, kit.start), epoch=4, completion_id=completion)


def test_a_turn_refuses_steps_out_of_order(kit: Any) -> None:
    turn = _turn(kit)
    with pytest.raises(TurnStateError):
        answered(turn, Source.MODEL, kit.start)
    with pytest.raises(TurnStateError):
        reopen(turn, kit.start)
    with pytest.raises(TurnStateError):
        open_for_answer(turn, epoch=0, mode=Mode.GPT, completion_id=None, now=kit.start, patience=SECOND)
    opened = open_for_answer(turn, epoch=1, mode=Mode.GPT, completion_id=None, now=kit.start, patience=SECOND)
    with pytest.raises(TurnStateError):
        collect(opened, kit.start, QuietWindow(SECOND, SECOND))
    with pytest.raises(TurnStateError):
        open_for_answer(opened, epoch=2, mode=Mode.GPT, completion_id=None, now=kit.start, patience=SECOND)


@pytest.mark.parametrize(
    ("outcome", "decision"),
    [
        (Accepted("9"), Sent("9")),
        (Paced(7 * SECOND), TryAgain(7 * SECOND, "the channel asked for a pause")),
        (Refused("blocked"), GiveUp("blocked")),
        (NotTaken("no route"), TryAgain(RULES.first_wait * 4, "no route")),
        (Unsure("timeout"), TryAgain(RULES.first_wait * 4, "timeout", ambiguous=True)),
    ],
)
def test_each_answer_of_the_channel_has_its_consequence(outcome: Any, decision: Any) -> None:
    assert after_try(outcome, attempts=3, age=SECOND, rules=RULES) == decision


def test_a_pause_never_ends_in_giving_up_and_an_outage_of_a_day_does() -> None:
    old = RULES.give_up_after
    assert isinstance(after_try(Paced(SECOND), attempts=9, age=old, rules=RULES), TryAgain)
    assert isinstance(after_try(NotTaken("x"), attempts=9, age=old, rules=RULES), GiveUp)


def test_waits_between_tries_stay_below_the_longest() -> None:
    decision = after_try(NotTaken("x"), attempts=1_000, age=SECOND, rules=RULES)
    assert decision == TryAgain(RULES.longest_wait, "x")


def test_a_prompt_holds_the_latest_history_that_fits_and_every_pending_line() -> None:
    earlier = [Line("user" if i % 2 == 0 else "assistant", f"line {i}") for i in range(10)]
    pending = [Line("user", "one" * 100), Line("user", "two")]
    lines = assemble("be kind", earlier, pending, HistoryBounds(lines=5, characters=1_000))
    assert lines[0] == Line("system", "be kind")
    assert list(lines[1:-2]) == earlier[6:]
    assert list(lines[-2:]) == pending
    assert assemble(" ", earlier, pending, HistoryBounds(lines=0)) == tuple(pending)
    assert assemble("", earlier, pending, HistoryBounds(characters=0)) == tuple(pending)


def test_an_audit_entry_shows_that_a_secret_changed_and_never_which(kit: Any) -> None:
    before = kit.bot()
    after = changed(before, kit.start, telegram_token=Sealed("k", b"sealed"), name="new")
    assert difference(before, after) == (
        {"name": "bot", "telegram_token": None},
        {"name": "new", "telegram_token": "set"},
    )
    assert "sealed" not in repr(after)
    assert shown(after)["telegram_token"] == "set"


@pytest.mark.parametrize(
    "fields", [{"name": " "}, {"fallback_text": ""}, {"max_tokens": 0}, {"webhook_secret": Sealed("k", b"x")}]
)
def test_settings_that_can_not_work_are_refused(kit: Any, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidBotError):
        changed(kit.bot(), kit.start, **fields)
