"""The frames of the live feed. Each is one JSON object with a `t`.

Server: hello, snap, ready, ev, gap, drop, pong. Client: sub, unsub, ping.
"""

from dataclasses import dataclass
from enum import StrEnum

from kairos_ops.domain.feed import Resume

PROTOCOL = 1


class Topic(StrEnum):
    EVENTS = "events"
    SERVICES = "services"


class CloseCode:
    """Why the server ends a socket (RFC 6455 private range)."""

    BAD_FRAME = 4400
    TICKET_REFUSED = 4401
    ORIGIN_REFUSED = 4403
    TOO_SLOW = 4408
    ACCESS_CHANGED = 4410
    RENEW = 4411
    FULL = 1013
    GOING_AWAY = 1001


@dataclass(frozen=True)
class Sub:
    """Subscribe. `types` are prefixes; `resume` continues after a sequence the client has seen."""

    topic: str
    types: tuple[str, ...] = ()
    resume: Resume | None = None


@dataclass(frozen=True)
class Unsub:
    topic: str


@dataclass(frozen=True)
class Ping:
    """The client's own check that the link is alive; the answer carries `at` back."""

    at: float


ClientFrame = Sub | Unsub | Ping
