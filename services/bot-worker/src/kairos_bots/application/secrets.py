"""A bot's secrets, each bound to its bot and its purpose so that a ciphertext can't be moved."""

from uuid import UUID

from kairos_bots.application.ports import Cipher
from kairos_bots.domain.bot import Bot, Sealed
from kairos_bots.domain.errors import UnreadableSecretError

TOKEN = "telegram_token"  # noqa: S105 - the name of a purpose
WEBHOOK = "webhook_secret"


def purpose(bot_id: UUID, name: str) -> str:
    return f"{bot_id}:{name}"


def seal_token(bot_id: UUID, token: str, cipher: Cipher) -> Sealed:
    return cipher.seal(token, bound_to=purpose(bot_id, TOKEN))


def seal_webhook_secret(bot_id: UUID, secret: str, cipher: Cipher) -> Sealed:
    return cipher.seal(secret, bound_to=purpose(bot_id, WEBHOOK))


def token_of(bot: Bot, cipher: Cipher) -> str | None:
    """Raises UnreadableSecretError."""
    if bot.telegram_token is None:
        return None
    return cipher.open(bot.telegram_token, bound_to=purpose(bot.id, TOKEN))


def usable_token_of(bot: Bot, cipher: Cipher) -> str | None:
    """None also when it can't be opened: where many bots are served at once, one must not stop the others."""
    try:
        return token_of(bot, cipher)
    except UnreadableSecretError:
        return None


def webhook_secret_of(bot: Bot, cipher: Cipher) -> str | None:
    """Raises UnreadableSecretError."""
    if bot.webhook_secret is None:
        return None
    return cipher.open(bot.webhook_secret, bound_to=purpose(bot.id, WEBHOOK))
