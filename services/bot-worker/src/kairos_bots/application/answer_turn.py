"""A held turn gets its one answer: reply messages, their delivery, and the events about it."""

from dataclasses import dataclass, replace
from uuid import UUID

from kairos_bots.application.ports import WakeUps, Work
from kairos_bots.domain.conversation import Direction, HeldTurn, Reply, StoredMessage
from kairos_bots.domain.identity import reply_id
from kairos_bots.domain.reply import split_text
from kairos_bots.domain.turn import Source, answered
from kairos_contracts.conversation.v1 import ReplySentV1, TurnAnsweredV1

WEB = "web"
WHOLE = 1_000_000  # A web page shows a reply of any length in one piece.


@dataclass(frozen=True)
class Answer:
    text: str
    source: Source
    completion_id: UUID | None = None
    model: str | None = None
    cost_nano_usd: int = 0
    causation_id: UUID | None = None
    traceparent: str | None = None


async def answer_turn(work: Work, held: HeldTurn, answer: Answer, *, wakes: WakeUps) -> None:
    """Store the answer; a blank one is replaced by the bot's fallback text, so a contact always gets one."""
    if not answer.text.strip():
        answer = replace(answer, text=held.bot.fallback_text, source=Source.DEFAULT)
    turn = answered(held.turn, answer.source, held.now)
    on_web = turn.channel == WEB
    parts = split_text(answer.text, WHOLE) if on_web else split_text(answer.text)
    for part, text in enumerate(parts):
        message = _reply(held, answer, part, text, delivery="sent" if on_web else "pending")
        await work.messages.add(message)
        if on_web:
            _emit_sent(work, held, message, answer)
        else:
            await work.replies.add(_to_send(held, message))
    conversation = replace(held.conversation, last_sequence=held.conversation.last_sequence + len(parts))
    await work.conversations.save(conversation)
    await work.turns.save(turn)
    _emit_answered(work, held, answer)
    work.after_commit(wakes.turn_due)
    if not on_web:
        work.after_commit(wakes.reply_ready)


def _reply(held: HeldTurn, answer: Answer, part: int, text: str, *, delivery: str) -> StoredMessage:
    identity = reply_id(held.turn.id, part)
    on_web = delivery == "sent"
    return StoredMessage(
        id=identity,
        organisation_id=held.turn.organisation_id,
        conversation_id=held.conversation.id,
        bot_id=held.turn.bot_id,
        turn_id=held.turn.id,
        direction=Direction.OUT,
        sequence=held.conversation.last_sequence + part + 1,
        order=0,
        text=text,
        created_at=held.now,
        external_message_id=str(identity) if on_web else None,
        source=answer.source.value,
        delivery=delivery,
        attempts=1 if on_web else 0,
        sent_at=held.now if on_web else None,
        traceparent=answer.traceparent,
    )


def _to_send(held: HeldTurn, message: StoredMessage) -> Reply:
    return Reply(
        id=message.id,
        organisation_id=message.organisation_id,
        conversation_id=message.conversation_id,
        bot_id=message.bot_id,
        turn_id=message.turn_id,
        channel=held.turn.channel,
        external_chat_id=held.conversation.external_chat_id,
        sequence=message.sequence,
        text=message.text,
        created_at=message.created_at,
        traceparent=message.traceparent or held.turn.traceparent,
    )


def _emit_sent(work: Work, held: HeldTurn, message: StoredMessage, answer: Answer) -> None:
    """On the web channel the stored reply is the sent reply: the page reads it from us."""
    work.emit(
        ReplySentV1(
            message_id=message.id,
            turn_id=message.turn_id,
            conversation_id=message.conversation_id,
            bot_id=message.bot_id,
            channel="web",
            sequence=message.sequence,
            external_message_id=str(message.id),
            text=message.text,
            sent_at=held.now,
            attempts=1,
        ),
        organisation_id=message.organisation_id,
        causation_id=answer.causation_id,
    )


def _emit_answered(work: Work, held: HeldTurn, answer: Answer) -> None:
    turn = held.turn
    work.emit(
        TurnAnsweredV1(
            turn_id=turn.id,
            conversation_id=turn.conversation_id,
            bot_id=turn.bot_id,
            channel=turn.channel,
            epoch=turn.epoch,
            source=answer.source.value,
            completion_id=answer.completion_id,
            model=answer.model,
            cost_nano_usd=answer.cost_nano_usd,
            latency_ms=max(0, round((held.now - turn.created_at).total_seconds() * 1000)),
        ),
        organisation_id=turn.organisation_id,
        causation_id=answer.causation_id,
    )
