"""The stores in memory: the same behaviour as PostgreSQL's for one caller at a time."""

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest

from kairos_bots.domain.bot import Bot, DesiredState, Mode, ObservedState
from kairos_bots.domain.conversation import Conversation, Direction, HeldTurn, Reply, StoredMessage
from kairos_bots.domain.errors import BotUnknownError
from kairos_bots.domain.identity import contact_id, conversation_id
from kairos_bots.domain.turn import Turn, TurnState, reopen
from kairos_contracts.conversation.v1 import MessageReceivedV1
from kairos_contracts.message import Message

T = TypeVar("T")
START = datetime(2026, 11, 1, 12, tzinfo=UTC)
ORGANISATION = UUID("00000000-0000-4000-8000-0000000000aa")
IN_FLIGHT = {TurnState.ANSWERING, TurnState.REOPENED}


@dataclass
class Tables:
    bots: dict[UUID, Bot] = field(default_factory=dict)
    conversations: dict[UUID, Conversation] = field(default_factory=dict)
    messages: dict[UUID, StoredMessage] = field(default_factory=dict)
    turns: dict[UUID, Turn] = field(default_factory=dict)
    replies: dict[UUID, dict[str, Any]] = field(default_factory=dict)
    inbox: set[tuple[str, UUID]] = field(default_factory=set)
    events: list[Message] = field(default_factory=list)

    def snapshot(self) -> "Tables":
        return Tables(**{each.name: copy(getattr(self, each.name)) for each in fields(self)})


@dataclass
class MemoryWorks:
    """Transactions over dictionaries; `clock` is the database's."""

    tables: Tables = field(default_factory=Tables)
    clock: datetime = START

    def advance(self, by: timedelta) -> None:
        self.clock += by

    @asynccontextmanager
    async def system(self) -> AsyncIterator["MemoryWork"]:
        before = self.tables.snapshot()
        work = MemoryWork(self)
        try:
            yield work
        except BaseException:
            self.tables = before
            raise
        for callback in work.callbacks:
            callback()

    def tenant(self, organisation_id: UUID) -> Any:
        return self.system()

    def sorted_messages(self, conversation: UUID) -> list[StoredMessage]:
        found = [m for m in self.tables.messages.values() if m.conversation_id == conversation]
        return sorted(found, key=lambda message: message.sequence)


class MemoryWork:
    """Every store at once: their method names do not clash in what the use cases call."""

    def __init__(self, works: MemoryWorks) -> None:
        self.works = works
        self.callbacks: list[Callable[[], None]] = []
        self.bots: Any = MemoryBots(works)
        self.conversations: Any = MemoryConversations(works)
        self.messages: Any = MemoryMessages(works)
        self.turns: Any = MemoryTurns(works)
        self.replies: Any = MemoryReplies(works)

    async def now(self) -> datetime:
        return self.works.clock

    async def first_time(self, consumer: str, message_id: UUID) -> bool:
        key = (consumer, message_id)
        if key in self.works.tables.inbox:
            return False
        self.works.tables.inbox.add(key)
        return True

    def emit(self, message: Message, **_: Any) -> UUID:
        self.works.tables.events.append(message)
        return uuid4()

    def after_commit(self, callback: Callable[[], None]) -> None:
        self.callbacks.append(callback)


@dataclass
class MemoryBots:
    works: MemoryWorks

    async def add(self, bot: Bot) -> None:
        self.works.tables.bots[bot.id] = bot

    save = add

    async def get(self, bot_id: UUID, *, lock: bool = False) -> Bot | None:
        bot = self.works.tables.bots.get(bot_id)
        return None if bot is None or bot.deleted_at else bot

    async def applied(self, bot: Bot, *, webhook_base: str | None = None) -> bool:
        if self.works.tables.bots[bot.id].version != bot.version:
            return False
        self.works.tables.bots[bot.id] = replace(bot, applied_version=bot.version)
        return True

    async def retry_later(self, bot: Bot, wait: timedelta) -> bool:
        if self.works.tables.bots[bot.id].version != bot.version:
            return False
        self.works.tables.bots[bot.id] = bot
        return True

    async def apply_again(self, bot_id: UUID) -> None:
        self.works.tables.bots[bot_id] = replace(self.works.tables.bots[bot_id], applied_version=0)


