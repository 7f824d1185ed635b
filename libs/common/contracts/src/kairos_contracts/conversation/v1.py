"""Messages owned by bot-worker: bots, conversations, turns and replies."""

from typing import ClassVar, Literal
from uuid import UUID

from pydantic import Field

from kairos_contracts.message import AwareTime, Event, NanoUSD

Channel = Literal["telegram", "web"]
Mode = Literal["manual", "gpt", "hybrid"]
AnswerSource = Literal["model", "canned", "default", "person"]


class MessageReceivedV1(Event):
    """A contact's message, accepted from a channel before the channel got its 200.

    `external_update_id` deduplicates per bot; it is a set, not a sequence. `order` sorts the
    messages of one chat (Telegram: message id; web: the client's sequence).
    """

    TYPE: ClassVar[str] = "conversation.message.received.v1"
    bot_id: UUID
    channel: Channel
    external_update_id: str
    external_chat_id: str
    external_message_id: str
    order: int
    contact_external_id: str
    contact_display_name: str = ""
    language: str | None = None
    text: str = Field(max_length=16_384)
    sent_at: AwareTime

    def aggregate_id(self) -> str:
        return f"{self.bot_id}:{self.channel}:{self.external_chat_id}"


class TurnOpenedV1(Event):
    """A turn took all pending messages of its conversation and is being answered."""

    TYPE: ClassVar[str] = "conversation.turn.opened.v1"
    turn_id: UUID
    conversation_id: UUID
    bot_id: UUID
    channel: Channel
    epoch: int
    message_count: int
    mode: Mode

    def aggregate_id(self) -> str:
        return str(self.conversation_id)


class TurnAnsweredV1(Event):
    """A turn has its reply stored; `source` tells who answered and `cost_nano_usd` what it cost."""

    TYPE: ClassVar[str] = "conversation.turn.answered.v1"
    turn_id: UUID
    conversation_id: UUID
    bot_id: UUID
    channel: Channel
    epoch: int
    source: AnswerSource
    completion_id: UUID | None = None
    model: str | None = None
    cost_nano_usd: NanoUSD = 0
    latency_ms: int

    def aggregate_id(self) -> str:
        return str(self.conversation_id)


class ReplySentV1(Event):
    """The channel accepted a reply. `text` lets web chats push it to the page that waits for it."""

    TYPE: ClassVar[str] = "conversation.reply.sent.v1"
    message_id: UUID
    turn_id: UUID
    conversation_id: UUID
    bot_id: UUID
    channel: Channel
    sequence: int
    external_message_id: str
    text: str
    sent_at: AwareTime
    attempts: int

    def aggregate_id(self) -> str:
        return str(self.conversation_id)


class ReplyFailedV1(Event):
    """The channel refused a reply for good (blocked by the contact, chat gone)."""

    TYPE: ClassVar[str] = "conversation.reply.failed.v1"
    message_id: UUID
    turn_id: UUID
    conversation_id: UUID
    bot_id: UUID
    channel: Channel
    reason: str
    attempts: int

    def aggregate_id(self) -> str:
        return str(self.conversation_id)


BotState = Literal["stopped", "starting", "running", "degraded", "quarantined", "error"]


class BotLifecycleChangedV1(Event):
    """The observed state of a bot changed."""

    TYPE: ClassVar[str] = "bot.lifecycle.changed.v1"
    bot_id: UUID
    name: str
    from_state: BotState | None
    to_state: BotState
    reason: str

    def aggregate_id(self) -> str:
        return str(self.bot_id)
