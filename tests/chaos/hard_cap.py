"""The squeeze: many clients against budgets at their last cents, while what holds the money is killed.

The truth is the fake provider's own record: what it billed may never pass a budget's limit, at any sample.
"""

import json
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import redis
from tests.chaos.crowd import Account, Crowd, Growing
from tests.chaos.invariants import Truth, over_limit
from tests.chaos.paced_provider import CUT, LEAD, LONGEST, MARK, WHOLE, WRITER, PacedProvider
from tests.chaos.quotas import quotas_over
from tests.e2e.people import signed_in

from kairos_testkit.api_client import ApiError
from kairos_testkit.fake_provider import ProviderRecord
from kairos_testkit.faults_script import Fault
from kairos_testkit.servers import start_native
from kairos_testkit.stack import Stack, StackOptions, start_stack

ROOT = Path(__file__).parents[2]
USD = 1_000_000_000
INPUT_PRICE, OUTPUT_PRICE = 1_000, 4_000
MAX_TOKENS = 32
QUOTA = 600
# The largest hold a request of the crowd needs: its bytes with the router's margin, and its whole answer.
WORST_HOLD = 700 * INPUT_PRICE + MAX_TOKENS * OUTPUT_PRICE
# Two deployments at the same provider: what the first one fails at is tried again at the second.
CONFIG = """\
price_version = "test"

[deployments.first]
kind = "openai"
provider = "fake"
model = "fake-echo"
base_url = "{url}"
api_key_env = "FAKE_PROVIDER_API_KEY"
price = {{ input = 1_000, output = 4_000 }}
context_window = 128_000
max_output_tokens = 4_096
capabilities = ["streaming", "tools", "json"]
timeouts = {{ connect = 3.0, first_byte = 5.0, idle = 5.0 }}

[deployments.second]
kind = "openai"
provider = "fake"
model = "fake-echo"
base_url = "{url}"
api_key_env = "FAKE_PROVIDER_API_KEY"
price = {{ input = 1_000, output = 4_000 }}
context_window = 128_000
max_output_tokens = 4_096
capabilities = ["streaming", "tools", "json"]
timeouts = {{ connect = 3.0, first_byte = 5.0, idle = 5.0 }}

# Streams of this one hold a chunk at a time: it vouches for how far ahead of its reader it gets.
[deployments.writer]
kind = "openai"
provider = "fake"
model = "{writer}"
base_url = "{url}"
api_key_env = "FAKE_PROVIDER_API_KEY"
price = {{ input = 1_000, output = 4_000 }}
context_window = 128_000
max_output_tokens = 4_096
capabilities = ["streaming"]
stream_lead_tokens = {lead}
stream_chunk_tokens = {lead}
timeouts = {{ connect = 3.0, first_byte = 5.0, idle = 10.0 }}

[deployments.free]
kind = "simulator"
model = "simulator-1"
price = {{ input = 0, output = 0 }}
context_window = 32_000
max_output_tokens = 256
capabilities = ["streaming"]

[routes.default]
deployments = ["first", "second"]
"""
UNREPORTED = """
    SELECT l.id, l.holder, l.project_id FROM budget.leases l
    JOIN budget.lease_allocations a ON a.lease_id = l.id
    WHERE a.suspense_nano > 0 GROUP BY l.id, l.holder, l.project_id ORDER BY max(a.suspense_nano) DESC
"""
PERIODS = """
    SELECT b.id AS budget_id, b.name, p.limit_nano, p.settled_nano, p.leased_nano, p.suspense_nano
    FROM budget.budget_periods p JOIN budget.budgets b ON b.id = p.budget_id
"""
OPEN_LEASES_OF = """
    SELECT count(*) FROM budget.leases l JOIN unnest(%s::text[]) AS name ON strpos(l.holder, name) > 0
    WHERE l.state IN ('open', 'closing')
"""
POSTED = "SELECT id, outcome, cost_nano, hold_nano FROM budget.attempts"


