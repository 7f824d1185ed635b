"""What the entry points may call, in one place; bootstrap fills it."""

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from kairos_budget.application.accounting import Accounting
from kairos_budget.application.adjust_ledger import CorrectSettled, ReverseAttempt
from kairos_budget.application.analytics import Analytics
from kairos_budget.application.check_ledger import CheckLedger
from kairos_budget.application.close_lease import CloseLease
from kairos_budget.application.define_budget import ChangeBudget, CloseBudget, CreateBudget
from kairos_budget.application.forecast_budgets import ForecastBudgets
from kairos_budget.application.grant_lease import GrantLease
from kairos_budget.application.note_export import NoteExport
from kairos_budget.application.readings import Readings
from kairos_budget.application.reconcile_attempts import ReconcileAttempts
from kairos_budget.application.record_usage import RecordUsage
from kairos_budget.application.release_suspense import ReleaseSuspense
from kairos_budget.application.renew_leases import RenewLeases
from kairos_budget.application.simulate_budget import SimulateBudget
from kairos_budget.application.suspend_silent_leases import SuspendSilentLeases


@dataclass(frozen=True, slots=True)
class UseCases:
    create_budget: CreateBudget
    change_budget: ChangeBudget
    close_budget: CloseBudget
    grant_lease: GrantLease
    renew_leases: RenewLeases
    close_lease: CloseLease
    suspend_silent_leases: SuspendSilentLeases
    record_usage: RecordUsage
    release_suspense: ReleaseSuspense
    reconcile_attempts: ReconcileAttempts
    check_ledger: CheckLedger
    readings: Readings
    analytics: Analytics
    accounting: Accounting
    correct_settled: CorrectSettled
    reverse_attempt: ReverseAttempt
    note_export: NoteExport
    forecast_budgets: ForecastBudgets
    simulate_budget: SimulateBudget


def _cases(request: Request) -> UseCases:
    return cast("UseCases", request.app.state.cases)


Cases = Annotated[UseCases, Depends(_cases)]
