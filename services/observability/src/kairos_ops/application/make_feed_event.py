from typing import Any

from kairos_contracts.catalogue import catalogue
from kairos_contracts.llm.v1 import UsageBatchRecordedV1
from kairos_contracts.message import Envelope, Message
from kairos_ops.application.ports import Redactor
from kairos_ops.domain.digest import usage_batch_digest
from kairos_ops.domain.event import FeedEvent, trace_id_of
from kairos_ops.domain.masking import mask_payload, mask_subject


def make_feed_event(envelope: Envelope, message: Message, redact: Redactor) -> FeedEvent:
    """A message as it may be stored and shown: secrets redacted, personal data masked."""
    entry = catalogue().get(envelope.type)
    personal = entry is None or entry.personal_data
    return FeedEvent(
        id=envelope.id,
        type=envelope.type,
        source=envelope.source,
        subject=mask_subject(envelope.subject, personal=personal),
        time=envelope.time,
        organisation_id=envelope.organisation_id,
        causation_id=envelope.causation_id,
        trace_id=trace_id_of(envelope.traceparent),
        data=redact(mask_payload(_payload(message), personal=personal)),
    )


def _payload(message: Message) -> dict[str, Any]:
    """A batch of usage is shown as its sums: hundreds of records are no line of a feed."""
    if isinstance(message, UsageBatchRecordedV1):
        return usage_batch_digest(message)
    return message.model_dump(mode="json")