@dataclass(frozen=True)
class Plan:
    """`limits`: nano-USD of the organisation ("all") and of each project; None is no budget of its own."""

    seed: int
    clients: int = 200
    seconds: float = 45.0
    routers: int = 3
    limits: dict[str, int | None] = field(
        default_factory=lambda: {"all": USD // 5, "north": USD // 25, "south": USD // 25, "west": None}
    )
    kills: dict[str, int] = field(default_factory=lambda: {"llm-router": 4, "budget-analytics": 3})
    flushes: int = 5
    fault_share: float = 0.15
    growing_share: float = 0.15


@dataclass
class Report:
    """What was asked, billed and booked. Amounts in nano-USD."""

    outcomes: dict[str, int] = field(default_factory=dict)
    last_outcomes: dict[str, int] = field(default_factory=dict)
    kills: dict[str, int] = field(default_factory=dict)
    flushes: int = 0
    faults: int = 0
    provider_requests: int = 0
    samples: int = 0
    limit_nano_usd: dict[str, int] = field(default_factory=dict)
    billed_nano_usd: dict[str, int] = field(default_factory=dict)
    ledger_nano_usd: dict[str, int] = field(default_factory=dict)
    unused_nano_usd: dict[str, int] = field(default_factory=dict)
    estimated_attempts: int = 0
    grown_streams: int = 0
    streams_cut: int = 0
    reconciled_attempts: int = 0
    seconds_to_exhaust: float = 0.0
    quotas: dict[str, list[int]] = field(default_factory=dict)
    seconds_until_a_quota_is_followed: float = 0.0
    breaches: list[str] = field(default_factory=list)


def price_of(record: ProviderRecord) -> int:
    return record.input_tokens * INPUT_PRICE + record.output_tokens * OUTPUT_PRICE


class Squeeze:
    def __init__(self, stack: Stack, provider: PacedProvider, plan: Plan) -> None:
        self.stack, self.provider, self.plan = stack, provider, plan
        self.random = random.Random(plan.seed)
        self.report = Report(kills=dict.fromkeys(plan.kills, 0))
        self.limits = {name: limit for name, limit in plan.limits.items() if limit is not None}
        self.routers = ["llm-router", *(f"llm-router-{number}" for number in range(1, plan.routers))]
        self.budgets: dict[str, str] = {}
        self.accounts: list[Account] = []
        self.projects: dict[str, str] = {}
        # Router process number -> its gateway, for every process there ever was.
        self.pids: dict[int, int] = {}
        self._over = threading.Event()

    def run(self) -> Report:
        self._set_up()
        truth = Truth(self._database())
        crowd = self._crowd(self.plan.clients)
        watcher = threading.Thread(target=self._watch)
        watcher.start()
        crowd.start()
        try:
            self._torment()
            self._exhaust(crowd)
        finally:
            crowd.leave()
            self._over.set()
            watcher.join()
        self.report.outcomes = crowd.tally.outcomes()
        # Nothing is free of charge but time: silence has to last until it is suspected.
        quotas = threading.Thread(target=self._try_quotas)
        quotas.start()
        self._settle(truth, crowd)
        quotas.join()
        self._use_up(truth)
        self._check(truth)
        truth.close()
        return self.report

    # The scene ------------------------------------------------------------------------------------

    def _set_up(self) -> None:
        auth, budget = signed_in(self.stack, "squeezer@kairos.example"), self.stack.client("budget-analytics")
        for listed in budget.items("/budgets", active="true"):
            budget.call("DELETE", f"/budgets/{listed['id']}")
        for name in [name for name in self.plan.limits if name != "all"]:
            project = auth.post("/projects", {"name": name})["id"]
            self.projects[name] = project
            for number in range(2):
                key = auth.post("/api-keys", {"name": f"{name} {number}", "project_id": project})["key"]
                self.accounts.append(Account(name, key))
        for name, limit in self.limits.items():
            scope = {"scope": "organisation"} if name == "all" else {"scope": "project"}
            if name != "all":
                scope["scope_id"] = self.projects[name]
            made = budget.post(
                "/budgets", {"name": name, "limit_nano_usd": limit, "period": "total", **scope}
            )
            self.budgets[made["id"]] = name
        self.report.limit_nano_usd = dict(self.limits)
        for number, router in enumerate(self.routers):
            self.pids[self.stack.processes[router].pid] = number

    def _database(self) -> str:
        return self.stack.suite.postgres_admin_url.rpartition("/")[0] + "/" + self.stack.suite.database

    def _gateways(self) -> list[str]:
        # The replicas' ports stand in their environment only: a service describes itself.
        return [
            f"http://127.0.0.1:{self.stack.processes[name].spec.env['KAIROS_ROUTER_PORT']}"
            for name in self.routers
        ]

    def _crowd(self, clients: int) -> Crowd:
        growing = Growing(self.plan.growing_share, "writer", LONGEST, MARK, self.provider.hear)
        return Crowd(
            self._gateways(),
            self.accounts,
            clients=clients,
            seed=self.plan.seed,
            max_tokens=MAX_TOKENS,
            growing=growing,
        )

    # The torment ----------------------------------------------------------------------------------

    def _torment(self) -> None:
        strikes = [name for name, count in self.plan.kills.items() for _ in range(count)]
        strikes += ["redis"] * self.plan.flushes
        self.random.shuffle(strikes)
        gap = self.plan.seconds / (len(strikes) + 1)
        store = redis.Redis.from_url(self.stack.servers.redis_url)
        for strike in strikes:
            self._misbehave()
            time.sleep(gap * self.random.uniform(0.6, 1.3))
            if strike == "redis":
                store.flushall()
                self.report.flushes += 1
                continue
            name = self.random.choice(self.routers) if strike == "llm-router" else strike
            process = self.stack.processes[name]
            process.kill()
            self.report.kills[strike] += 1
            time.sleep(self.random.uniform(0, 1.5))
            process.start(wait=False)
            if strike == "llm-router":
                self.pids[process.pid] = self.routers.index(name)
        store.close()
        self.stack.wait_ready()

    def _misbehave(self) -> None:
        """Some of the next requests meet a provider that fails, breaks off, lies or tells no usage."""
        kinds = [
            {"status": 429, "retry_after": 0},
            {"status": 500},
            {"garbage": True},
            {"drop": True},
            {"cut_after_bytes": 150},
            {"omit_usage": True},
            {"wrong_usage": {"prompt_tokens": -3, "completion_tokens": "many"}},
            {"wrong_usage": {"prompt_tokens": 0, "completion_tokens": 0}},
            {"delay_ms": 300},
        ]
        for _ in range(round(self.plan.clients * self.plan.fault_share)):
            self.provider.fail(Fault(method="chat", **self.random.choice(kinds)))  # type: ignore[arg-type] # a table of fields
            self.report.faults += 1

    def _exhaust(self, crowd: Crowd) -> None:
        """Let the crowd go on with everything well until every owner is refused for money."""
        self.provider.script.clear()
        started = time.monotonic()
        names = list(self.projects)
        while not all(crowd.tally.refused(name, 20) for name in names):
            if time.monotonic() - started > 120:
                self.report.breaches.append("I5 the budgets were not used up within 120 s")
                return
            time.sleep(0.2)
        self.report.seconds_to_exhaust = round(time.monotonic() - started, 1)

    # The truth ------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """At every sample: no period over its limit, and no more billed by the provider than any limit."""
        truth = Truth(self._database())
        seen, billed = 0, defaultdict(int)
        while not self._over.wait(0.02):
            self.report.samples += 1
            self.report.breaches += [
                breach for breach in over_limit(truth) if breach not in self.report.breaches
            ]
            records = self.provider.records
            for record in records[seen : (end := len(records))]:
                if record.billed:
                    for name in ("all", record.text.partition("-")[0]):
                        billed[name] += price_of(record)
            seen = end
            # Read after the records: what ends in between is missed once, and never counted twice.
            running: dict[str, int] = defaultdict(int)
            known = {record.attempt_id for record in self.provider.records[end:]}
            for record in list(self.provider.writing.values()):
                if record.attempt_id not in known:
                    for name in ("all", record.text.partition("-")[0]):
                        running[name] += price_of(record)
            for name, limit in self.limits.items():
                if billed[name] + running[name] > limit:
                    self._over_bill(name, billed[name] + running[name])
        truth.close()

    def _over_bill(self, name: str, billed: int) -> None:
        text = f"I5 the provider billed {name} more than its limit"
        if text not in self.report.breaches:
            self.report.breaches += [text, f"first seen at {billed} of {self.limits[name]}"]

    def _billed(self) -> dict[str, ProviderRecord]:
        return {str(each.attempt_id): each for each in self.provider.records if each.billed}

    def _wait_until(self, done: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                self.report.breaches.append(f"I7 after {seconds:.0f} s: {what}")
                return
            time.sleep(0.3)

    def _settle(self, truth: Truth, crowd: Crowd) -> None:
        """Wait until silence is suspected, then do what an operator does: hand in the provider's record."""
        dead = [pid for pid in self.pids if pid not in {self.stack.processes[n].pid for n in self.routers}]
        names = [f":{pid}:" for pid in dead]
        self._wait_until(
            lambda: not truth.value(OPEN_LEASES_OF, names), 90, "leases of killed routers are still open"
        )
        self._wait_until(lambda: not self._unposted(truth), 90, "usage of living routers is not posted")
        self._reconcile(truth, crowd)

    def _unposted(self, truth: Truth) -> list[str]:
        """Billed attempts that a living router must have reported, and the ledger has not."""
        posted = {str(row["id"]) for row in truth.rows("SELECT id FROM budget.attempts")}
        suspended = sum(row["suspense_nano"] for row in truth.rows(PERIODS))
        missing = [attempt for attempt in self._billed() if attempt not in posted]
        return missing if not suspended else []

    def _reconcile(self, truth: Truth, crowd: Crowd) -> None:
        posted = {str(row["id"]): row for row in truth.rows(POSTED)}
        gateways = {each.tag: each.gateway for each in crowd.tally.asked}
        leases: dict[tuple[int, str], str] = {}
        for row in truth.rows(UNREPORTED):
            pid = int(str(row["holder"]).split(":")[1])
            leases.setdefault((self.pids.get(pid, -1), str(row["project_id"])), str(row["id"]))
        lines: list[dict[str, Any]] = []
        for attempt, record in self._billed().items():
            if attempt in posted and posted[attempt]["outcome"] != "unknown":
                continue
            owner, tag = record.text.partition("-")[0], record.text.partition(" ")[0]
            line = {"attempt_id": attempt, "cost_nano_usd": price_of(record)}
            gateway = gateways.get(tag, -1)
            # Without a budget of its own a project spends from the organisation's leases.
            lease = leases.get((gateway, self.projects[owner])) or leases.get((gateway, "None"))
            lines.append(line | ({"lease_id": lease} if attempt not in posted and lease else {}))
        unknown = [a for a, row in posted.items() if row["outcome"] == "unknown" and a not in self._billed()]
        lines += [{"attempt_id": attempt, "cost_nano_usd": 0} for attempt in unknown]
        self.report.reconciled_attempts = len(lines)
        complete = [str(row["id"]) for row in truth.rows(UNREPORTED)]
        for start in range(0, len(lines), 100):
            self._hand_in({"records": lines[start : start + 100]})
        for start in range(0, len(complete), 100):
            self._hand_in({"complete_leases": complete[start : start + 100]})

    def _hand_in(self, record: dict[str, Any]) -> None:
        try:
            self.stack.client("budget-analytics").post("/reconciliations", record)
        except ApiError as error:
            log = self.stack.log("budget-analytics")[-3000:]
            self.report.breaches.append(f"I4 reconciliation was refused: {error}\n{log}")

    def _try_quotas(self) -> None:
        """Quotas over all router processes: never above the limit, and next to nothing left unused."""
        try:
            found = quotas_over(self.stack, self._gateways(), QUOTA)
        except Exception as error:  # noqa: BLE001 - a thread's failure must be seen
            self.report.breaches.append(f"quotas: {type(error).__name__}: {error}")
            return
        self.report.quotas = found.admitted
        self.report.seconds_until_a_quota_is_followed = found.seconds_until_followed
        self.report.breaches += found.breaches

    def _use_up(self, truth: Truth) -> None:
        """What reconciliation and idle leases gave back is asked for again, until nothing more is had."""
        watcher = threading.Thread(target=self._watch)
        self._over.clear()
        watcher.start()
        crowd = self._crowd(20)
        crowd.start()
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            time.sleep(1.0)
            left = {self.budgets[str(row["budget_id"])]: _unused(row) for row in truth.rows(PERIODS)}
            self.report.unused_nano_usd = left
            if not _usable(left):
                break
        crowd.leave()
        self.report.last_outcomes = crowd.tally.outcomes()
        self._over.set()
        watcher.join()

    def _check(self, truth: Truth) -> None:
        self._wait_until(lambda: not self._unposted(truth), 60, "usage is not posted at the end")
        billed: dict[str, int] = defaultdict(int)
        exact: dict[str, int] = {}
        grown: dict[str, int] = {}
        for attempt, record in self._billed().items():
            for name in ("all", record.text.partition("-")[0]):
                billed[name] += price_of(record)
            if record.fault in {WHOLE, CUT}:
                grown[attempt] = price_of(record)
                self.report.grown_streams += record.fault == WHOLE
                self.report.streams_cut += record.fault == CUT
            elif record.fault not in {"omit_usage", "wrong_usage"}:
                exact[attempt] = price_of(record)
        self.report.provider_requests = len(self.provider.records)
        self.report.billed_nano_usd = dict(billed)
        posted = {str(row["id"]): row for row in truth.rows(POSTED)}
        self._compare(exact, posted)
        self._compare_grown(grown, posted)
        for row in truth.rows(PERIODS):
            name = self.budgets[str(row["budget_id"])]
            self.report.ledger_nano_usd[name] = row["settled_nano"]
            if row["settled_nano"] < billed[name]:
                self.report.breaches.append(f"I5 {name}: the ledger has less than the provider billed")
        check = self.stack.client("budget-analytics").get("/ledger/check")
        if not check["balanced"]:
            self.report.breaches.append(f"I5 ledger check: {check}")
        for name, left in _usable(self.report.unused_nano_usd).items():
            self.report.breaches.append(f"I5 {name}: {left} nano-USD could not be used up")

    def _compare_grown(self, grown: dict[str, int], posted: dict[str, dict[str, Any]]) -> None:
        """A stream that was cut is charged by what was read and the lead: never less than it cost."""
        for attempt, cost in grown.items():
            if attempt not in posted or posted[attempt]["cost_nano"] < cost:
                self.report.breaches.append(f"I5 stream {attempt}: {posted.get(attempt)}, provider {cost}")

    def _compare(self, exact: dict[str, int], posted: dict[str, dict[str, Any]]) -> None:
        for attempt, cost in exact.items():
            row = posted.get(attempt)
            if row is None:
                self.report.breaches.append(f"I5 the ledger has not attempt {attempt}")
            elif row["outcome"] == "settled" and row["cost_nano"] != cost:
                self.report.breaches.append(
                    f"I5 attempt {attempt}: ledger {row['cost_nano']}, provider {cost}"
                )
        told = self._billed()
        for attempt, row in posted.items():
            if row["cost_nano"] and attempt not in told:
                self.report.breaches.append(f"I5 the provider never billed attempt {attempt}")
            if row["cost_nano"] > row["hold_nano"] > 0:
                self.report.breaches.append(f"I5 attempt {attempt} cost more than its hold")
        self.report.estimated_attempts = len(told.keys() - exact.keys())


def _unused(row: dict[str, Any]) -> int:
    return int(row["limit_nano"] - row["settled_nano"])


def _usable(left: dict[str, int]) -> dict[str, int]:
    """What a request should still get: a project's money is of no use when the organisation has none."""
    usable = {name: min(amount, left["all"]) for name, amount in left.items()}
    return {name: amount for name, amount in usable.items() if amount >= WORST_HOLD}


def run_squeeze(plan: Plan) -> Report:
    """Own servers, own suite with several routers, one squeeze."""
    servers = start_native(durable=True)
    routers = {
        "KAIROS_ROUTER_LEASE_SLICE_NANO_USD": str(USD // 100),
        "KAIROS_ROUTER_LEASE_IDLE_S": "2",
        "KAIROS_ROUTER_LEASE_HEARTBEAT_S": "1",
        # Only its event can tell a router of a quota.
        "KAIROS_ROUTER_LIMITS_POLL_S": "3600",
    }
    # Silence is suspected sooner than in production, where the run would wait half a minute for it.
    authority = {"KAIROS_BUDGET_LEASE_TTL_S": "6", "KAIROS_BUDGET_LEASE_GRACE_S": "4"}
    provider = PacedProvider().start()
    try:
        options = StackOptions(
            measured=False,
            replicas={"llm-router": plan.routers},
            env={"llm-router": routers, "budget-analytics": authority},
            log_level="WARNING",
            config=CONFIG.format(url=provider.url, writer=WRITER, lead=LEAD),
        )
        with start_stack(servers, ROOT, options) as stack:
            return Squeeze(stack, provider, plan).run()
    finally:
        provider.stop()
        servers.close()


def render(plan: Plan, report: Report) -> str:
    rows = {key: value for key, value in asdict(report).items() if key != "breaches"}
    width = max(map(len, rows))
    what = f"{plan.clients} clients, {plan.routers} routers, {plan.seconds:.0f} s of torment"
    lines = [f"seed {plan.seed}: {what}"]
    lines += [f"  {key:<{width}}  {json.dumps(value)}" for key, value in rows.items()]
    return "\n".join(lines + [f"  BREACH {text}" for text in report.breaches[:40]])
