"""A bot: what its owner wants, and what we observe of it."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from kairos_bots.domain.errors import InvalidBotError


class Mode(StrEnum):
    MANUAL = "manual"
    GPT = "gpt"
    HYBRID = "hybrid"


class DesiredState(StrEnum):
    RUNNING = "running"
    STOPPED = "stopped"


class ObservedState(StrEnum):
    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    DEGRADED = "degraded"
    QUARANTINED = "quarantined"
    ERROR = "error"


class TelegramUpdates(StrEnum):
    """How updates reach us: Telegram calls our webhook, or one elected replica asks for them."""

    WEBHOOK = "webhook"
    POLLING = "polling"


@dataclass(frozen=True)
class Sealed:
    """A secret encrypted at rest; `key_id` names the key that opens it."""

    key_id: str
    ciphertext: bytes = field(repr=False)


@dataclass(frozen=True)
class Bot:
    """`version` grows with every change; `applied_version` is the one the channel knows about."""

    id: UUID
    organisation_id: UUID
    name: str
    mode: Mode
    model: str
    system_prompt: str
    fallback_text: str
    max_tokens: int
    web_enabled: bool
    desired_state: DesiredState
    observed_state: ObservedState
    observed_reason: str
    observed_at: datetime
    created_at: datetime
    updated_at: datetime
    project_id: UUID | None = None
    telegram_updates: TelegramUpdates = TelegramUpdates.WEBHOOK
    telegram_token: Sealed | None = None
    webhook_secret: Sealed | None = None
    version: int = 1
    applied_version: int = 0
    deleted_at: datetime | None = None

    def accepts_telegram(self) -> bool:
        return self.telegram_token is not None and self.deleted_at is None

    def wants_to_run(self) -> bool:
        return self.desired_state is DesiredState.RUNNING and self.deleted_at is None


def changed(bot: Bot, now: datetime, **fields: object) -> Bot:
    """The bot with new settings and a new version. Raises InvalidBotError."""
    after = replace(bot, **fields, version=bot.version + 1, updated_at=now)  # type: ignore[arg-type] # the caller checked the names
    check(after)
    return after


def check(bot: Bot) -> None:
    """Refuse settings that can't work. Raises InvalidBotError."""
    if not bot.name.strip():
        raise InvalidBotError("a bot needs a name")
    if not bot.fallback_text.strip():
        raise InvalidBotError("a bot needs a fallback text for when the model can't answer")
    if bot.max_tokens < 1:
        raise InvalidBotError("max_tokens is at least 1")
    if bot.webhook_secret is not None and bot.telegram_token is None:
        raise InvalidBotError("a webhook secret without a Telegram token has no use")


def observed(bot: Bot, state: ObservedState, reason: str, now: datetime) -> Bot:
    return replace(bot, observed_state=state, observed_reason=reason, observed_at=now)


def first_observation(desired: DesiredState) -> ObservedState:
    return ObservedState.STARTING if desired is DesiredState.RUNNING else ObservedState.STOPPED


SECRET_FIELDS = frozenset({"telegram_token", "webhook_secret"})
AUDITED_FIELDS = (
    "name",
    "project_id",
    "mode",
    "model",
    "system_prompt",
    "fallback_text",
    "max_tokens",
    "web_enabled",
    "telegram_updates",
    "desired_state",
    "telegram_token",
    "webhook_secret",
)


def difference(before: Bot, after: Bot) -> tuple[dict[str, object], dict[str, object]]:
    """Changed fields before and after, as an audit entry may show them: a secret only as set or not set."""
    names = [name for name in AUDITED_FIELDS if getattr(before, name) != getattr(after, name)]
    return {name: _shown(before, name) for name in names}, {name: _shown(after, name) for name in names}


def shown(bot: Bot) -> dict[str, object]:
    """Every audited field of a bot, without its secrets."""
    return {name: _shown(bot, name) for name in AUDITED_FIELDS}


def _shown(bot: Bot, name: str) -> object:
    value = getattr(bot, name)
    if name in SECRET_FIELDS:
        return "set" if value is not None else None
    return str(value) if isinstance(value, UUID) else value
