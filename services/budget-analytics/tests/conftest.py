"""A database per module, and the use cases on it as bootstrap wires them."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from starlette.requests import HTTPConnection

from kairos_budget.application.define_budget import NewBudget
from kairos_budget.application.grant_lease import GrantedLease, LeaseWish
from kairos_budget.application.ports import Usage
from kairos_budget.application.readings import BudgetReading, Slice
from kairos_budget.application.renew_leases import Heartbeat, Renewal
from kairos_budget.bootstrap import SERVICE, build_app, use_cases
from kairos_budget.domain.budget import DEFAULT_THRESHOLDS, Budget, Scope, ScopeChain
from kairos_budget.domain.calendar import PeriodKind
from kairos_budget.domain.lease import Report
from kairos_budget.domain.priority import Priority
from kairos_budget.entrypoints.use_cases import UseCases
from kairos_budget.settings import Settings
from kairos_contracts.audit import AuditContext
from kairos_contracts.llm.v1 import UsageRecordedV1
from kairos_contracts.permissions import Actor, Role
from kairos_messaging import Bus
from kairos_persistence import Database, create_engine
from kairos_testkit.databases import ClonedDatabase, Provisioned
from kairos_testkit.redis_databases import lend
from kairos_testkit.servers import Servers

CONTEXT = AuditContext.system("test")


def settings_of(postgres_url: str, **changes: Any) -> Settings:
    unused = "redis://localhost:1/0"
    return Settings(
        **{
            "postgres_url": postgres_url,
            "amqp_url": "amqp://localhost:1/",
            "redis_url": unused,
            "auth_url": "http://localhost:1",
            "service_secret": "secret",
        }
        | changes
    )


@dataclass
class Bench:
    """One organisation of its own, with shorthand for what routers and administrators do."""

    database: Database
    cases: UseCases
    organisation: UUID = field(default_factory=uuid4)

    async def budget(
        self,
        limit: int,
        *,
        scope: Scope = Scope.ORGANISATION,
        scope_id: UUID | None = None,
        period: PeriodKind = PeriodKind.MONTH,
        **more: Any,
    ) -> Budget:
        wish = NewBudget(
            name="test",
            scope=scope,
            scope_id=scope_id or self.organisation,
            limit_nano=limit,
            period=period,
            **{"time_zone": "UTC", "thresholds": DEFAULT_THRESHOLDS} | more,
        )
        return await self.cases.create_budget(self.organisation, wish, CONTEXT)

    async def lease(
        self,
        want: int,
        need: int | None = None,
        *,
        holder: str = "router-1",
        bot: UUID | None = None,
        project: UUID | None = None,
        lease_id: UUID | None = None,
        priority: Priority = Priority.NORMAL,
        **more: UUID,
    ) -> GrantedLease:
        """`more` names further scopes of the chain, as `contact_id`."""
        chain = ScopeChain(self.organisation, project, bot, **more)
        need = want if need is None else need
        wish = LeaseWish(holder, chain, want=want, need=need, lease_id=lease_id, priority=priority)
        return await self.cases.grant_lease(wish)

    def usage(
        self,
        lease_id: UUID | None,
        *,
        cost: int = 0,
        hold: int | None = None,
        outcome: str = "settled",
        attempt: UUID | None = None,
        bot: UUID | None = None,
        project: UUID | None = None,
        model: str = "echo-1",
        started_at: datetime | None = None,
        **more: Any,
    ) -> Usage:
        message = UsageRecordedV1.model_validate(
            {
                "attempt_id": attempt or uuid4(),
                "completion_id": uuid4(),
                "lease_id": lease_id,
                "project_id": project,
                "bot_id": bot,
                "model": model,
                "deployment": "simulator",
                "provider": "simulator",
                "input_tokens": 10,
                "output_tokens": 5,
                "hold_nano_usd": cost if hold is None else hold,
                "cost_nano_usd": cost,
                "outcome": outcome,
                "price_version": "test",
                "status": 200,
                "streaming": False,
                "started_at": started_at or datetime.now(UTC),
                "latency_ms": 12,
            }
            | more
        )
        return Usage(uuid4(), self.organisation, message, traceparent=None)

    async def record(self, *usages: Usage) -> None:
        await self.cases.record_usage(usages)

    async def reading(self, budget: Budget) -> BudgetReading:
        found = await self.cases.readings.budget(self.organisation, budget.id)
        assert found is not None
        return found

    async def emitted(self, kind: str) -> list[dict[str, Any]]:
        """Bodies of this organisation's outbox messages of one type, oldest first."""
        query = text(
            "SELECT convert_from(body, 'UTF8')::jsonb FROM outbox"
            " WHERE type = :type AND organisation_id = :organisation ORDER BY sequence"
        )
        async with self.database.system_unit_of_work() as unit:
            found = await unit.session.execute(query, {"type": kind, "organisation": self.organisation})
            return list(found.scalars())

    async def execute(self, statement: str, **values: Any) -> None:
        async with self.database.system_unit_of_work() as unit:
            await unit.session.execute(text(statement), values)

    async def scalar(self, query: str, **values: Any) -> Any:
        async with self.database.system_unit_of_work() as unit:
            return (await unit.session.execute(text(query), values)).scalar_one()

    async def beat(
        self, lease_id: UUID, *, holder: str = "router-1", want: int = 0, epoch: int = 1, **report: Any
    ) -> Renewal:
        beat = Heartbeat(lease_id, epoch, Report(**report), want)
        (renewal,) = await self.cases.renew_leases(holder, [beat])
        return renewal

    async def silence(self, lease_id: UUID) -> None:
        """Let the holder have been silent for too long, and sweep."""
        await self.execute(
            "UPDATE leases SET suspend_after = clock_timestamp() - interval '1 s' WHERE id = :id", id=lease_id
        )
        while await self.cases.suspend_silent_leases():
            pass

    async def move_periods(self, budget: Budget, by: timedelta) -> None:
        await self.execute(
            "UPDATE budget_periods SET starts_at = starts_at + :by, ends_at = ends_at + :by"
            " WHERE budget_id = :id",
            by=by,
            id=budget.id,
        )

    async def end_period_in(self, budget: Budget, rest: timedelta) -> None:
        await self.execute(
            "UPDATE budget_periods SET ends_at = clock_timestamp() + :rest WHERE budget_id = :id",
            rest=rest,
            id=budget.id,
        )

    @staticmethod
    def part(limit: int = 50, after: dict[str, Any] | None = None) -> Slice:
        return Slice(limit, after)

    async def assert_balanced(self) -> None:
        assert await self.cases.check_ledger(self.organisation, full=True) == []
        assert await self.cases.check_ledger(self.organisation, full=False) == []


