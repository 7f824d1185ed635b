"""Replies leave in order, one at a time per conversation, within the channel's limits.

Three steps, because a network call never sits in a transaction: claim with the intent recorded,
call the channel, record the result. The gap between the first and the last is the only place where a
crash leaves a reply of which nobody knows whether it was taken; see docs/decisions/0007.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal
from uuid import UUID

from kairos_bots.application.ports import Cipher, RateGovernor, Telegram, WakeUps, Work
from kairos_bots.application.secrets import usable_token_of
from kairos_bots.domain.conversation import Reply
from kairos_bots.domain.delivery import (
    GiveUp,
    NotTaken,
    Refused,
    RetryRules,
    SendOutcome,
    Sent,
    TryAgain,
    after_try,
)
from kairos_contracts.conversation.v1 import ReplyFailedV1, ReplySentV1

Recorded = Literal["sent", "retried", "ambiguous", "paused", "failed", "stale"]


@dataclass(frozen=True)
class ClaimedReply:
    """`bot_gone`: the bot was deleted, so nobody may speak in its name any more."""

    reply: Reply
    token: str | None = field(repr=False)
    bot_gone: bool = False


async def claim_replies(
    work: Work,
    *,
    limit: int,
    lease: timedelta,
    governor: RateGovernor,
    claim_token: UUID,
    cipher: Cipher,
    wakes: WakeUps,
    under_way: Collection[UUID] = (),
) -> Sequence[ClaimedReply]:
    """Claim what may be sent now. A reply the governor holds back waits in the store, not in this process.

    `under_way` are the replies this sender is still at: however late it is, it does not overtake itself.
    """
    claimed = []
    for reply in await work.replies.hold_ready(limit):
        if reply.id in under_way:
            continue
        wait = await governor.admit(reply.bot_id, reply.external_chat_id)
        if wait > timedelta(0):
            await work.replies.postpone(reply, wait)
            work.after_commit(lambda wait=wait: wakes.reply_ready(wait))  # type: ignore[misc] # mypy infers no type for a default
            continue
        bot = await work.bots.get(reply.bot_id)
        started = await work.replies.start(reply, claim_token, lease)
        token = usable_token_of(bot, cipher) if bot is not None else None
        claimed.append(ClaimedReply(started, token, bot_gone=bot is None))
    return claimed


async def send_reply(claimed: ClaimedReply, telegram: Telegram) -> SendOutcome:
    if claimed.bot_gone:
        return Refused("the bot was deleted")
    if claimed.token is None:
        return NotTaken("the bot has no usable Telegram token", credential=True)
    return await telegram.send_text(claimed.token, claimed.reply.external_chat_id, claimed.reply.text)


async def record_try(
    work: Work, reply: Reply, outcome: SendOutcome, *, rules: RetryRules, wakes: WakeUps
) -> Recorded:
    """`stale`: the claim ran out meanwhile and another sender has the reply; nothing is recorded here."""
    if not await work.replies.owns(reply):
        return "stale"
    age = await work.now() - reply.created_at
    match after_try(outcome, attempts=reply.attempts, age=age, rules=rules):
        case Sent(external_message_id):
            await _record_sent(work, reply, external_message_id)
            work.after_commit(wakes.reply_ready)
            return "sent"
        case GiveUp(reason):
            await _record_failed(work, reply, reason)
            work.after_commit(wakes.reply_ready)
            return "failed"
        case TryAgain(wait, reason, ambiguous):
            await work.replies.try_again(reply, wait, reason, ambiguous=ambiguous)
            work.after_commit(lambda: wakes.reply_ready(wait))
            if ambiguous:
                return "ambiguous"
            return "retried" if isinstance(outcome, NotTaken) else "paused"


async def _record_sent(work: Work, reply: Reply, external_message_id: str) -> None:
    sent_at = await work.replies.finish(
        reply, delivery="sent", external_message_id=external_message_id, error=None
    )
    work.emit(
        ReplySentV1(
            message_id=reply.id,
            turn_id=reply.turn_id,
            conversation_id=reply.conversation_id,
            bot_id=reply.bot_id,
            channel=reply.channel,
            sequence=reply.sequence,
            external_message_id=external_message_id,
            text=reply.text,
            sent_at=sent_at,
            attempts=reply.attempts,
        ),
        organisation_id=reply.organisation_id,
    )


async def _record_failed(work: Work, reply: Reply, reason: str) -> None:
    await work.replies.finish(reply, delivery="failed", external_message_id=None, error=reason)
    work.emit(
        ReplyFailedV1(
            message_id=reply.id,
            turn_id=reply.turn_id,
            conversation_id=reply.conversation_id,
            bot_id=reply.bot_id,
            channel=reply.channel,
            reason=reason,
            attempts=reply.attempts,
        ),
        organisation_id=reply.organisation_id,
    )