@dataclass
class MemoryConversations:
    works: MemoryWorks

    async def take_sequence(self, message: MessageReceivedV1, organisation_id: UUID) -> Conversation:
        if message.bot_id not in self.works.tables.bots:
            raise BotUnknownError(message.bot_id)
        identity = conversation_id(message.bot_id, message.channel, message.external_chat_id)
        known = self.works.tables.conversations.get(identity) or Conversation(
            id=identity,
            organisation_id=organisation_id,
            bot_id=message.bot_id,
            channel=message.channel,
            external_chat_id=message.external_chat_id,
            contact_id=contact_id(message.bot_id, message.channel, message.contact_external_id),
            last_sequence=0,
            epoch=0,
            created_at=self.works.clock,
        )
        taken = replace(known, last_sequence=known.last_sequence + 1)
        self.works.tables.conversations[identity] = taken
        return taken

    async def save(self, conversation: Conversation) -> None:
        self.works.tables.conversations[conversation.id] = conversation

    async def get(self, identity: UUID) -> Conversation | None:
        return self.works.tables.conversations.get(identity)


@dataclass
class MemoryMessages:
    works: MemoryWorks

    async def add(self, message: StoredMessage) -> None:
        assert message.id not in self.works.tables.messages
        self.works.tables.messages[message.id] = message

    async def of_turn(self, turn: Turn) -> Sequence[StoredMessage]:
        found = [
            m
            for m in self.works.tables.messages.values()
            if m.turn_id == turn.id and m.direction is Direction.IN
        ]
        return sorted(found, key=lambda message: (message.order, message.sequence))

    async def before(self, conversation: UUID, sequence: int, limit: int) -> Sequence[StoredMessage]:
        return [m for m in self.works.sorted_messages(conversation) if m.sequence < sequence][-limit:]

    async def after(self, conversation: UUID, sequence: int, limit: int) -> Sequence[StoredMessage]:
        return [m for m in self.works.sorted_messages(conversation) if m.sequence > sequence][:limit]


@dataclass
class MemoryTurns:
    works: MemoryWorks

    def _of(self, conversation: UUID, states: set[TurnState]) -> list[Turn]:
        turns = self.works.tables.turns.values()
        return [turn for turn in turns if turn.conversation_id == conversation and turn.state in states]

    async def collecting(self, conversation: UUID) -> Turn | None:
        return next(iter(self._of(conversation, {TurnState.COLLECTING})), None)

    async def save(self, turn: Turn) -> None:
        self.works.tables.turns[turn.id] = turn
        assert len(self._of(turn.conversation_id, {TurnState.COLLECTING})) <= 1
        assert len(self._of(turn.conversation_id, IN_FLIGHT)) <= 1

    def _held(self, turn: Turn) -> HeldTurn:
        tables = self.works.tables
        return HeldTurn(
            turn, tables.conversations[turn.conversation_id], tables.bots[turn.bot_id], self.works.clock
        )

    async def hold_due(self) -> HeldTurn | None:
        due = [
            turn
            for turn in self.works.tables.turns.values()
            if turn.due_at <= self.works.clock
            and self.works.tables.bots[turn.bot_id].wants_to_run()
            and (
                turn.state is TurnState.REOPENED
                or (turn.state is TurnState.COLLECTING and not self._of(turn.conversation_id, IN_FLIGHT))
            )
        ]
        return self._held(min(due, key=lambda turn: turn.due_at)) if due else None

    async def hold_overdue(self) -> HeldTurn | None:
        for turn in self.works.tables.turns.values():
            if (
                turn.state is TurnState.ANSWERING
                and turn.deadline_at
                and turn.deadline_at <= self.works.clock
            ):
                return self._held(turn)
        return None

    async def hold(self, conversation: UUID, turn_id: UUID) -> HeldTurn | None:
        turn = self.works.tables.turns.get(turn_id)
        return None if turn is None or turn.conversation_id != conversation else self._held(turn)

    async def reopen_of_bot(self, bot_id: UUID) -> int:
        found = [
            turn
            for turn in self.works.tables.turns.values()
            if turn.bot_id == bot_id and turn.state is TurnState.ANSWERING
        ]
        for turn in found:
            self.works.tables.turns[turn.id] = reopen(turn, self.works.clock)
        return len(found)

    async def count_open(self) -> int:
        return sum(turn.state is not TurnState.ANSWERED for turn in self.works.tables.turns.values())


