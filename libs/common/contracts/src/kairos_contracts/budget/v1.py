"""Messages owned by budget-analytics."""

from typing import ClassVar, Literal
from uuid import UUID

from kairos_contracts.message import AwareTime, Event, NanoUSD

ScopeKind = Literal["organisation", "project", "team", "bot", "contact", "api_key", "model"]


class BudgetChangedV1(Event):
    """A budget was created, changed or closed."""

    TYPE: ClassVar[str] = "budget.definition.changed.v1"
    budget_id: UUID
    scope: ScopeKind
    scope_id: UUID
    limit_nano_usd: NanoUSD
    active: bool

    def aggregate_id(self) -> str:
        return str(self.budget_id)


class ThresholdReachedV1(Event):
    """Settled spend of a period passed a soft threshold (once per threshold and period).

    `kind` forecast: at the present rate the period's spend will pass the limit at `exceeds_at`.
    """

    TYPE: ClassVar[str] = "budget.threshold.reached.v1"
    budget_id: UUID
    scope: ScopeKind
    scope_id: UUID
    threshold_percent: int
    settled_nano_usd: NanoUSD
    limit_nano_usd: NanoUSD
    period_start: AwareTime
    kind: Literal["settled", "forecast"] = "settled"
    exceeds_at: AwareTime | None = None

    def aggregate_id(self) -> str:
        return str(self.budget_id)


class LeaseSuspendedV1(Event):
    """A lease ended without its final figures; the unreported rest counts as spent until reconciled."""

    TYPE: ClassVar[str] = "budget.lease.suspended.v1"
    lease_id: UUID
    holder: str
    suspense_nano_usd: NanoUSD

    def aggregate_id(self) -> str:
        return str(self.lease_id)
