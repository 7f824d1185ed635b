"""What becomes of a reply after one try to send it.

The channel has no idempotency key, so a try whose answer never came may have been accepted. Such a
reply is sent again (at least once) and counted as ambiguous: see docs/decisions/0007.
"""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum


class DeliveryState(StrEnum):
    PENDING = "pending"
    SENDING = "sending"
    SENT = "sent"
    FAILED = "failed"


@dataclass(frozen=True)
class Accepted:
    """The channel took the reply."""

    external_message_id: str


@dataclass(frozen=True)
class Paced:
    """The channel asks for a pause of this chat; it did not take the reply."""

    retry_after: timedelta


@dataclass(frozen=True)
class Refused:
    """The channel will never take this reply (blocked by the contact, chat gone, malformed)."""

    reason: str


@dataclass(frozen=True)
class NotTaken:
    """The reply surely did not arrive: no connection, or an error that says so.

    `credential` blames the token.
    """

    reason: str
    credential: bool = False


@dataclass(frozen=True)
class Unsure:
    """The request left and no answer came: the channel may have taken the reply."""

    reason: str


SendOutcome = Accepted | Paced | Refused | NotTaken | Unsure


@dataclass(frozen=True)
class Sent:
    external_message_id: str


@dataclass(frozen=True)
class TryAgain:
    wait: timedelta
    reason: str
    ambiguous: bool = False


@dataclass(frozen=True)
class GiveUp:
    reason: str


@dataclass(frozen=True)
class RetryRules:
    first_wait: timedelta = timedelta(milliseconds=500)
    longest_wait: timedelta = timedelta(seconds=60)
    give_up_after: timedelta = timedelta(hours=24)


def after_try(
    outcome: SendOutcome, *, attempts: int, age: timedelta, rules: RetryRules
) -> Sent | TryAgain | GiveUp:
    """`attempts` counts this try. A pause the channel asked for never ends in giving up: it is paid for."""
    match outcome:
        case Accepted(external_message_id):
            return Sent(external_message_id)
        case Paced(retry_after):
            return TryAgain(retry_after, "the channel asked for a pause")
        case Refused(reason):
            return GiveUp(reason)
        case NotTaken(reason) | Unsure(reason):
            if age >= rules.give_up_after:
                return GiveUp(f"no success for {rules.give_up_after}: {reason}")
            return TryAgain(backoff(attempts, rules), reason, ambiguous=isinstance(outcome, Unsure))


def backoff(attempts: int, rules: RetryRules) -> timedelta:
    """Doubles from `first_wait` with every attempt, up to `longest_wait`."""
    doublings = min(max(attempts - 1, 0), 20)
    return min(rules.longest_wait, rules.first_wait * (1 << doublings))
