"""A message that a channel accepted becomes part of its conversation and of exactly one turn."""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID, uuid4

from kairos_bots.application.ports import WakeUps, Work
from kairos_bots.domain.conversation import Conversation, Direction, StoredMessage
from kairos_bots.domain.turn import QuietWindow, Turn, TurnState, collect
from kairos_contracts.conversation.v1 import MessageReceivedV1

CONSUMER = "bot-worker.messages"


@dataclass(frozen=True)
class Received:
    conversation_id: UUID
    turn_id: UUID
    sequence: int


async def receive_message(
    work: Work,
    message: MessageReceivedV1,
    *,
    event_id: UUID,
    organisation_id: UUID,
    window: QuietWindow,
    wakes: WakeUps,
    traceparent: str | None,
) -> Received | None:
    """None when this event was handled before. Raises BotUnknownError."""
    if not await work.first_time(CONSUMER, event_id):
        return None
    conversation = await work.conversations.take_sequence(message, organisation_id)
    now = await work.now()
    turn = await work.turns.collecting(conversation.id)
    if turn is None:
        turn = Turn(
            id=uuid4(),
            organisation_id=organisation_id,
            conversation_id=conversation.id,
            bot_id=conversation.bot_id,
            channel=conversation.channel,
            state=TurnState.COLLECTING,
            created_at=now,
            due_at=now,
            traceparent=traceparent,
        )
    turn = collect(turn, now, window)
    await work.turns.save(turn)
    await work.messages.add(
        StoredMessage(
            id=event_id,
            organisation_id=organisation_id,
            conversation_id=conversation.id,
            bot_id=conversation.bot_id,
            turn_id=turn.id,
            direction=Direction.IN,
            sequence=conversation.last_sequence,
            order=message.order,
            text=message.text,
            external_message_id=message.external_message_id,
            created_at=now,
            sent_at=message.sent_at,
            traceparent=traceparent,
        )
    )
    wait = max(turn.due_at - now, timedelta(0))
    work.after_commit(lambda: wakes.turn_due(wait))
    return _received(conversation, turn)


def _received(conversation: Conversation, turn: Turn) -> Received:
    return Received(conversation_id=conversation.id, turn_id=turn.id, sequence=conversation.last_sequence)
