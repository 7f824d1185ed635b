"""How many attempts a second one process charges.

    python services/budget-analytics/tests/measure_usage.py [--attempts 50000] [--batch 500]

Starts private servers, queues the usage of leases that hold money of three budgets each (organisation,
project, bot), as a router does: in batches. Then starts the service in this process and waits until the
ledger has it all. `--batch 1` queues single events, as turns of bots do. CPU is Python's and PostgreSQL's.
"""

import argparse
import asyncio
import json
import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
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
from kairos_contracts.llm.v1 import UsageBatchRecordedV1, UsageRecordedV1
from kairos_messaging import Bus
from kairos_persistence import Database, create_engine
from kairos_telemetry import configure
from kairos_testkit.databases import Provisioned
from kairos_testkit.servers import Servers, start_servers

BOTS = 20
KEYS = [uuid4() for _ in range(5)]
LIMIT = 10**15


@dataclass(frozen=True)
class Wish:
    attempts: int
    batch: int


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
        granted = await cases.grant_lease(LeaseWish("bench", chain, want=10**9, need=1))
        leases.append((granted.lease.id, project, bot))
    return leases


def usage(lease: tuple[UUID, UUID, UUID], number: int) -> UsageRecordedV1:
    lease_id, project, bot = lease
    return UsageRecordedV1(
        attempt_id=uuid4(),
        completion_id=uuid4(),
        lease_id=lease_id,
        project_id=project,
        bot_id=bot,
        api_key_id=KEYS[number % len(KEYS)],
        model=f"echo-{number % 3}",
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
        latency_ms=10 + number % 700,
    )


def server_cpu_seconds(data: Path) -> float:
    """CPU time of the PostgreSQL processes that live in this data directory, so far."""
    ticks = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if (entry / "cwd").readlink() == data:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                ticks += int(fields[11]) + int(fields[12])
        except OSError:
            continue
    return ticks / os.sysconf("SC_CLK_TCK")


async def charged(database: Database, organisation: UUID) -> int:
    async with database.unit_of_work(organisation) as unit:
        query = text("SELECT coalesce(sum(attempts), 0) FROM usage_days")
        return int((await unit.session.execute(query)).scalar_one())


async def data_directory(servers: Servers) -> Path:
    engine = create_engine(servers.postgres_admin_url, application_name="bench")
    async with engine.connect() as connection:
        found = Path((await connection.execute(text("SHOW data_directory"))).scalar_one())
    await engine.dispose()
    return found


async def queue_up(
    router: Bus, organisation: UUID, leases: list[tuple[UUID, UUID, UUID]], wish: Wish
) -> None:
    await router.start()
    records = [usage(leases[n % BOTS], n) for n in range(wish.attempts)]
    messages: list[UsageRecordedV1 | UsageBatchRecordedV1] = list(records)
    if wish.batch > 1:
        parts = (tuple(records[n : n + wish.batch]) for n in range(0, len(records), wish.batch))
        messages = [UsageBatchRecordedV1(batch_id=uuid4(), records=part) for part in parts]
    for start in range(0, len(messages), 100):
        some = messages[start : start + 100]
        await asyncio.gather(*(router.publish(each, organisation_id=organisation) for each in some))
    await router.stop()


async def measure(servers: Servers, wish: Wish) -> dict[str, float]:
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
    await queue_up(Bus(servers.amqp(vhost), service="llm-router"), organisation, leases, wish)
    parts = BudgetAnalytics(settings)
    data = await data_directory(servers)
    server = server_cpu_seconds(data)
    began, cpu = time.perf_counter(), time.process_time()
    parts.background.start("usage", parts.usage.run)
    await parts.bus.start()
    while await charged(database, organisation) < wish.attempts:  # noqa: ASYNC110 - rows are no event to wait for
        await asyncio.sleep(0.05)
    took, spent = time.perf_counter() - began, time.process_time() - cpu
    server = server_cpu_seconds(data) - server
    findings = await parts.cases.check_ledger(organisation, full=True)
    await parts.bus.stop()
    await parts.background.stop()
    await parts.session.close()
    await parts.database.dispose()
    await database.dispose()
    return {
        "attempts": wish.attempts,
        "batch": wish.batch,
        "attempts_per_second": round(wish.attempts / took),
        "attempts_per_cpu_second": round(wish.attempts / (spent + server)),
        "python_us_per_attempt": round(1_000_000 * spent / wish.attempts),
        "postgres_us_per_attempt": round(1_000_000 * server / wish.attempts),
        "findings": len(findings),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attempts", type=int, default=50_000)
    parser.add_argument("--batch", type=int, default=500)
    given = parser.parse_args()
    wish = Wish(given.attempts, given.batch)
    telemetry = configure("bench", otlp_endpoint=None, log_level="ERROR")
    servers = start_servers()
    try:
        # The loop the service itself runs on.
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            print(json.dumps(runner.run(measure(servers, wish))))
    finally:
        servers.close()
        telemetry.shutdown()


if __name__ == "__main__":
    main()
