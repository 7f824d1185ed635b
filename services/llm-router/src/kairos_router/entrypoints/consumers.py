"""Messages the router reads."""

from collections.abc import Callable
from typing import Any, Protocol
from uuid import UUID

from kairos_contracts.auth.v1 import AccessChangedV1
from kairos_contracts.budget.v1 import BudgetChangedV1
from kairos_contracts.llm.v1 import CacheTtlChangedV1, CompletionRequestV1, QuotaChangedV1
from kairos_messaging import Bus, Delivery, PermanentError
from kairos_router.application.answer_completion import QUEUE, CompletionStore
from kairos_router.application.hold_money import Wallet
from kairos_telemetry import current_traceparent
from kairos_web import RemoteAuthenticator


class NoOrganisation(PermanentError):  # noqa: N818 - reads as the fact it states
    """A completion without an organisation can't be charged to anyone; it goes to the dead letters."""


class Follows(Protocol):
    """Keeps a copy of an organisation's settings, and reads it anew when they have changed."""

    async def changed(self, organisation_id: UUID) -> None: ...


def follow(bus: Bus, quotas: Follows, cache: Follows, stale: Callable[[], None]) -> None:
    """Quotas and the cache's policies, which any router may have changed.

    `stale` has everything read anew: a change was missed, or could not be followed.
    """

    async def change(delivery: Delivery[Any]) -> None:
        organisation_id = delivery.envelope.organisation_id
        if organisation_id is not None:
            follower = quotas if isinstance(delivery.message, QuotaChangedV1) else cache
            try:
                await follower.changed(organisation_id)
            except Exception:
                stale()
                raise

    bus.on_replica([QuotaChangedV1, CacheTtlChangedV1], change)
    bus.on_gap(stale)


def register(bus: Bus, store: CompletionStore, wallet: Wallet, authenticator: RemoteAuthenticator) -> None:
    async def completion(delivery: Delivery[Any]) -> None:
        envelope, request = delivery.envelope, delivery.message
        if envelope.organisation_id is None:
            raise NoOrganisation(str(envelope.id))
        if isinstance(request, CompletionRequestV1):
            # The work goes on in the trace below this delivery, however much later it is claimed.
            await store.accept(request, envelope.organisation_id, envelope.id, current_traceparent())

    async def change(delivery: Delivery[Any]) -> None:
        message = delivery.message
        if isinstance(message, AccessChangedV1):
            authenticator.forget(message.kind, message.subject_id)
        elif isinstance(message, BudgetChangedV1) and delivery.envelope.organisation_id is not None:
            wallet.forget(delivery.envelope.organisation_id)

    bus.consume(QUEUE, completion)
    bus.on_replica([AccessChangedV1, BudgetChangedV1], change)
    bus.on_gap(authenticator.forget_all)
