"""The router's word on a completion answers its turn, unless the turn has moved on."""

from typing import Literal
from uuid import UUID

from kairos_bots.application.answer_turn import Answer, answer_turn
from kairos_bots.application.ports import WakeUps, Work
from kairos_bots.domain.turn import Source, may_answer
from kairos_contracts.llm.v1 import CompletionCompletedV1, CompletionFailedV1

CONSUMER = "bot-worker.completions"
Recorded = Literal["answered", "fallback", "duplicate", "fenced"]


async def record_completion(
    work: Work,
    message: CompletionCompletedV1 | CompletionFailedV1,
    *,
    event_id: UUID,
    wakes: WakeUps,
    traceparent: str | None,
) -> Recorded:
    """`fenced`: the answer belongs to an epoch that is over; its cost stays with the completion's usage."""
    if not await work.first_time(CONSUMER, event_id):
        return "duplicate"
    held = await work.turns.hold(message.conversation_id, message.turn_id)
    if held is None or not may_answer(held.turn, epoch=message.epoch, completion_id=message.completion_id):
        return "fenced"
    if isinstance(message, CompletionCompletedV1):
        answer = Answer(
            text=message.content,
            source=Source.MODEL,
            completion_id=message.completion_id,
            model=message.model,
            cost_nano_usd=message.cost_nano_usd,
            causation_id=event_id,
            traceparent=traceparent,
        )
    else:
        answer = Answer(
            text=held.bot.fallback_text,
            source=Source.DEFAULT,
            completion_id=message.completion_id,
            causation_id=event_id,
            traceparent=traceparent,
        )
    await answer_turn(work, held, answer, wakes=wakes)
    return "answered" if answer.source is Source.MODEL else "fallback"
