"""What the use cases need from outside. Adapters implement these; tests hand in fakes."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from kairos_bots.domain.bot import Bot, ObservedState, Sealed
from kairos_bots.domain.conversation import Conversation, HeldTurn, Reply, StoredMessage
from kairos_bots.domain.delivery import SendOutcome
from kairos_bots.domain.turn import Turn
from kairos_contracts.conversation.v1 import MessageReceivedV1
from kairos_contracts.message import Message


class BotStore(Protocol):
    async def add(self, bot: Bot) -> None: ...

    async def get(self, bot_id: UUID, *, lock: bool = False) -> Bot | None:
        """One bot that is not deleted, of the scope's tenant."""

    async def save(self, bot: Bot) -> None: ...

    async def page(self, after: tuple[datetime, UUID] | None, limit: int) -> Sequence[Bot]: ...

    async def everything(self) -> Sequence[Bot]:
        """Every bot that is not deleted, of every tenant: for the registry."""

    async def claim_unapplied(self, lease: timedelta) -> Bot | None:
        """A bot whose channel does not know its latest settings, kept from other replicas for `lease`."""

    async def applied(self, bot: Bot, *, webhook_base: str | None = None) -> bool:
        """Store what was observed of this version, and where its webhook was set, if one was.

        False: the settings changed meanwhile.
        """

    async def apply_moved(self, webhook_base: str) -> None:
        """Have the webhooks that were set for another address set again."""

    async def retry_later(self, bot: Bot, wait: timedelta) -> bool:
        """Store what was observed and try the same version again after `wait`."""

    async def apply_again(self, bot_id: UUID) -> None:
        """Have the latest settings applied once more."""

    async def some(self, bot_ids: Sequence[UUID]) -> Sequence[Bot]:
        """Those of the bots that are not deleted, of every tenant."""


class ConversationStore(Protocol):
    async def take_sequence(self, message: MessageReceivedV1, organisation_id: UUID) -> Conversation:
        """Make or find contact and conversation, hold it, and number this message. Raises BotUnknownError."""

    async def save(self, conversation: Conversation) -> None: ...

    async def get(self, conversation_id: UUID) -> Conversation | None: ...

    async def of_bot(
        self, bot_id: UUID, after: tuple[datetime, UUID] | None, limit: int
    ) -> Sequence[Conversation]: ...


class MessageStore(Protocol):
    async def add(self, message: StoredMessage) -> None: ...

    async def of_turn(self, turn: Turn) -> Sequence[StoredMessage]:
        """The contact's messages of a turn in the order the contact sent them."""

    async def before(self, conversation_id: UUID, sequence: int, limit: int) -> Sequence[StoredMessage]:
        """The latest messages numbered below `sequence`, oldest first."""

    async def after(self, conversation_id: UUID, sequence: int, limit: int) -> Sequence[StoredMessage]:
        """The first messages numbered above `sequence`, oldest first."""


class TurnStore(Protocol):
    async def collecting(self, conversation_id: UUID) -> Turn | None: ...

    async def save(self, turn: Turn) -> None: ...

    async def hold_due(self) -> HeldTurn | None:
        """A reopened turn, or one whose quiet window is over and whose conversation answers nothing else.

        Held until the transaction ends; turns another transaction holds are skipped, so a dead replica
        holds nothing.
        """

    async def hold_overdue(self) -> HeldTurn | None:
        """A turn that waits for its answer beyond its deadline."""

    async def hold(self, conversation_id: UUID, turn_id: UUID) -> HeldTurn | None: ...

    async def reopen_of_bot(self, bot_id: UUID) -> int:
        """Fence off every answer in flight of a bot; its turns are asked anew."""

    async def postpone(self, turn_id: UUID, wait: timedelta) -> None:
        """Set a turn aside that can't be opened, so that the ones behind it are not held up."""

    async def count_open(self) -> int: ...


class ReplyStore(Protocol):
    async def add(self, reply: Reply) -> None: ...

    async def hold_ready(self, limit: int) -> Sequence[Reply]:
        """Replies that may be sent now: the first unfinished one of each conversation, held.

        A reply whose sender died between intent and result comes back with `was_sending`.
        """

    async def start(self, reply: Reply, token: UUID, lease: timedelta) -> Reply:
        """Record the intent to send."""

    async def renew(self, claim_tokens: Sequence[UUID], lease: timedelta) -> None:
        """Keep the claims of a sender that is alive and still at it."""

    async def postpone(self, reply: Reply, wait: timedelta) -> None: ...

    async def owns(self, reply: Reply) -> bool:
        """Whether this sender's claim still stands; holds the row when it does."""

    async def finish(
        self, reply: Reply, *, delivery: str, external_message_id: str | None, error: str | None
    ) -> datetime:
        """Move the result to the message and drop the work row. Returns the time of it."""

    async def try_again(self, reply: Reply, wait: timedelta, reason: str, *, ambiguous: bool) -> None: ...


