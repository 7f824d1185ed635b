"""Deliveries of RabbitMQ, each handed to one use case."""

from typing import Any

from kairos_contracts.auth.v1 import AccessChangedV1
from kairos_messaging import Delivery, RawDelivery
from kairos_messaging.failures import DeadLetter as FailedMessage
from kairos_ops.application.issue_ticket import Tickets
from kairos_ops.application.keep_dead_letter import Corpse, KeepDeadLetter
from kairos_ops.application.live_feed import LiveFeed, access_subject
from kairos_ops.application.make_feed_event import make_feed_event
from kairos_ops.application.ports import EventStore
from kairos_telemetry import get_logger, metrics, redact
from kairos_web import RemoteAuthenticator

_log = get_logger(__name__)


class StoreEvents:
    """Queue `observability.events`: every event, stored once whichever replica takes it."""

    def __init__(self, store: EventStore) -> None:
        self._store = store

    async def __call__(self, delivery: Delivery[Any]) -> None:
        await self._store.add(make_feed_event(delivery.envelope, delivery.message, redact))


class ShowEvents:
    """This replica's own queue: every event for its own clients, and access changes for its sockets."""

    def __init__(self, feed: LiveFeed, tickets: Tickets, authenticator: RemoteAuthenticator) -> None:
        self._feed = feed
        self._tickets = tickets
        self._authenticator = authenticator

    async def __call__(self, delivery: Delivery[Any]) -> None:
        message = delivery.message
        if isinstance(message, AccessChangedV1):
            self._end_access(message)
        self._feed.publish(make_feed_event(delivery.envelope, message, redact))

    def _end_access(self, change: AccessChangedV1) -> None:
        # The cached answer goes first, so that a client that reconnects at once is asked about anew.
        self._authenticator.forget(change.kind, change.subject_id)
        subject = access_subject(change.kind, change.subject_id)
        self._tickets.revoke(subject)
        ended = self._feed.revoke(subject)
        if ended:
            _log.info("sockets_ended", kind=change.kind, subject_id=str(change.subject_id), count=ended)


class KeepDeadLetters:
    """Queue `observability.dead-letters`: whatever no consumer could handle."""

    def __init__(self, keep: KeepDeadLetter) -> None:
        self._keep = keep

    async def __call__(self, raw: RawDelivery) -> None:
        failed = FailedMessage.of(raw)
        letter = await self._keep(
            Corpse(
                queue=failed.queue,
                message_id=failed.message_id,
                headers=failed.headers,
                body=failed.body,
                reason=failed.error_class,
                error=failed.error_text,
                attempts=failed.attempts,
            )
        )
        metrics.counter("kairos_dead_letters_total").labels(queue=letter.queue).inc()
        _log.warning(
            "dead_letter_kept",
            queue=letter.queue,
            type=letter.type,
            message_id=letter.message_id,
            reason=letter.reason,
            trace_id_of_message=letter.trace_id,
        )
