"""Routers, crashes, duplicates and administrators in any order, against real PostgreSQL.

The machine keeps the provider's own record of what every attempt truly cost and plays router processes that
keep the rules of docs/money.md. Honest: no attempt costs more than its hold and no limit is lowered; then the
cap may not be passed at any step. Otherwise it may be, and every step must record by how much.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kairos_budget.application.define_budget import BudgetChange
from kairos_budget.application.ports import Usage
from kairos_budget.application.reconcile_attempts import ProviderRecord
from kairos_budget.application.renew_leases import Heartbeat
from kairos_budget.bootstrap import SERVICE, use_cases
from kairos_budget.domain.book import BudgetExceeded
from kairos_budget.domain.budget import Budget, Scope
from kairos_budget.domain.calendar import PeriodKind
from kairos_budget.domain.lease import Report
from kairos_budget.domain.ledger import Balances
from kairos_budget.domain.priority import Priority, Reserves
from kairos_persistence import Database, create_engine
from kairos_testkit.databases import Provisioned

from .conftest import CONTEXT, Bench, settings_of  # noqa: TID252 - tests have no importable package name

HOLDERS = ("router-1", "router-2", "router-3")
RESERVES = Reserves(normal=10, interactive=20)


@dataclass
class Held:
    """A lease as its router knows it. `holds`: attempt -> hold."""

    lease_id: UUID
    holder: str
    bot: UUID | None
    project: UUID | None
    granted: int
    contact: UUID | None = None
    settled: int = 0
    returned: int = 0
    holds: dict[UUID, int] = field(default_factory=dict)

    @property
    def free(self) -> int:
        return self.granted - self.returned - self.settled - sum(self.holds.values())

    @property
    def report(self) -> Report:
        return Report(self.settled, sum(self.holds.values()), self.returned)


@dataclass(frozen=True)
class Called:
    """What the provider wrote down about one attempt."""

    lease: Held
    cost: int


@dataclass
class Server:
    """One event loop and one pool for all examples."""

    runner: asyncio.Runner
    database: Database
    url: str


SERVER: list[Server] = []


@pytest.fixture(scope="module", autouse=True)
def server(provisioned: Provisioned) -> Iterator[None]:
    url = provisioned.service_database("kairos_budget", "budget")
    with asyncio.Runner() as runner:
        database = Database(create_engine(url, application_name="machine", pool_size=3), service=SERVICE)
        SERVER.append(Server(runner, database, url))
        yield
        runner.run(database.dispose())
        SERVER.clear()


class Authority(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.server = SERVER[0]
        self.bench = Bench(
            self.server.database, use_cases(self.server.database, settings_of(self.server.url))
        )
        self.bot, self.project, self.contact = uuid4(), uuid4(), uuid4()
        self.budgets: list[Budget] = []
        self.live: list[Held] = []
        self.crashed: list[Held] = []
        self.provider: dict[UUID, Called] = {}
        self.queue: list[Usage] = []
        self.delivered: list[Usage] = []
        self.honest = True
        self.moved = 0

    def run(self, work: Any) -> Any:
        return self.server.runner.run(work)

    def balances(self, budget: Budget) -> Balances:
        return self.run(self.bench.reading(budget)).balances  # type: ignore[no-any-return]  # Any from run

    @initialize(
        honest=st.booleans(),
        wide=st.integers(50, 400),
        middle=st.integers(20, 300),
        narrow=st.integers(10, 200),
        rolling=st.integers(10, 200),
    )
    def define_budgets(self, honest: bool, wide: int, middle: int, narrow: int, rolling: int) -> None:
        self.honest = honest
        make = self.bench.budget
        self.budgets = [
            self.run(make(wide)),
            self.run(make(middle, scope=Scope.PROJECT, scope_id=self.project, period=PeriodKind.TOTAL)),
            self.run(make(narrow, scope=Scope.BOT, scope_id=self.bot, period=PeriodKind.DAY)),
            self.run(
                make(
                    rolling,
                    scope=Scope.CONTACT,
                    scope_id=self.contact,
                    period=PeriodKind.ROLLING,
                    window_hours=24,
                    reserves=RESERVES,
                )
            ),
        ]

    @rule(
        holder=st.sampled_from(HOLDERS),
        with_bot=st.booleans(),
        with_project=st.booleans(),
        with_contact=st.booleans(),
        priority=st.sampled_from(Priority),
        need=st.integers(1, 40),
        more=st.integers(0, 200),
    )
    def grant(
        self,
        holder: str,
        with_bot: bool,
        with_project: bool,
        with_contact: bool,
        priority: Priority,
        need: int,
        more: int,
    ) -> None:
        bot, project = (self.bot if with_bot else None), (self.project if with_project else None)
        contact = self.contact if with_contact else None
        applies = [self.budgets[0]]
        applies += [self.budgets[1]] if with_project else []
        applies += [self.budgets[2]] if with_bot else []
        applies += [self.budgets[3]] if with_contact else []
        left = min(self.left(budget, priority) for budget in applies)
        chain = {"bot": bot, "project": project} | ({"contact_id": contact} if contact else {})
        ask = self.bench.lease(need + more, need=need, holder=holder, priority=priority, **chain)
        try:
            lease = self.run(ask).lease
        except BudgetExceeded:
            assert need > left
            return
        assert need <= lease.granted <= left
        assert (lease.priority is None) == (contact is None)
        self.live.append(Held(lease.id, holder, bot, project, lease.granted, contact))

    @precondition(lambda self: self.live)
    @rule(data=st.data(), want=st.integers(0, 60))
    def renew(self, data: st.DataObject, want: int) -> None:
        lease = data.draw(st.sampled_from(self.live))
        self.heartbeat(lease, want)

    def heartbeat(self, lease: Held, want: int) -> None:
        """As a router does it: what it is told to give back it gives up at once and reports next time."""
        beat = Heartbeat(lease.lease_id, 1, lease.report, want)
        (renewal,) = self.run(self.bench.cases.renew_leases(lease.holder, [beat]))
        assert renewal.status == "ok"
        lease.granted += renewal.granted_more
        if renewal.keep is not None:
            lease.returned += max(0, lease.free - renewal.keep)

    @precondition(lambda self: any(lease.free > 0 for lease in self.live))
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        """A router that has more than it needs gives part of it back, and says so once or twice."""
        lease = data.draw(st.sampled_from([each for each in self.live if each.free > 0]))
        lease.returned += data.draw(st.integers(1, lease.free))
        for _ in range(data.draw(st.integers(1, 2))):
            self.heartbeat(lease, 0)

    @rule(need=st.integers(1, 60))
    def exhaust(self, need: int) -> None:
        """Whoever is refused once gets, after a heartbeat of all holders, whatever no hold or spend keeps."""
        try:
            lease = self.run(self.bench.lease(need, holder="router-4")).lease
        except BudgetExceeded as refusal:
            if not refusal.recallable:
                return
        else:
            self.run(self.bench.cases.close_lease(lease.id, epoch=1, settled=0))
            return
        for _ in range(2):
            for lease in self.live:
                self.heartbeat(lease, 10)
        assert all(lease.free <= 0 for lease in self.live)
        left = self.balances(self.budgets[0]).available
        if left:
            lease = self.run(self.bench.lease(left, holder="router-4")).lease
            self.run(self.bench.cases.close_lease(lease.id, epoch=1, settled=0))

    @precondition(lambda self: self.budgets)
    @rule(hours=st.integers(1, 30))
    def move_window(self, hours: int) -> None:
        """Time passes for the rolling budget."""
        self.run(
            self.bench.execute(
                "UPDATE period_buckets SET starts_at = starts_at - :by WHERE organisation_id = :organisation",
                by=timedelta(hours=hours),
                organisation=self.bench.organisation,
            )
        )
        self.moved += hours

    def left(self, budget: Budget, priority: Priority) -> int:
        balances = self.balances(budget)
        return max(balances.available - budget.reserves.floor(balances.limit, priority), 0)

    @precondition(lambda self: any(lease.free > 0 for lease in self.live))
    @rule(data=st.data())
    def dispatch(self, data: st.DataObject) -> None:
        """Take a hold and call the provider."""
        lease = data.draw(st.sampled_from([each for each in self.live if each.free > 0]))
        hold = data.draw(st.integers(1, lease.free))
        cost = data.draw(st.integers(0, hold if self.honest else hold + 20))
        attempt = uuid4()
        lease.holds[attempt] = hold
        self.provider[attempt] = Called(lease, cost)

    @precondition(lambda self: any(lease.holds for lease in self.live))
    @rule(data=st.data(), knows=st.booleans())
    def finish(self, data: st.DataObject, knows: bool) -> None:
        """The answer came, or the connection broke and nobody knows."""
        lease = data.draw(st.sampled_from([each for each in self.live if each.holds]))
        attempt = data.draw(st.sampled_from(sorted(lease.holds)))
        hold, cost = lease.holds.pop(attempt), self.provider[attempt].cost
        lease.settled += cost if knows else hold
        self.queue.append(
            self.bench.usage(
                lease.lease_id,
                cost=cost if knows else 0,
                hold=hold,
                outcome="settled" if knows else "unknown",
                attempt=attempt,
                bot=lease.bot,
                project=lease.project,
                contact_id=lease.contact,
            )
        )

    @precondition(lambda self: self.queue)
    @rule(data=st.data(), copies=st.integers(1, 3))
    def deliver(self, data: st.DataObject, copies: int) -> None:
        count = data.draw(st.integers(1, len(self.queue)))
        batch = data.draw(st.permutations(self.queue))[:count]
        self.run(self.bench.record(*(batch * copies)))
        self.queue = [usage for usage in self.queue if usage not in batch]
        self.delivered += batch

    @precondition(lambda self: self.delivered)
    @rule(data=st.data())
    def deliver_again(self, data: st.DataObject) -> None:
        self.run(self.bench.record(data.draw(st.sampled_from(self.delivered))))

    @precondition(lambda self: any(not lease.holds for lease in self.live))
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from([each for each in self.live if not each.holds]))
        self.run(self.bench.cases.close_lease(lease.lease_id, epoch=1, settled=lease.settled))
        self.live.remove(lease)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), loses_events=st.booleans())
    def crash(self, data: st.DataObject, loses_events: bool) -> None:
        """kill -9: holds are forgotten, events not yet confirmed may be lost."""
        holder = data.draw(st.sampled_from(sorted({lease.holder for lease in self.live})))
        dead = [lease for lease in self.live if lease.holder == holder]
        self.live = [lease for lease in self.live if lease.holder != holder]
        self.crashed += dead
        if loses_events:
            ids = {lease.lease_id for lease in dead}
            self.queue = [usage for usage in self.queue if usage.message.lease_id not in ids]

    @precondition(lambda self: self.crashed)
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        self.run(self.bench.silence(data.draw(st.sampled_from(self.crashed)).lease_id))

    @precondition(lambda self: self.provider)
    @rule(data=st.data())
    def reconcile_some(self, data: st.DataObject) -> None:
        attempts = data.draw(st.lists(st.sampled_from(sorted(self.provider)), max_size=4, unique=True))
        known = {usage.message.attempt_id for usage in self.delivered}
        records = [ProviderRecord(each, self.provider[each].cost) for each in attempts if each in known]
        self.run(self._reconcile(records, []))

    @precondition(lambda self: not self.honest and self.budgets)
    @rule(data=st.data(), limit=st.integers(0, 400))
    def change_limit(self, data: st.DataObject, limit: int) -> None:
        budget = data.draw(st.sampled_from(self.budgets))
        change = BudgetChange(limit_nano=limit)
        self.run(self.bench.cases.change_budget(self.bench.organisation, budget.id, change, CONTEXT))

    async def _reconcile(self, records: list[ProviderRecord], complete: list[UUID]) -> None:
        await self.bench.cases.reconcile_attempts(
            self.bench.organisation, records, complete_leases=complete, context=CONTEXT
        )

    @invariant()
    def the_ledger_adds_up_and_the_cap_holds(self) -> None:
        if not self.budgets:
            return
        self.run(self.bench.assert_balanced())
        for budget in self.budgets:
            found = self.balances(budget)
            assert found.excess == max(found.committed - found.limit, 0)
            if self.honest:
                assert found.committed <= found.limit
                assert found.overspend == 0

    def teardown(self) -> None:
        """Everything heals: what is settled is exactly what the provider charged, and nothing is stuck."""
        if not self.budgets:
            return
        if self.queue:
            self.run(self.bench.record(*self.queue))
        for lease in self.live + self.crashed:
            self.run(self.bench.silence(lease.lease_id))
        records = [
            ProviderRecord(attempt, called.cost, lease_id=called.lease.lease_id)
            for attempt, called in sorted(self.provider.items())
        ]
        self.run(self._reconcile(records, [lease.lease_id for lease in self.live + self.crashed]))
        self.the_ledger_adds_up_and_the_cap_holds()
        for budget, applies in zip(
            self.budgets,
            (
                lambda _: True,
                lambda lease: lease.project,
                lambda lease: lease.bot,
                lambda lease: lease.contact,
            ),
            strict=True,
        ):
            truth = sum(called.cost for called in self.provider.values() if applies(called.lease))
            found = self.balances(budget)
            assert (found.leased, found.suspense) == (0, 0)
            if budget.window_hours is None or self.moved < budget.window_hours:
                assert found.settled == truth
            else:
                # Part of it may have left the window.
                assert found.settled <= truth


Authority.TestCase.settings = settings(
    max_examples=12,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.mark.servers
@pytest.mark.timeout(600)
class TestAuthority(Authority.TestCase):  # type: ignore[name-defined, misc]  # hypothesis makes it
    pass
