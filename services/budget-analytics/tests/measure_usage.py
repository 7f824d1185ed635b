"""How many usage events a second one process charges.

    python services/budget-analytics/tests/measure_usage.py

Starts private servers, queues the events of leases that hold money of three budgets each (organisation,
project, bot), then starts the service in this process and waits until the ledger has all of them.
"""

import argparse
import asyncio
import json
import time
from datetime import UTC, datetime
from uuid import UUID, uuid4

import uvloop
from sqlalchemy import text

from kairos_budget.application.define_budget import NewBudget
from kairos_budget.application.grant_lease import LeaseWish
from kairos_budget.bootstrap import SERVICE, BudgetAnalytics, use_cases
from kairos_budget.domain.budget import DEFAULT_THRESHOLDS, Scope, ScopeChain
from kairos_budget.domain.calendar import PeriodKind
from kairos_budget.settings import Settings
from kairos_contracts.audit import AuditContext
from kairos_contracts.llm.v1 import UsageRecordedV1
from kairos_messaging import Bus
from kairos_persistence import Database, create_engine
from kairos_telemetry import configure
from kairos_testkit.databases import Provisioned
from kairos_testkit.servers import Servers, start_servers

BOTS = 20
LIMIT = 10**15


async def prepare(
    database: Database, settings: Settings, organisation: UUID
) -> list[tuple[UUID, UUID, UUID]]:
    """Budgets for the organisation, one project and every bot, and a lease per bot."""
    cases = use_cases(database, settings)
    project, bots = uuid4(), [uuid4() for _ in range(BOTS)]
    scopes = [
        (Scope.ORGANISATION, organisation),
        (Scope.PROJECT, project),
        *((Scope.BOT, bot) for bot in bots),
    ]
    for scope, scope_id in scopes:
        wish = NewBudget("bench", scope, scope_id, LIMIT, PeriodKind.MONTH, "UTC", DEFAULT_THRESHOLDS)
        await cases.create_budget(organisation, wish, AuditContext.system("bench"))
    leases = []
    for bot in bots:
        chain = ScopeChain(organisation, project, bot)
        granted = await cases.grant_lease(LeaseWish("bench", chain, want=10**12, need=1))
        leases.append((granted.lease.id, project, bot))
    return leases


def usage(lease: tuple[UUID, UUID, UUID]) -> UsageRecordedV1:
    lease_id, project, bot = lease
    return UsageRecordedV1(
        attempt_id=uuid4(),
        completion_id=uuid4(),
        lease_id=lease_id,
        project_id=project,
        bot_id=bot,
        model="echo-1",
        deployment="simulator",
        provider="simulator",
        input_tokens=100,
        output_tokens=50,
        hold_nano_usd=2_000,
        cost_nano_usd=1_000,
        outcome="settled",
        price_version="bench",
        status=200,
        streaming=False,
        started_at=datetime.now(UTC),
        latency_ms=10,
    )


async def charged(database: Database, organisation: UUID) -> int:
    async with database.unit_of_work(organisation) as unit:
        return int((await unit.session.execute(text("SELECT count(*) FROM attempts"))).scalar_one())


async def measure(servers: Servers, events: int) -> dict[str, float]:
    vhost = f"bench-{uuid4().hex}"
    servers.management.create_vhost(vhost)
    provisioned = Provisioned(servers.postgres_admin_url)
    provisioned.provision()
    url = provisioned.service_database("kairos_budget", "budget")
    settings = Settings.model_validate(
        {
            "postgres_url": url,
            "amqp_url": servers.amqp(vhost),
            "redis_url": servers.redis_url,
            "auth_url": "http://localhost:1",
            "service_secret": "bench",
        }
    )
    database = Database(create_engine(url, application_name="bench"), service=SERVICE)
    organisation = uuid4()
    leases = await prepare(database, settings, organisation)
    router = Bus(servers.amqp(vhost), service="llm-router")
    await router.start()
    for start in range(0, events, 200):
        batch = range(start, min(start + 200, events))
        await asyncio.gather(
            *(router.publish(usage(leases[n % BOTS]), organisation_id=organisation) for n in batch)
        )
    await router.stop()
    parts = BudgetAnalytics(settings)
    began, cpu = time.perf_counter(), time.process_time()
    parts.background.start("usage", parts.usage.run)
    await parts.bus.start()
    while await charged(database, organisation) < events:  # noqa: ASYNC110 - rows are no event to wait for
        await asyncio.sleep(0.05)
    took, spent = time.perf_counter() - began, time.process_time() - cpu
    findings = await parts.cases.check_ledger(organisation, full=True)
    await parts.bus.stop()
    await parts.background.stop()
    await parts.session.close()
    await parts.database.dispose()
    await database.dispose()
    return {
        "events": events,
        "events_per_second": round(events / took),
        "cpu_ms_per_event": round(1000 * spent / events, 2),
        "findings": len(findings),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=5_000)
    events = parser.parse_args().events
    telemetry = configure("bench", otlp_endpoint=None, log_level="ERROR")
    servers = start_servers()
    try:
        # The loop the service itself runs on.
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            print(json.dumps(runner.run(measure(servers, events))))
    finally:
        servers.close()
        telemetry.shutdown()


if __name__ == "__main__":
    main()
