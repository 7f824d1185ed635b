"""Make a bot's channel match its settings, and say what was observed.

Claim, call Telegram outside any transaction, record. The record counts only for the version that was
applied: settings that changed meanwhile are applied again.
"""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from kairos_bots.application.ports import (
    Cipher,
    Telegram,
    TelegramAwayError,
    TelegramRefusedError,
    WakeUps,
    Work,
)
from kairos_bots.application.secrets import token_of, webhook_secret_of
from kairos_bots.domain.bot import Bot, ObservedState, TelegramUpdates, observed
from kairos_bots.domain.errors import UnreadableSecretError
from kairos_contracts.conversation.v1 import BotLifecycleChangedV1

RETRY_AWAY = timedelta(seconds=5)
RETRY_REFUSED = timedelta(minutes=5)


@dataclass(frozen=True)
class Observation:
    """`retry` is None when the settings are applied; `webhook_base` is where a webhook was set."""

    state: ObservedState
    reason: str
    retry: timedelta | None = None
    webhook_base: str | None = None


async def apply_to_channel(
    bot: Bot, *, telegram: Telegram, cipher: Cipher, public_url: str | None
) -> Observation:
    try:
        return await _apply(bot, telegram, token_of(bot, cipher), webhook_secret_of(bot, cipher), public_url)
    except UnreadableSecretError as error:
        return Observation(ObservedState.ERROR, f"its secrets can't be read: {error}", RETRY_REFUSED)
    except TelegramAwayError as error:
        return Observation(ObservedState.DEGRADED, f"Telegram is away: {error}", RETRY_AWAY)
    except TelegramRefusedError as error:
        return Observation(ObservedState.ERROR, f"Telegram refused: {error.reason}", RETRY_REFUSED)


async def _apply(
    bot: Bot, telegram: Telegram, token: str | None, secret: str | None, public_url: str | None
) -> Observation:
    if bot.deleted_at is not None:
        if token and bot.telegram_updates is TelegramUpdates.WEBHOOK and public_url:
            await telegram.delete_webhook(token)
        return Observation(ObservedState.STOPPED, "deleted")
    if not bot.wants_to_run():
        return Observation(ObservedState.STOPPED, "stopped; messages are kept until it runs again")
    if token is None:
        return Observation(ObservedState.RUNNING, "web chat")
    if bot.telegram_updates is TelegramUpdates.POLLING:
        await telegram.delete_webhook(token)
        return Observation(ObservedState.RUNNING, "polling for updates")
    if public_url is None or secret is None:
        return Observation(ObservedState.RUNNING, "the webhook is set by hand")
    await telegram.set_webhook(token, webhook_url(public_url, bot.id), secret)
    return Observation(ObservedState.RUNNING, "webhook set", webhook_base=public_url)


def webhook_url(public_url: str, bot_id: UUID) -> str:
    return f"{public_url.rstrip('/')}/channels/telegram/{bot_id}"


async def record_observation(work: Work, bot: Bot, seen: Observation, *, wakes: WakeUps) -> bool:
    """False: the settings changed while they were applied.

    Then nobody knows which of the two calls reached Telegram last, so the newer ones are applied again.
    """
    after = observed(bot, seen.state, seen.reason, await work.now())
    stored = (
        await work.bots.applied(after, webhook_base=seen.webhook_base)
        if seen.retry is None
        else await work.bots.retry_later(after, seen.retry)
    )
    if not stored:
        await work.bots.apply_again(bot.id)
        work.after_commit(lambda: wakes.bot_changed(bot.id))
    elif bot.observed_state is not seen.state:
        work.emit(
            BotLifecycleChangedV1(
                bot_id=bot.id,
                name=bot.name,
                from_state=bot.observed_state.value,
                to_state=seen.state.value,
                reason=seen.reason,
            ),
            organisation_id=bot.organisation_id,
        )
        work.after_commit(lambda: wakes.bot_changed(bot.id))
    return stored
