"""What every message between services is made of.

An event tells what happened (past tense, many consumers); a command asks one receiver to act.
The body is JSON of a frozen pydantic model; the envelope is CloudEvents 1.0 in AMQP binary mode.
"""

from datetime import UTC, datetime
from typing import Annotated, ClassVar, Literal, Self
from uuid import UUID, uuid4

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

SPEC_VERSION = "1.0"
HEADER_PREFIX = "cloudEvents_"


def _aware(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("a time in a message carries its offset")
    return value


AwareTime = Annotated[datetime, AfterValidator(_aware)]
NanoUSD = Annotated[int, Field(description="Money in integer nano-USD (1 USD = 1_000_000_000).")]


class Message(BaseModel):
    """Base of events and commands. `TYPE` is the CloudEvents type and the routing key."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    TYPE: ClassVar[str]
    KIND: ClassVar[Literal["event", "command"]]

    def aggregate_id(self) -> str:
        """The aggregate this message is about; order is promised per aggregate."""
        raise TypeError(f"{type(self).__name__} does not name its aggregate")


class Event(Message):
    KIND: ClassVar[Literal["event", "command"]] = "event"


class Command(Message):
    KIND: ClassVar[Literal["event", "command"]] = "command"


class Envelope(BaseModel):
    """CloudEvents attributes of one message.

    `organisation_id` is None only for messages of the installation itself (service health, for one).
    `causation_id` is the id of the message whose handling produced this one.
    """

    model_config = ConfigDict(frozen=True)

    id: UUID
    source: str
    type: str
    subject: str
    time: AwareTime
    organisation_id: UUID | None = None
    causation_id: UUID | None = None
    traceparent: str | None = None

    @classmethod
    def of(
        cls,
        message: Message,
        *,
        source: str,
        organisation_id: UUID | None,
        causation_id: UUID | None = None,
        traceparent: str | None = None,
        time: datetime | None = None,
        message_id: UUID | None = None,
    ) -> Self:
        """Wrap a message. `source` is the service's name, for example `bot-worker`."""
        return cls(
            id=message_id or uuid4(),
            source=source,
            type=message.TYPE,
            subject=message.aggregate_id(),
            time=time or datetime.now(UTC),
            organisation_id=organisation_id,
            causation_id=causation_id,
            traceparent=traceparent,
        )

    def headers(self) -> dict[str, str]:
        """AMQP application properties, binary mode. The id also travels as the AMQP message id."""
        headers = {
            f"{HEADER_PREFIX}specversion": SPEC_VERSION,
            f"{HEADER_PREFIX}id": str(self.id),
            f"{HEADER_PREFIX}source": self.source,
            f"{HEADER_PREFIX}type": self.type,
            f"{HEADER_PREFIX}subject": self.subject,
            f"{HEADER_PREFIX}time": self.time.isoformat(),
            f"{HEADER_PREFIX}dataschema": f"urn:kairos:schema:{self.type}",
        }
        if self.organisation_id:
            headers["organisation_id"] = str(self.organisation_id)
        if self.causation_id:
            headers["causation_id"] = str(self.causation_id)
        if self.traceparent:
            headers["traceparent"] = self.traceparent
        return headers

    @classmethod
    def from_headers(cls, headers: dict[str, object]) -> Self:
        """Read the attributes back. Raises ValidationError when one is missing or malformed."""
        attributes = {
            name: headers.get(f"{HEADER_PREFIX}{name}")
            for name in ("id", "source", "type", "subject", "time")
        }
        extensions = {name: headers.get(name) for name in ("organisation_id", "causation_id", "traceparent")}
        return cls.model_validate(attributes | extensions)
