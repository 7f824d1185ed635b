"""What arrives from the broker."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kairos_budget.application.ports import Usage
from kairos_budget.entrypoints.batches import Batches
from kairos_contracts.auth.v1 import AccessChangedV1
from kairos_contracts.llm.v1 import UsageBatchRecordedV1, UsageRecordedV1
from kairos_faults import apoint
from kairos_messaging import Delivery, PermanentError
from kairos_telemetry import current_traceparent
from kairos_web import RemoteAuthenticator

USAGE_QUEUE = "budget-analytics.usage"


class UsageOfNobody(PermanentError):  # noqa: N818 - reads as the fact it states
    """The usage event names no organisation, so nobody can be charged; it goes to the dead letters."""


@dataclass(frozen=True, slots=True)
class ChargeUsage:
    """Takes single attempts and batches of them; both are charged by the same use case."""

    batches: Batches[Usage]

    async def __call__(self, delivery: Delivery[UsageRecordedV1 | UsageBatchRecordedV1]) -> None:
        envelope, message = delivery.envelope, delivery.message
        if envelope.organisation_id is None:
            raise UsageOfNobody(str(envelope.id))
        records = message.records if isinstance(message, UsageBatchRecordedV1) else (message,)
        organisation_id, traceparent = envelope.organisation_id, current_traceparent()
        await self.batches.submit(
            *(Usage(envelope.id, organisation_id, record, traceparent) for record in records)
        )
        await apoint("budget.usage.posted")


def one_by_one(usages: Sequence[Usage]) -> Sequence[Sequence[Usage]]:
    """The records of a batch that can't be charged whole, each as a message of its own.

    They are noted under their attempts' ids: the batch's own id is noted only when all of it was charged,
    so that the batch can be replayed from the dead letters.
    """
    if len(usages) == 1:
        return ()
    return [[replace(usage, message_id=usage.message.attempt_id)] for usage in usages]


@dataclass(frozen=True, slots=True)
class ForgetAccess:
    """A role, key or session changed: what is cached about it no longer holds."""

    authenticator: RemoteAuthenticator

    async def __call__(self, delivery: Delivery[AccessChangedV1]) -> None:
        self.authenticator.forget(delivery.message.kind, delivery.message.subject_id)
