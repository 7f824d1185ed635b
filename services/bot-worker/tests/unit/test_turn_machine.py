"""Turns under arbitrary interleavings: arrivals, repeats, late messages, takeovers, answers, deadlines."""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from kairos_bots.application.expire_turn import expire_turn
from kairos_bots.application.open_turn import OpeningRules, open_turn
from kairos_bots.application.receive_message import receive_message
from kairos_bots.application.record_completion import record_completion
from kairos_bots.domain.bot import Mode
from kairos_bots.domain.conversation import Direction
from kairos_bots.domain.turn import QuietWindow, TurnState
from kairos_contracts.llm.v1 import CompletionCompletedV1, CompletionFailedV1, CompletionRequestV1

WINDOW = QuietWindow(timedelta(milliseconds=300), timedelta(seconds=2))
RULES = OpeningRules(timedelta(seconds=60))
CHATS = st.sampled_from(["1", "2", "3"])


@dataclass(frozen=True)
class Arrived:
    event_id: UUID
    message: Any


def completed(request: CompletionRequestV1) -> CompletionCompletedV1:
    return CompletionCompletedV1(
        completion_id=request.completion_id,
        turn_id=request.turn_id,
        conversation_id=request.conversation_id,
        bot_id=request.bot_id,
        epoch=request.epoch,
        content=f"answer of epoch {request.epoch}",
        finish_reason="stop",
        model="m",
        deployment="d",
        input_tokens=1,
        output_tokens=1,
        cost_nano_usd=1,
        latency_ms=1,
    )


def failed(request: CompletionRequestV1) -> CompletionFailedV1:
    return CompletionFailedV1(
        completion_id=request.completion_id,
        turn_id=request.turn_id,
        conversation_id=request.conversation_id,
        bot_id=request.bot_id,
        epoch=request.epoch,
        code="budget_exceeded",
        message="no",
    )


