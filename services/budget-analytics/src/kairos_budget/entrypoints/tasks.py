"""What the service does by itself, again and again."""

import asyncio

from kairos_budget.application.check_ledger import CheckLedger
from kairos_budget.application.forecast_budgets import ForecastBudgets
from kairos_budget.application.readings import Readings
from kairos_budget.application.suspend_silent_leases import BATCH, SuspendSilentLeases
from kairos_telemetry import metrics


async def suspend_silent_leases(suspend: SuspendSilentLeases, every_s: float) -> None:
    while True:
        while await suspend() == BATCH:
            pass
        await asyncio.sleep(every_s)


async def check_ledger(check: CheckLedger, every_s: float) -> None:
    while True:
        await check()
        await asyncio.sleep(every_s)


async def forecast_budgets(forecast: ForecastBudgets, every_s: float) -> None:
    while True:
        await forecast()
        await asyncio.sleep(every_s)


async def measure_leases(readings: Readings, every_s: float) -> None:
    while True:
        metrics.gauge("kairos_leases_open").set(await readings.count_open_leases())
        await asyncio.sleep(every_s)
