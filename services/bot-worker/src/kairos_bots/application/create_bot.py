"""A new bot, audited in the transaction that makes it."""

from dataclasses import dataclass
from uuid import UUID, uuid4

from kairos_bots.application.ports import Cipher, WakeUps, Work
from kairos_bots.application.secrets import seal_token, seal_webhook_secret
from kairos_bots.domain.bot import Bot, DesiredState, Mode, TelegramUpdates, check, first_observation, shown
from kairos_contracts.audit import AuditContext
from kairos_contracts.conversation.v1 import BotLifecycleChangedV1


@dataclass(frozen=True)
class NewBot:
    """`telegram_token` and `telegram_webhook_secret` are stored encrypted and never shown again."""

    name: str
    mode: Mode
    model: str
    system_prompt: str
    fallback_text: str
    max_tokens: int
    web_enabled: bool
    desired_state: DesiredState
    telegram_updates: TelegramUpdates
    project_id: UUID | None = None
    telegram_token: str | None = None
    telegram_webhook_secret: str | None = None


async def create_bot(
    work: Work,
    new: NewBot,
    *,
    organisation_id: UUID,
    context: AuditContext,
    cipher: Cipher,
    generated_secret: str,
    wakes: WakeUps,
) -> Bot:
    """`generated_secret` guards the webhook when the caller brings none. Raises InvalidBotError."""
    now = await work.now()
    bot_id = uuid4()
    secret = new.telegram_webhook_secret or (generated_secret if new.telegram_token else None)
    bot = Bot(
        id=bot_id,
        organisation_id=organisation_id,
        project_id=new.project_id,
        name=new.name.strip(),
        mode=new.mode,
        model=new.model,
        system_prompt=new.system_prompt,
        fallback_text=new.fallback_text,
        max_tokens=new.max_tokens,
        web_enabled=new.web_enabled,
        desired_state=new.desired_state,
        observed_state=first_observation(new.desired_state),
        observed_reason="created",
        observed_at=now,
        telegram_updates=new.telegram_updates,
        telegram_token=seal_token(bot_id, new.telegram_token, cipher) if new.telegram_token else None,
        webhook_secret=seal_webhook_secret(bot_id, secret, cipher) if secret else None,
        created_at=now,
        updated_at=now,
    )
    check(bot)
    await work.bots.add(bot)
    work.emit(
        context.entry("bot.created", f"bot:{bot.id}", after=shown(bot)), organisation_id=organisation_id
    )
    work.emit(
        BotLifecycleChangedV1(
            bot_id=bot.id, name=bot.name, from_state=None, to_state=bot.observed_state.value, reason="created"
        ),
        organisation_id=organisation_id,
    )
    work.after_commit(lambda: wakes.bot_changed(bot.id))
    return bot
