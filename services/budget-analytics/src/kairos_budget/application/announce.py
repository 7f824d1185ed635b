"""Publish the thresholds that a change of balances has reached."""

from collections.abc import Mapping
from uuid import UUID

from kairos_budget.application.ports import Transaction, Usage
from kairos_budget.domain.book import Book
from kairos_contracts.budget.v1 import ThresholdReachedV1


def announce(tx: Transaction, book: Book, causes: Mapping[UUID, Usage] | None = None) -> None:
    """Call before `save`. `causes` names, per organisation, the usage whose trace the event continues."""
    for period, percent in book.announce():
        budget = period.budget
        event = ThresholdReachedV1(
            budget_id=budget.id,
            scope=budget.scope.value,
            scope_id=budget.scope_id,
            threshold_percent=percent,
            settled_nano_usd=period.balances.settled,
            limit_nano_usd=period.balances.limit,
            period_start=period.bounds.starts_at,
        )
        cause = (causes or {}).get(budget.organisation_id)
        tx.emit(
            event,
            organisation_id=budget.organisation_id,
            causation_id=cause.message_id if cause else None,
            traceparent=cause.traceparent if cause else None,
        )
