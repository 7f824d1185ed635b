"""A turn that waited for its answer long enough is answered with the bot's fallback text."""

from kairos_bots.application.answer_turn import Answer, answer_turn
from kairos_bots.application.ports import WakeUps, Work
from kairos_bots.domain.conversation import HeldTurn
from kairos_bots.domain.turn import Source


async def expire_turn(work: Work, held: HeldTurn, *, wakes: WakeUps, traceparent: str | None) -> None:
    answer = Answer(
        held.bot.fallback_text,
        Source.DEFAULT,
        completion_id=held.turn.completion_id,
        traceparent=traceparent,
    )
    await answer_turn(work, held, answer, wakes=wakes)
