"""What arrives from the broker."""

from dataclasses import dataclass

from kairos_budget.application.ports import Usage
from kairos_budget.entrypoints.batches import Batches
from kairos_contracts.auth.v1 import AccessChangedV1
from kairos_contracts.llm.v1 import UsageRecordedV1
from kairos_faults import apoint
from kairos_messaging import Delivery, PermanentError
from kairos_telemetry import current_traceparent
from kairos_web import RemoteAuthenticator

USAGE_QUEUE = "budget-analytics.usage"


class UsageOfNobody(PermanentError):  # noqa: N818 - reads as the fact it states
    """The usage event names no organisation, so nobody can be charged; it goes to the dead letters."""


@dataclass(frozen=True, slots=True)
class ChargeUsage:
    batches: Batches[Usage]

    async def __call__(self, delivery: Delivery[UsageRecordedV1]) -> None:
        envelope = delivery.envelope
        if envelope.organisation_id is None:
            raise UsageOfNobody(str(envelope.id))
        usage = Usage(
            message_id=envelope.id,
            organisation_id=envelope.organisation_id,
            message=delivery.message,
            traceparent=current_traceparent(),
        )
        await self.batches.submit(usage)
        await apoint("budget.usage.posted")


@dataclass(frozen=True, slots=True)
class ForgetAccess:
    """A role, key or session changed: what is cached about it no longer holds."""

    authenticator: RemoteAuthenticator

    async def __call__(self, delivery: Delivery[AccessChangedV1]) -> None:
        self.authenticator.forget(delivery.message.kind, delivery.message.subject_id)
