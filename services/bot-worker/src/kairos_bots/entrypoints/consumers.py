"""Messages from RabbitMQ: parse, call one use case, map errors."""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from kairos_bots.application.ports import WakeUps, Works
from kairos_bots.application.receive_message import receive_message
from kairos_bots.application.record_completion import record_completion
from kairos_bots.application.reply_hub import ReplyHub
from kairos_bots.domain.errors import BotUnknownError
from kairos_bots.domain.turn import QuietWindow
from kairos_contracts.auth.v1 import AccessChangedV1
from kairos_contracts.conversation.v1 import BotLifecycleChangedV1, MessageReceivedV1, ReplySentV1
from kairos_contracts.llm.v1 import CompletionCompletedV1, CompletionFailedV1
from kairos_contracts.message import Envelope, Message
from kairos_messaging import Delivery, PermanentError
from kairos_telemetry import current_traceparent, get_logger, metrics

SERVICE = "bot-worker"
_log = get_logger(__name__)


class NoOrganisation(PermanentError):  # noqa: N818 - reads as the fact it states
    """The message names no organisation, so no tenant owns it: it goes to the dead letters."""


class NoSuchBot(PermanentError):  # noqa: N818 - reads as the fact it states
    """The message names a bot its organisation never had: it goes to the dead letters."""


def _tenant(envelope: Envelope) -> UUID:
    if envelope.organisation_id is None:
        raise NoOrganisation(NoOrganisation.__doc__)
    return envelope.organisation_id


def count_message(outcome: str) -> None:
    metrics.counter("bot_messages_processed_total").labels(service=SERVICE, outcome=outcome).inc()


@dataclass(frozen=True)
class ReceiveMessages:
    """Queue bot-worker.messages."""

    works: Works
    window: QuietWindow
    wakes: WakeUps

    async def __call__(self, delivery: Delivery[MessageReceivedV1]) -> None:
        envelope = delivery.envelope
        organisation_id = _tenant(envelope)
        try:
            async with self.works.tenant(organisation_id) as work:
                received = await receive_message(
                    work,
                    delivery.message,
                    event_id=envelope.id,
                    organisation_id=organisation_id,
                    window=self.window,
                    wakes=self.wakes,
                    traceparent=current_traceparent(),
                )
        except BotUnknownError as error:
            raise NoSuchBot(str(error)) from error
        count_message("received" if received else "duplicate")


@dataclass(frozen=True)
class RecordCompletions:
    """Queue bot-worker.completions."""

    works: Works
    wakes: WakeUps

    async def __call__(self, delivery: Delivery[CompletionCompletedV1 | CompletionFailedV1]) -> None:
        envelope, message = delivery.envelope, delivery.message
        async with self.works.tenant(_tenant(envelope)) as work:
            recorded = await record_completion(
                work,
                message,
                event_id=envelope.id,
                wakes=self.wakes,
                traceparent=current_traceparent(),
            )
        count_message(recorded)
        if recorded == "fenced":
            _log.info("completion_fenced", turn_id=str(message.turn_id), epoch=message.epoch)


@dataclass(frozen=True)
class FollowEvents:
    """This replica's own copy of what its caches and open pages must hear."""

    hub: ReplyHub
    bot_changed: Callable[[UUID], None]
    access_changed: Callable[[str, UUID], None]

    async def __call__(self, delivery: Delivery[Message]) -> None:
        match delivery.message:
            case ReplySentV1(channel="web") as reply:
                self.hub.push(reply)
            case BotLifecycleChangedV1(bot_id=bot_id):
                self.bot_changed(bot_id)
            case AccessChangedV1(kind=kind, subject_id=subject_id):
                self.access_changed(kind, subject_id)


FOLLOWED: tuple[type[Message], ...] = (ReplySentV1, BotLifecycleChangedV1, AccessChangedV1)
