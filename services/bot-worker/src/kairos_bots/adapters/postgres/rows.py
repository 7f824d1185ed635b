"""Rows to domain objects and back."""

from typing import Any, Protocol

from kairos_bots.domain.bot import Bot, DesiredState, Mode, ObservedState, Sealed, TelegramUpdates
from kairos_bots.domain.conversation import Conversation, Direction, Reply, StoredMessage
from kairos_bots.domain.turn import Source, Turn, TurnState


class Row(Protocol):
    """One result row by column name."""

    def __getitem__(self, key: str, /) -> Any: ...


_BOT_PLAIN = (
    "id",
    "organisation_id",
    "project_id",
    "name",
    "model",
    "system_prompt",
    "fallback_text",
    "max_tokens",
    "web_enabled",
    "observed_reason",
    "observed_at",
    "version",
    "applied_version",
    "created_at",
    "updated_at",
    "deleted_at",
)
_BOT_NAMED = ("mode", "telegram_updates", "desired_state", "observed_state")
_SECRETS = ("telegram_token", "webhook_secret")


def bot_of(row: Row, prefix: str = "") -> Bot:
    return Bot(
        **{name: row[prefix + name] for name in _BOT_PLAIN},
        telegram_token=_sealed(row, prefix + "telegram_token"),
        webhook_secret=_sealed(row, prefix + "webhook_secret"),
        mode=Mode(row[prefix + "mode"]),
        telegram_updates=TelegramUpdates(row[prefix + "telegram_updates"]),
        desired_state=DesiredState(row[prefix + "desired_state"]),
        observed_state=ObservedState(row[prefix + "observed_state"]),
    )


def bot_values(bot: Bot) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(bot, name) for name in _BOT_PLAIN}
    values |= {name: str(getattr(bot, name)) for name in _BOT_NAMED}
    for name in _SECRETS:
        sealed: Sealed | None = getattr(bot, name)
        values[f"{name}_key_id"] = sealed.key_id if sealed else None
        values[f"{name}_ciphertext"] = sealed.ciphertext if sealed else None
    return values


def _sealed(row: Row, name: str) -> Sealed | None:
    ciphertext = row[f"{name}_ciphertext"]
    return None if ciphertext is None else Sealed(row[f"{name}_key_id"], bytes(ciphertext))


_CONVERSATION = (
    "id",
    "organisation_id",
    "bot_id",
    "contact_id",
    "channel",
    "external_chat_id",
    "last_sequence",
    "epoch",
    "created_at",
)


def conversation_of(row: Row, prefix: str = "") -> Conversation:
    return Conversation(**{name: row[prefix + name] for name in _CONVERSATION})


_MESSAGE_PLAIN = (
    "id",
    "organisation_id",
    "conversation_id",
    "bot_id",
    "turn_id",
    "sequence",
    "order",
    "text",
    "source",
    "external_message_id",
    "delivery",
    "attempts",
    "ambiguous",
    "error",
    "traceparent",
    "created_at",
    "sent_at",
)


def message_of(row: Row) -> StoredMessage:
    return StoredMessage(
        **{name: row[name] for name in _MESSAGE_PLAIN}, direction=Direction(row["direction"])
    )


def message_values(message: StoredMessage) -> dict[str, Any]:
    values = {name: getattr(message, name) for name in _MESSAGE_PLAIN}
    return values | {"direction": message.direction.value}


_TURN_PLAIN = (
    "id",
    "organisation_id",
    "conversation_id",
    "bot_id",
    "channel",
    "epoch",
    "message_count",
    "completion_id",
    "traceparent",
    "created_at",
    "due_at",
    "opened_at",
    "deadline_at",
    "answered_at",
)


def turn_of(row: Row, prefix: str = "") -> Turn:
    mode, source = row[prefix + "mode"], row[prefix + "source"]
    return Turn(
        **{name: row[prefix + name] for name in _TURN_PLAIN},
        state=TurnState(row[prefix + "state"]),
        mode=None if mode is None else Mode(mode),
        source=None if source is None else Source(source),
    )


def turn_values(turn: Turn) -> dict[str, Any]:
    values = {name: getattr(turn, name) for name in _TURN_PLAIN}
    return values | {
        "state": turn.state.value,
        "mode": turn.mode.value if turn.mode else None,
        "source": turn.source.value if turn.source else None,
    }


_REPLY_PLAIN = (
    "id",
    "organisation_id",
    "conversation_id",
    "bot_id",
    "turn_id",
    "channel",
    "external_chat_id",
    "sequence",
    "text",
    "attempts",
    "ambiguous",
    "claim_token",
    "traceparent",
    "created_at",
)


def reply_of(row: Row) -> Reply:
    return Reply(**{name: row[name] for name in _REPLY_PLAIN}, was_sending=row["state"] == "sending")


def reply_values(reply: Reply) -> dict[str, Any]:
    values = {name: getattr(reply, name) for name in _REPLY_PLAIN}
    return values | {"state": "sending" if reply.was_sending else "pending"}
