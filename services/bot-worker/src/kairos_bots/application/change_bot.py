"""New settings for a bot, audited; every replica hears of them by the lifecycle event."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from kairos_bots.application.ports import Cipher, WakeUps, Work
from kairos_bots.application.secrets import seal_token, seal_webhook_secret
from kairos_bots.domain.bot import Bot, changed, difference
from kairos_bots.domain.errors import BotUnknownError
from kairos_contracts.audit import AuditContext
from kairos_contracts.conversation.v1 import BotLifecycleChangedV1


@dataclass(frozen=True)
class BotChange:
    """`fields` are settings by name; a secret given as None is removed, one not given stays."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    secrets: Mapping[str, str | None] = field(default_factory=dict, repr=False)


async def change_bot(
    work: Work,
    bot_id: UUID,
    change: BotChange,
    *,
    context: AuditContext,
    cipher: Cipher,
    generated_secret: str,
    wakes: WakeUps,
) -> Bot:
    """Raises BotUnknownError or InvalidBotError. A change of mode fences off the answers in flight."""
    before = await work.bots.get(bot_id, lock=True)
    if before is None:
        raise BotUnknownError(bot_id)
    fields = dict(change.fields) | _sealed(before, change, cipher, generated_secret)
    after = changed(before, await work.now(), **fields)
    was, now_is = difference(before, after)
    if not was:
        return before
    await work.bots.save(after)
    if after.mode is not before.mode and await work.turns.reopen_of_bot(bot_id):
        work.after_commit(wakes.turn_due)
    work.emit(
        context.entry("bot.updated", f"bot:{bot_id}", before=was, after=now_is),
        organisation_id=after.organisation_id,
    )
    work.emit(_announced(after), organisation_id=after.organisation_id)
    work.after_commit(lambda: wakes.bot_changed(bot_id))
    return after


def _sealed(bot: Bot, change: BotChange, cipher: Cipher, generated_secret: str) -> dict[str, object]:
    sealed: dict[str, object] = {}
    if "telegram_token" in change.secrets:
        token = change.secrets["telegram_token"]
        sealed["telegram_token"] = seal_token(bot.id, token, cipher) if token else None
        if token is None:
            return sealed | {"webhook_secret": None}
        if bot.webhook_secret is None:
            sealed["webhook_secret"] = seal_webhook_secret(bot.id, generated_secret, cipher)
    if secret := change.secrets.get("telegram_webhook_secret"):
        sealed["webhook_secret"] = seal_webhook_secret(bot.id, secret, cipher)
    return sealed


def _announced(bot: Bot) -> BotLifecycleChangedV1:
    """The settings changed and the observed state has not yet: the same state twice, for the registries."""
    return BotLifecycleChangedV1(
        bot_id=bot.id,
        name=bot.name,
        from_state=bot.observed_state.value,
        to_state=bot.observed_state.value,
        reason="settings changed",
    )