@pytest.fixture(scope="module")
def cloned(provisioned: Provisioned) -> ClonedDatabase:
    return provisioned.database("kairos_budget")


@pytest.fixture(scope="module")
async def database(cloned: ClonedDatabase) -> AsyncIterator[Database]:
    opened = Database(
        create_engine(cloned.urls["budget"], application_name="test", pool_size=10), service=SERVICE
    )
    yield opened
    await opened.dispose()


@pytest.fixture
def bench(database: Database, cloned: ClonedDatabase) -> Bench:
    return Bench(database, use_cases(database, settings_of(cloned.urls["budget"])))


class Gate:
    """Takes "role organisation" or "service name" as a bearer token."""

    async def authenticate(self, connection: HTTPConnection) -> Actor | None:
        words = connection.headers.get("authorization", "").split()
        if len(words) != 3:
            return None
        _, kind, name = words
        if kind == "service":
            return Actor(kind="service", id=name)
        return Actor(kind="member", id="m-1", organisation_id=UUID(name), role=Role(kind))


@dataclass(frozen=True)
class Caller:
    client: httpx.AsyncClient
    credential: str

    async def __call__(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        answer = await self.client.request(
            method, path, json=body, headers={"Authorization": f"Bearer {self.credential}"}
        )
        assert answer.status_code == status, answer.text
        return answer.json()


async def _has_broker(bus: Bus) -> None:
    """An application that is ended before it has the broker waits for it as long as a publish may take."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await bus.check()
            except Exception:  # noqa: BLE001 - whatever is not ready yet, the answer is: not yet
                await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
async def app(cloned: ClonedDatabase, servers: Servers) -> AsyncIterator[FastAPI]:
    vhost = f"budget-http-{uuid4().hex}"
    servers.management.create_vhost(vhost)
    with lend(servers.redis_url) as redis_url:
        settings = settings_of(cloned.urls["budget"], amqp_url=servers.amqp(vhost), redis_url=redis_url)
        built = build_app(settings, authenticator=Gate())
        async with built.router.lifespan_context(built):
            await _has_broker(built.state.parts.bus)
            yield built
    servers.management.delete_vhost(vhost)


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://budget") as opened:
        yield opened


@pytest.fixture
def admin(client: httpx.AsyncClient, bench: Bench) -> Caller:
    return Caller(client, f"admin {bench.organisation}")


@pytest.fixture
def router(client: httpx.AsyncClient) -> Caller:
    return Caller(client, "service llm-router")
