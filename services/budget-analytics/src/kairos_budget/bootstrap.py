"""The only place where ports meet adapters."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from uuid import UUID

from fastapi import FastAPI

from kairos_budget.adapters.accounting import PostgresAccounting
from kairos_budget.adapters.analytics import PostgresAnalytics
from kairos_budget.adapters.meters import PrometheusMeters
from kairos_budget.adapters.past import PostgresPast
from kairos_budget.adapters.readings import PostgresReadings
from kairos_budget.adapters.rollups import keep_rollups
from kairos_budget.adapters.transaction import PostgresMoney
from kairos_budget.application.adjust_ledger import CorrectSettled, ReverseAttempt
from kairos_budget.application.check_ledger import CheckLedger
from kairos_budget.application.close_lease import CloseLease
from kairos_budget.application.define_budget import ChangeBudget, CloseBudget, CreateBudget
from kairos_budget.application.forecast_budgets import ForecastBudgets
from kairos_budget.application.grant_lease import GrantLease
from kairos_budget.application.note_export import NoteExport
from kairos_budget.application.ports import LeasePolicy
from kairos_budget.application.reconcile_attempts import ReconcileAttempts
from kairos_budget.application.record_usage import RecordUsage
from kairos_budget.application.release_suspense import ReleaseSuspense
from kairos_budget.application.renew_leases import RenewLeases
from kairos_budget.application.simulate_budget import SimulateBudget
from kairos_budget.application.suspend_silent_leases import SuspendSilentLeases
from kairos_budget.entrypoints import (
    accounting,
    analytics,
    budget_status,
    budgets,
    corrections,
    internal_leases,
    leases,
    ledger,
    simulations,
    tasks,
    usage,
)
from kairos_budget.entrypoints.batches import Batches
from kairos_budget.entrypoints.consumers import USAGE_QUEUE, ChargeUsage, ForgetAccess, one_by_one
from kairos_budget.entrypoints.use_cases import UseCases
from kairos_budget.settings import Settings
from kairos_contracts.audit import AuditContext
from kairos_contracts.auth.v1 import AccessChangedV1
from kairos_messaging import Bus, OutboxRelay, PublishFailed
from kairos_persistence import Database, DatabaseUnavailable, create_engine
from kairos_telemetry import get_logger
from kairos_web import (
    Authenticator,
    Background,
    HealthCheck,
    OutboundSession,
    RateLimiter,
    RemoteAuthenticator,
    ServiceTokens,
    create_app,
)

SERVICE = "budget-analytics"
VERSION = "0.1.0"


def use_cases(database: Database, settings: Settings) -> UseCases:
    """The application on a database; tests call it too."""
    money = PostgresMoney(database)
    meters = PrometheusMeters()
    log = get_logger(SERVICE)
    policy = LeasePolicy(
        ttl=timedelta(seconds=settings.lease_ttl_s),
        grace=timedelta(seconds=settings.lease_grace_s),
        close_grace=timedelta(seconds=settings.close_grace_s),
    )
    analytics_port = PostgresAnalytics(
        database, minutes_days=settings.keep_minutes_days, hours_days=settings.keep_hours_days
    )
    return UseCases(
        create_budget=CreateBudget(money),
        change_budget=ChangeBudget(money),
        close_budget=CloseBudget(money),
        grant_lease=GrantLease(money, policy, meters, log),
        renew_leases=RenewLeases(money, policy),
        close_lease=CloseLease(money, policy),
        suspend_silent_leases=SuspendSilentLeases(money, log),
        record_usage=RecordUsage(money, meters, log),
        release_suspense=ReleaseSuspense(money),
        reconcile_attempts=ReconcileAttempts(money, meters),
        check_ledger=CheckLedger(money, meters, log),
        readings=PostgresReadings(database),
        analytics=analytics_port,
        accounting=PostgresAccounting(database),
        correct_settled=CorrectSettled(money),
        reverse_attempt=ReverseAttempt(money),
        note_export=NoteExport(money),
        simulate_budget=SimulateBudget(PostgresPast(database, analytics_port)),
        forecast_budgets=ForecastBudgets(money, log),
    )


class BudgetAnalytics:
    """Everything of one process, wired. Nothing connects before `lifespan`."""

    def __init__(self, settings: Settings, *, authenticator: Authenticator | None = None) -> None:
        self.settings = settings
        engine = create_engine(settings.postgres_url.get_secret_value(), application_name=SERVICE)
        self.database = Database(engine, service=SERVICE)
        self.bus = Bus(settings.amqp_url.get_secret_value(), service=SERVICE)
        self.cases = use_cases(self.database, settings)
        self.session = OutboundSession()
        tokens = ServiceTokens(settings.auth_url, SERVICE, settings.service_secret, self.session)
        self.remote = RemoteAuthenticator(
            settings.auth_url, tokens, self.session, cookie_secure=settings.cookie_secure
        )
        self.authenticator = authenticator or self.remote
        self.rate_limiter = RateLimiter(settings.redis_url.get_secret_value())
        self.usage = Batches(self.cases.record_usage, largest=settings.usage_batch, split=one_by_one)
        self.background = Background()
        self.bus.consume(USAGE_QUEUE, ChargeUsage(self.usage), concurrency=settings.usage_messages)
        self.bus.on_replica([AccessChangedV1], ForgetAccess(self.remote))
        self.bus.on_gap(self.remote.forget_all)

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        start, settings, cases = self.background.start, self.settings, self.cases
        start("usage", self.usage.run)
        start("bus", self.bus.start)
        start("outbox-relay", OutboxRelay(self.database, self.bus).run)
        start(
            "suspension",
            partial(tasks.suspend_silent_leases, cases.suspend_silent_leases, settings.sweep_every_s),
        )
        start("invariants", partial(tasks.check_ledger, cases.check_ledger, settings.check_every_s))
        start("forecasts", partial(tasks.forecast_budgets, cases.forecast_budgets, settings.forecast_every_s))
        start("metrics", partial(tasks.measure_leases, cases.readings, settings.measure_every_s))
        start("partitions", self.database.keep_partitions)
        start(
            "rollups",
            partial(
                keep_rollups,
                self.database,
                settings.keep_minutes_days,
                settings.keep_hours_days,
                settings.keep_days_days,
            ),
        )
        try:
            yield
        finally:
            await self.bus.stop(settings.shutdown_grace_s / 2)
            await self.background.stop()
            await self.session.close()
            await self.rate_limiter.close()
            await self.database.dispose()

    async def audit_denial(
        self, context: AuditContext, permission: str, path: str, organisation_id: UUID | None
    ) -> None:
        async with self.database.unit_of_work(organisation_id) as unit:
            unit.emit(context.entry("access.denied", path, outcome="denied", reason=permission))


def build_app(settings: Settings, *, authenticator: Authenticator | None = None) -> FastAPI:
    """The application; tests hand in settings of their own servers and an authenticator."""
    parts = BudgetAnalytics(settings, authenticator=authenticator)
    app = create_app(
        SERVICE,
        title="Kairos budget-analytics",
        version=VERSION,
        lifespan=parts.lifespan,
        authenticator=parts.authenticator,
        checks=[
            HealthCheck("postgres", parts.database.ping),
            HealthCheck("rabbitmq", parts.bus.check),
            HealthCheck("background", parts.background.check, required=False),
        ],
        audit_denial=parts.audit_denial,
        unavailable=(DatabaseUnavailable, PublishFailed),
        rate_limiter=parts.rate_limiter,
    )
    app.state.parts = parts
    app.state.cases = parts.cases
    for routes in (
        accounting,
        corrections,
        simulations,
        budgets,
        budget_status,
        leases,
        ledger,
        analytics,
        usage,
        internal_leases,
    ):
        app.include_router(routes.router)
    return app
