"""Messages through RabbitMQ: consume with a retry ladder, publish with confirms, relay the outbox."""

from kairos_messaging.bus import Bus
from kairos_messaging.delivery import Delivery, Handler, RawDelivery, RawHandler
from kairos_messaging.errors import (
    ConsumerLost,
    InfrastructureUnavailable,
    PermanentError,
    PublishFailed,
)
from kairos_messaging.relay import OutboxRelay

__all__ = [
    "Bus",
    "ConsumerLost",
    "Delivery",
    "Handler",
    "InfrastructureUnavailable",
    "OutboxRelay",
    "PermanentError",
    "PublishFailed",
    "RawDelivery",
    "RawHandler",
]