class TurnMachine(RuleBasedStateMachine):
    kit: Any

    @initialize()
    def begin(self) -> None:
        self.works = self.kit.Works()
        self.wakes = self.kit.Wakes()
        self.bot = self.kit.bot()
        self.works.tables.bots[self.bot.id] = self.bot
        self.arrived: list[Arrived] = []
        self.answers: list[tuple[UUID, Any]] = []

    @property
    def requests(self) -> list[CompletionRequestV1]:
        return [event for event in self.works.tables.events if isinstance(event, CompletionRequestV1)]

    def _handle(self, arrived: Arrived) -> Any:
        async def handle() -> Any:
            async with self.works.system() as work:
                return await receive_message(
                    work,
                    arrived.message,
                    event_id=arrived.event_id,
                    organisation_id=self.kit.organisation,
                    window=WINDOW,
                    wakes=self.wakes,
                    traceparent=None,
                )

        return self.kit.run(handle())

    @rule(chat=CHATS, order=st.integers(0, 50))
    def arrive(self, chat: str, order: int) -> None:
        """A small order among larger ones is a message that comes late."""
        number = len(self.arrived)
        message = self.kit.message(
            self.bot,
            external_chat_id=chat,
            external_update_id=str(number),
            order=order,
            text=f"text {number}",
        )
        arrived = Arrived(uuid4(), message)
        self.arrived.append(arrived)
        assert self._handle(arrived) is not None

    @precondition(lambda self: self.arrived)
    @rule(data=st.data())
    def repeat_an_arrival(self, data: st.DataObject) -> None:
        assert self._handle(data.draw(st.sampled_from(self.arrived))) is None

    @rule(milliseconds=st.sampled_from([50, 300, 2_000, 61_000]))
    def time_passes(self, milliseconds: int) -> None:
        self.works.advance(timedelta(milliseconds=milliseconds))

    @rule()
    def open_due(self) -> None:
        self._open_due()

    def _open_due(self) -> bool:
        async def open_one() -> bool:
            async with self.works.system() as work:
                held = await work.turns.hold_due()
                if held is not None:
                    await open_turn(work, held, rules=RULES, wakes=self.wakes)
                return held is not None

        return bool(self.kit.run(open_one()))

    @rule()
    def expire_overdue(self) -> None:
        async def expire() -> None:
            async with self.works.system() as work:
                held = await work.turns.hold_overdue()
                if held is not None:
                    await expire_turn(work, held, wakes=self.wakes, traceparent=None)

        self.kit.run(expire())

    @rule(mode=st.sampled_from(list(Mode)))
    def take_over(self, mode: Mode) -> None:
        """What a change of mode does: every answer in flight is fenced off."""

        async def take() -> None:
            async with self.works.system() as work:
                await work.bots.save(replace(self.bot, mode=mode))
                await work.turns.reopen_of_bot(self.bot.id)

        self.kit.run(take())

    @precondition(lambda self: self._waiting())
    @rule(data=st.data())
    def old_epoch_answers_after_a_takeover(self, data: st.DataObject) -> None:
        """The race that fencing is for; left to chance alone it is met too seldom."""
        request = data.draw(st.sampled_from(self._waiting()))
        self.take_over(Mode.GPT)
        while self._open_due():
            pass
        assert self.works.tables.turns[request.turn_id].epoch > request.epoch
        assert self._answer(uuid4(), completed(request)) == "fenced"

    def _waiting(self) -> list[CompletionRequestV1]:
        """Requests whose answer would count now."""
        turns = self.works.tables.turns
        return [
            request
            for request in self.requests
            if turns[request.turn_id].state is TurnState.ANSWERING
            and turns[request.turn_id].epoch == request.epoch
        ]

    def _answer(self, event_id: UUID, answer: Any) -> str:
        async def record() -> str:
            async with self.works.system() as work:
                return await record_completion(
                    work, answer, event_id=event_id, wakes=self.wakes, traceparent=None
                )

        return str(self.kit.run(record()))

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), fails=st.booleans())
    def answer_any_request(self, data: st.DataObject, fails: bool) -> None:
        """Of any epoch, however old, and as often as the router likes."""
        request = data.draw(st.sampled_from(self.requests))
        answer = (uuid4(), failed(request) if fails else completed(request))
        self.answers.append(answer)
        turn = self.works.tables.turns[request.turn_id]
        waits = turn.state is TurnState.ANSWERING and turn.epoch == request.epoch
        assert (self._answer(*answer) in {"answered", "fallback"}) == waits

    @precondition(lambda self: self.answers)
    @rule(data=st.data())
    def repeat_an_answer(self, data: st.DataObject) -> None:
        assert self._answer(*data.draw(st.sampled_from(self.answers))) == "duplicate"

    @invariant()
    def every_message_is_in_exactly_one_turn(self) -> None:
        if not hasattr(self, "works"):
            return
        stored = [m for m in self.works.tables.messages.values() if m.direction is Direction.IN]
        assert {m.id for m in stored} == {each.event_id for each in self.arrived}
        counted = sum(turn.message_count for turn in self.works.tables.turns.values())
        assert counted == len(stored)
        assert all(m.turn_id in self.works.tables.turns for m in stored)

    @invariant()
    def messages_are_numbered_without_gaps(self) -> None:
        if not hasattr(self, "works"):
            return
        for conversation in self.works.tables.conversations.values():
            numbers = [m.sequence for m in self.works.sorted_messages(conversation.id)]
            assert numbers == list(range(1, conversation.last_sequence + 1))

    @invariant()
    def an_answered_turn_has_one_reply_and_no_other_has_any(self) -> None:
        if not hasattr(self, "works"):
            return
        replies = [m for m in self.works.tables.messages.values() if m.direction is Direction.OUT]
        answered = [t for t in self.works.tables.turns.values() if t.state is TurnState.ANSWERED]
        assert sorted(m.turn_id for m in replies) == sorted(t.id for t in answered)

    def teardown(self) -> None:
        """Whatever happened, in the end every message is answered, in order."""
        if not hasattr(self, "works"):
            return
        for _ in range(10 * len(self.arrived) + 10):
            self.works.advance(timedelta(seconds=3))
            while self._open_due():
                pass
            for request in self.requests:
                self._answer(uuid4(), completed(request))
        turns = self.works.tables.turns.values()
        assert all(turn.state is TurnState.ANSWERED for turn in turns)
        for conversation in self.works.tables.conversations.values():
            self._replies_follow_their_messages(conversation.id)

    def _replies_follow_their_messages(self, conversation: UUID) -> None:
        messages = self.works.sorted_messages(conversation)
        replies = [m for m in messages if m.direction is Direction.OUT]
        first_heard: list[int] = []
        for reply in replies:
            heard = [
                m.sequence for m in messages if m.turn_id == reply.turn_id and m.direction is Direction.IN
            ]
            assert max(heard) < reply.sequence
            first_heard.append(min(heard))
        assert first_heard == sorted(first_heard)


def test_turns_hold_their_promises_under_any_interleaving(kit: Any) -> None:
    machine = type("Machine", (TurnMachine,), {"kit": kit})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=120,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