@dataclass
class MemoryReplies:
    works: MemoryWorks

    @property
    def _rows(self) -> dict[UUID, dict[str, Any]]:
        return self.works.tables.replies

    async def add(self, reply: Reply) -> None:
        self._rows[reply.id] = {"reply": reply, "not_before": self.works.clock, "claimed_until": None}

    async def hold_ready(self, limit: int) -> Sequence[Reply]:
        now = self.works.clock
        ready = []
        for row in sorted(self._rows.values(), key=lambda row: row["not_before"]):
            reply: Reply = row["reply"]
            first = min(
                other["reply"].sequence
                for other in self._rows.values()
                if other["reply"].conversation_id == reply.conversation_id
            )
            free = row["claimed_until"] is None or row["claimed_until"] <= now
            if reply.sequence == first and free and row["not_before"] <= now:
                ready.append(reply)
        return ready[:limit]

    async def start(self, reply: Reply, token: UUID, lease: timedelta) -> Reply:
        started = replace(
            reply,
            attempts=reply.attempts + 1,
            ambiguous=reply.ambiguous + reply.was_sending,
            claim_token=token,
        )
        self._rows[reply.id] |= {
            "reply": replace(started, was_sending=True),
            "claimed_until": self.works.clock + lease,
        }
        return started

    async def postpone(self, reply: Reply, wait: timedelta) -> None:
        self._rows[reply.id]["not_before"] = self.works.clock + wait

    async def owns(self, reply: Reply) -> bool:
        row = self._rows.get(reply.id)
        return row is not None and row["reply"].claim_token == reply.claim_token

    async def finish(
        self, reply: Reply, *, delivery: str, external_message_id: str | None, error: str | None
    ) -> datetime:
        del self._rows[reply.id]
        self.works.tables.messages[reply.id] = replace(
            self.works.tables.messages[reply.id],
            delivery=delivery,
            external_message_id=external_message_id,
            error=error,
            attempts=reply.attempts,
            ambiguous=reply.ambiguous,
        )
        return self.works.clock

    async def try_again(self, reply: Reply, wait: timedelta, reason: str, *, ambiguous: bool) -> None:
        pending = replace(reply, ambiguous=reply.ambiguous + ambiguous, claim_token=None, was_sending=False)
        self._rows[reply.id] = {
            "reply": pending,
            "not_before": self.works.clock + wait,
            "claimed_until": None,
        }


@dataclass
class RecordedWakeUps:
    turns: list[timedelta] = field(default_factory=list)
    replies: list[timedelta] = field(default_factory=list)
    bots: int = 0

    def turn_due(self, wait: timedelta = timedelta(0)) -> None:
        self.turns.append(wait)

    def reply_ready(self, wait: timedelta = timedelta(0)) -> None:
        self.replies.append(wait)

    def bot_changed(self, bot_id: UUID) -> None:
        self.bots += 1


def new_bot(**changes: Any) -> Bot:
    values: dict[str, Any] = {
        "id": uuid4(),
        "organisation_id": ORGANISATION,
        "name": "bot",
        "mode": Mode.GPT,
        "model": "simulator",
        "system_prompt": "be kind",
        "fallback_text": "fallback",
        "max_tokens": 100,
        "web_enabled": True,
        "desired_state": DesiredState.RUNNING,
        "observed_state": ObservedState.RUNNING,
        "observed_reason": "",
        "observed_at": START,
        "created_at": START,
        "updated_at": START,
    }
    return Bot(**(values | changes))


def new_message(bot: Bot, **changes: Any) -> MessageReceivedV1:
    values: dict[str, Any] = {
        "bot_id": bot.id,
        "channel": "telegram",
        "external_update_id": "1",
        "external_chat_id": "7",
        "external_message_id": "1",
        "order": 1,
        "contact_external_id": "7",
        "text": "hello",
        "sent_at": START,
    }
    return MessageReceivedV1(**(values | changes))


def run_now(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never has to wait."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("the coroutine waited for something")


class Kit:
    """What tests of use cases build on; test modules can't import one another."""

    Works = MemoryWorks
    Wakes = RecordedWakeUps
    bot = staticmethod(new_bot)
    message = staticmethod(new_message)
    run = staticmethod(run_now)
    start = START
    organisation = ORGANISATION


@pytest.fixture(scope="session")
def kit() -> Kit:
    return Kit()
