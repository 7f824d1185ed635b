"""A due turn takes its messages and asks for its answer.

`gpt` and `hybrid` ask a model. `manual` has no person to ask yet and answers with the bot's fallback
text, its away message; candidates, people and scores come with the modes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID, uuid5

from kairos_bots.application.answer_turn import Answer, answer_turn
from kairos_bots.application.ports import WakeUps, Work
from kairos_bots.domain.bot import Mode
from kairos_bots.domain.conversation import Direction, HeldTurn, StoredMessage
from kairos_bots.domain.prompt import HistoryBounds, Line, assemble
from kairos_bots.domain.turn import Source, Turn, open_for_answer
from kairos_contracts.conversation.v1 import TurnOpenedV1
from kairos_contracts.llm.v1 import ChatMessage, CompletionRequestV1


@dataclass(frozen=True)
class OpeningRules:
    """`patience` is how long a turn waits for its model before it answers with the fallback text."""

    patience: timedelta
    history: HistoryBounds = HistoryBounds()  # noqa: RUF009 - frozen, so sharing it is safe


@dataclass(frozen=True)
class OpenedTurn:
    """`traceparents` of the messages it answers, in their order."""

    turn: Turn
    traceparents: tuple[str, ...]


async def open_turn(work: Work, held: HeldTurn, *, rules: OpeningRules, wakes: WakeUps) -> OpenedTurn:
    """The turn under its new epoch, with its answer asked for (or given, in manual mode)."""
    epoch = held.conversation.epoch + 1
    asks_model = held.bot.mode is not Mode.MANUAL
    turn = open_for_answer(
        held.turn,
        epoch=epoch,
        mode=held.bot.mode,
        completion_id=completion_id(held.turn.id, epoch) if asks_model else None,
        now=held.now,
        patience=rules.patience,
    )
    conversation = replace(held.conversation, epoch=epoch)
    held = replace(held, turn=turn, conversation=conversation)
    await work.turns.save(turn)
    await work.conversations.save(conversation)
    work.emit(
        TurnOpenedV1(
            turn_id=turn.id,
            conversation_id=conversation.id,
            bot_id=turn.bot_id,
            channel=turn.channel,
            epoch=epoch,
            message_count=turn.message_count,
            mode=held.bot.mode.value,
        ),
        organisation_id=turn.organisation_id,
    )
    pending = await work.messages.of_turn(turn)
    if asks_model:
        await _ask_model(work, held, pending, rules)
    else:
        await answer_turn(work, held, Answer(held.bot.fallback_text, Source.DEFAULT), wakes=wakes)
    return OpenedTurn(turn, tuple(m.traceparent for m in pending if m.traceparent))


async def _ask_model(
    work: Work, held: HeldTurn, pending: Sequence[StoredMessage], rules: OpeningRules
) -> None:
    turn, bot = held.turn, held.bot
    first = min((message.sequence for message in pending), default=held.conversation.last_sequence + 1)
    earlier = await work.messages.before(turn.conversation_id, first, rules.history.lines)
    lines = assemble(
        bot.system_prompt, [_line(m) for m in earlier], [_line(m) for m in pending], rules.history
    )
    work.emit(
        CompletionRequestV1(
            completion_id=turn.completion_id or completion_id(turn.id, turn.epoch),
            turn_id=turn.id,
            conversation_id=turn.conversation_id,
            bot_id=bot.id,
            epoch=turn.epoch,
            project_id=bot.project_id,
            model=bot.model,
            messages=tuple(ChatMessage(role=line.role, content=line.content) for line in lines),
            max_tokens=bot.max_tokens,
            deadline=turn.deadline_at or held.now + rules.patience,
            contact_id=held.conversation.contact_id,
            # Somebody waits for the answer: work that can wait must not take the last of a budget before it.
            priority="interactive",
        ),
        organisation_id=turn.organisation_id,
    )


def completion_id(turn_id: UUID, epoch: int) -> UUID:
    return uuid5(turn_id, f"completion:{epoch}")


def _line(message: StoredMessage) -> Line:
    return Line("user" if message.direction is Direction.IN else "assistant", message.text)