@dataclass(frozen=True)
class PollerLease:
    bot_id: UUID
    next_offset: int | None


class PollerStore(Protocol):
    async def lead(
        self, bot: UUID, organisation_id: UUID, holder: str, lease: timedelta
    ) -> PollerLease | None:
        """Become or stay the one replica that polls for this bot; None while another one is."""

    async def advance(self, bot: UUID, holder: str, next_offset: int) -> None: ...

    async def release(self, holder: str) -> None: ...


class Work(Protocol):
    """One transaction."""

    bots: BotStore
    conversations: ConversationStore
    messages: MessageStore
    turns: TurnStore
    replies: ReplyStore
    pollers: PollerStore

    async def now(self) -> datetime:
        """The database's clock, the only one that decides about time across replicas."""

    async def first_time(self, consumer: str, message_id: UUID) -> bool: ...

    def emit(
        self,
        message: Message,
        *,
        organisation_id: UUID | None,
        causation_id: UUID | None = None,
        message_id: UUID | None = None,
    ) -> UUID: ...

    def after_commit(self, callback: Callable[[], None]) -> None: ...


class Works(Protocol):
    def tenant(self, organisation_id: UUID) -> AbstractAsyncContextManager[Work]: ...

    def system(self) -> AbstractAsyncContextManager[Work]: ...


class WakeUps(Protocol):
    """Hints to this process's workers; a lost one costs a poll interval, nothing else."""

    def turn_due(self, wait: timedelta = timedelta(0)) -> None: ...

    def reply_ready(self, wait: timedelta = timedelta(0)) -> None: ...

    def bot_changed(self, bot_id: UUID) -> None: ...


class Publisher(Protocol):
    async def publish(self, message: Message, *, organisation_id: UUID | None, message_id: UUID) -> None:
        """Returns when the broker has the message for good; raises when it may not."""


class Cipher(Protocol):
    """Encrypts secrets, each for one place; kairos_sealing does."""

    def seal(self, secret: str, *, bound_to: str) -> Sealed: ...

    def open(self, sealed: Sealed, *, bound_to: str) -> str:
        """Raises UnreadableSecretError."""


@dataclass(frozen=True)
class TelegramUpdate:
    """A parsed update. `message` is None for kinds we do not handle."""

    update_id: int
    message: "IncomingText | None"


@dataclass(frozen=True)
class IncomingText:
    chat_id: str
    message_id: int
    sender_id: str
    sender_name: str
    language: str | None
    text: str
    sent_at: datetime


class TelegramParser(Protocol):
    def parse(self, body: object) -> TelegramUpdate:
        """Raises MalformedUpdateError."""


class TelegramRefusedError(Exception):
    """Telegram refused the request; `credential` when it blames the token."""

    def __init__(self, reason: str, *, credential: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.credential = credential


class TelegramAwayError(Exception):
    """Telegram could not be reached or failed; try again later."""


class Telegram(Protocol):
    async def send_text(self, token: str, chat_id: str, text: str) -> SendOutcome: ...

    async def set_webhook(self, token: str, url: str, secret: str) -> None:
        """Raises TelegramRefusedError or TelegramAwayError."""

    async def delete_webhook(self, token: str) -> None:
        """Raises TelegramRefusedError or TelegramAwayError."""

    async def get_updates(self, token: str, offset: int | None, wait: timedelta) -> Sequence[TelegramUpdate]:
        """Raises TelegramRefusedError or TelegramAwayError."""


class RateGovernor(Protocol):
    async def admit(self, bot_id: UUID, chat_id: str) -> timedelta:
        """Zero when a message to this chat may go now (and then it counts), else how long to wait."""


@dataclass(frozen=True)
class RegisteredBot:
    """What ingress, pollers and web chat need to know without a database."""

    id: UUID
    organisation_id: UUID
    web_enabled: bool
    running: bool
    polling: bool
    observed_state: ObservedState
    webhook_secret: str | None = field(repr=False)
    telegram_token: str | None = field(repr=False)


class Registry(Protocol):
    def find(self, bot_id: UUID) -> RegisteredBot:
        """Raises BotUnknownError, or NotReadyError before the first load."""
