"""Turns: one answer to one or more messages.

A conversation has at most one turn that collects messages and at most one that is being answered.
Opening a turn gives it the conversation's next epoch; an answer counts only when it names the epoch
of the turn that still waits for it. So an answer that comes late, twice, or after somebody else took
over is fenced off, whichever replica handles it.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from kairos_bots.domain.bot import Mode


class TurnState(StrEnum):
    COLLECTING = "collecting"
    ANSWERING = "answering"
    REOPENED = "reopened"
    ANSWERED = "answered"


class Source(StrEnum):
    MODEL = "model"
    CANNED = "canned"
    DEFAULT = "default"
    PERSON = "person"


@dataclass(frozen=True)
class QuietWindow:
    """How long a turn waits for another message: `pause` after each, never longer than `longest` in all."""

    pause: timedelta
    longest: timedelta


@dataclass(frozen=True)
class Turn:
    id: UUID
    organisation_id: UUID
    conversation_id: UUID
    bot_id: UUID
    channel: str
    state: TurnState
    created_at: datetime
    due_at: datetime
    epoch: int = 0
    message_count: int = 0
    mode: Mode | None = None
    completion_id: UUID | None = None
    opened_at: datetime | None = None
    deadline_at: datetime | None = None
    answered_at: datetime | None = None
    source: Source | None = None
    traceparent: str | None = None


class TurnStateError(RuntimeError):
    """The turn is not in the state this step starts from."""


def collect(turn: Turn, now: datetime, window: QuietWindow) -> Turn:
    """One more message joins a collecting turn, which waits a little longer for the next."""
    if turn.state is not TurnState.COLLECTING:
        raise TurnStateError(f"turn {turn.id} is {turn.state}")
    due_at = min(now + window.pause, turn.created_at + window.longest)
    return replace(turn, message_count=turn.message_count + 1, due_at=due_at)


def open_for_answer(
    turn: Turn, *, epoch: int, mode: Mode, completion_id: UUID | None, now: datetime, patience: timedelta
) -> Turn:
    """The turn stops collecting and waits for its answer under a new epoch until `now + patience`."""
    if turn.state not in {TurnState.COLLECTING, TurnState.REOPENED}:
        raise TurnStateError(f"turn {turn.id} is {turn.state}")
    if epoch <= turn.epoch:
        raise TurnStateError(f"epoch {epoch} does not follow {turn.epoch}")
    return replace(
        turn,
        state=TurnState.ANSWERING,
        epoch=epoch,
        mode=mode,
        completion_id=completion_id,
        opened_at=now,
        deadline_at=now + patience,
    )


def reopen(turn: Turn, now: datetime) -> Turn:
    """The answer in flight is no longer wanted (the mode changed, a replica took over): ask anew."""
    if turn.state is not TurnState.ANSWERING:
        raise TurnStateError(f"turn {turn.id} is {turn.state}")
    return replace(turn, state=TurnState.REOPENED, due_at=now)


def may_answer(turn: Turn, *, epoch: int, completion_id: UUID | None) -> bool:
    """Whether an answer made under `epoch` is still the one this turn waits for."""
    return turn.state is TurnState.ANSWERING and turn.epoch == epoch and turn.completion_id == completion_id


def answered(turn: Turn, source: Source, now: datetime) -> Turn:
    if turn.state is not TurnState.ANSWERING:
        raise TurnStateError(f"turn {turn.id} is {turn.state}")
    return replace(turn, state=TurnState.ANSWERED, source=source, answered_at=now)
