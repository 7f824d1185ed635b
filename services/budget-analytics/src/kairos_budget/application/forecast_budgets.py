"""Sample what is settled, and tell once when a period heads over its limit."""

from dataclasses import dataclass
from datetime import datetime

from kairos_budget.application.ports import Log, Money, Outlook, Transaction
from kairos_budget.domain.forecast import Sample, forecast, is_over
from kairos_budget.domain.period import Period
from kairos_contracts.budget.v1 import ThresholdReachedV1


@dataclass(frozen=True, slots=True)
class ForecastBudgets:
    """Every open period of every active budget; a rolling one has no end to forecast for."""

    money: Money
    log: Log

    async def __call__(self) -> int:
        """Returns how many crossings were told. One process at a time does it; others find it done."""
        told = 0
        async with self.money.system() as tx:
            for outlook in await tx.take_samples():
                told += await self._judge(tx, outlook)
        return told

    async def _judge(self, tx: Transaction, outlook: Outlook) -> bool:
        period = outlook.period
        limit, now = period.balances.limit, Sample(outlook.at, period.balances.settled)
        found = forecast(period.bounds, limit, now, outlook.then)
        over = is_over(found, limit, now, was_over=outlook.over)
        if over == outlook.over:
            return False
        crossing = over and now.settled < limit
        await tx.keep_forecast(period, over=over, exceeds_at=found.exceeds_at, crossing=crossing)
        if not crossing:
            return False
        tx.emit(_event(period, now, found.exceeds_at), organisation_id=period.budget.organisation_id)
        self.log.info(
            "budget.forecast_exceeds", budget_id=str(period.budget.id), nano_usd_per_hour=found.rate
        )
        return True


def _event(period: Period, now: Sample, exceeds_at: datetime | None) -> ThresholdReachedV1:
    budget = period.budget
    return ThresholdReachedV1(
        budget_id=budget.id,
        scope=budget.scope.value,
        scope_id=budget.scope_id,
        threshold_percent=100,
        settled_nano_usd=now.settled,
        limit_nano_usd=period.balances.limit,
        period_start=period.bounds.starts_at,
        kind="forecast",
        exceeds_at=exceeds_at,
    )
