"""A deleted bot answers nobody; its conversations stay for the record."""

from dataclasses import replace
from uuid import UUID

from kairos_bots.application.ports import WakeUps, Work
from kairos_bots.domain.bot import Bot, ObservedState, observed, shown
from kairos_bots.domain.errors import BotUnknownError
from kairos_contracts.audit import AuditContext
from kairos_contracts.conversation.v1 import BotLifecycleChangedV1


async def delete_bot(work: Work, bot_id: UUID, *, context: AuditContext, wakes: WakeUps) -> Bot:
    """Raises BotUnknownError."""
    bot = await work.bots.get(bot_id, lock=True)
    if bot is None:
        raise BotUnknownError(bot_id)
    now = await work.now()
    gone = replace(
        observed(bot, ObservedState.STOPPED, "deleted", now),
        deleted_at=now,
        updated_at=now,
        version=bot.version + 1,
    )
    await work.bots.save(gone)
    work.emit(
        context.entry("bot.deleted", f"bot:{bot_id}", before=shown(bot)), organisation_id=bot.organisation_id
    )
    work.emit(
        BotLifecycleChangedV1(
            bot_id=bot.id,
            name=bot.name,
            from_state=bot.observed_state.value,
            to_state="stopped",
            reason="deleted",
        ),
        organisation_id=bot.organisation_id,
    )
    work.after_commit(lambda: wakes.bot_changed(bot_id))
    return bot
