"""Messages through RabbitMQ: consume with a retry ladder, publish with confirms, relay the outbox."""

from kairos_messaging.bus import Bus
from kairos_messaging.delivery import Delivery, Handler, RawDelivery, RawHandler
from kairos_messaging.errors import (
    ConsumerLost,
    InfrastructureUnavailable,
    PermanentError,
    PublishFailed,
)
from kairos_messaging.failures import DeadLetter
from kairos_messaging.relay import OutboxRelay
from kairos_messaging.topology import DEAD_LETTERS
from kairos_messaging.tuning import Tuning

__all__ = [
    "DEAD_LETTERS",
    "Bus",
    "ConsumerLost",
    "DeadLetter",
    "Delivery",
    "Handler",
    "InfrastructureUnavailable",
    "OutboxRelay",
    "PermanentError",
    "PublishFailed",
    "RawDelivery",
    "RawHandler",
    "Tuning",
]
