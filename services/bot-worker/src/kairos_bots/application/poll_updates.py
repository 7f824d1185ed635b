"""Long polling for one bot by its one leader.

The offset moves only after the broker confirmed every update below it, so an update is asked for
again after any crash; what was published already is dropped by the consumer's inbox.
"""

from datetime import timedelta

from kairos_bots.application.accept_update import publish_update
from kairos_bots.application.ports import Publisher, RegisteredBot, Telegram


async def poll_once(
    bot: RegisteredBot,
    token: str,
    offset: int | None,
    *,
    telegram: Telegram,
    publisher: Publisher,
    wait: timedelta,
) -> int | None:
    """The next offset. Raises the publisher's and Telegram's errors; the offset then stays where it was."""
    for update in await telegram.get_updates(token, offset, wait):
        await publish_update(bot, update, publisher=publisher)
        offset = update.update_id + 1
    return offset
