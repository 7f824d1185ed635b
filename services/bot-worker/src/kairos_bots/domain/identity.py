"""Ids that every replica derives alike, so that a repeated message finds what the first one made."""

from uuid import UUID, uuid5


def message_event_id(bot_id: UUID, channel: str, external_update_id: str) -> UUID:
    """The id of the event about one update: a repeated webhook is dropped by the consumer's inbox."""
    return uuid5(bot_id, f"update:{channel}:{external_update_id}")


def conversation_id(bot_id: UUID, channel: str, external_chat_id: str) -> UUID:
    return uuid5(bot_id, f"conversation:{channel}:{external_chat_id}")


def contact_id(bot_id: UUID, channel: str, external_id: str) -> UUID:
    return uuid5(bot_id, f"contact:{channel}:{external_id}")


def reply_id(turn_id: UUID, part: int) -> UUID:
    """One id per part of a turn's only reply: a second reply to the same turn collides with the first."""
    return uuid5(turn_id, f"reply:{part}")
