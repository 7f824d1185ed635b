"""A storm: people write while processes are killed at random, then quiet, then the invariants.

Everything random comes from one seed. Intentions are kept here, outside the system under test.
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

from tests.chaos.invariants import Report, Truth, check_channel, check_messages, check_money, over_limit

from kairos_testkit.api_client import ApiError
from kairos_testkit.ports import NotReadyError
from kairos_testkit.processes import Process
from kairos_testkit.servers import start_native
from kairos_testkit.stack import Stack, StackOptions, start_stack

ROOT = Path(__file__).parents[2]
# Nano-USD per token of the deployment `fake` in the stack's configuration.
INPUT_PRICE, OUTPUT_PRICE = 150, 600
FIRST_CHAT = 100_000
LAST_LINES, LAST_CHARACTERS = 60, 12_000
# The Bot API's own limit (30 messages a second for a bot) would stretch the recovery, and a turn's deadline
# (60 s) would answer with the fallback text whatever waits longer; both have tests of their own.
PATIENT = {
    "bot-worker": {"KAIROS_BOTS_TELEGRAM_BOT_PER_S": "10000", "KAIROS_BOTS_TURN_DEADLINE_S": "600"},
}


@dataclass(frozen=True)
class Plan:
    seed: int
    messages: int = 1_000
    conversations: int = 100
    # Process -> how many times it is killed with SIGKILL.
    kills: dict[str, int] = field(
        default_factory=lambda: {"bot-worker": 3, "llm-router": 3, "budget-analytics": 3, "rabbitmq": 3}
    )
    seconds: float = 60.0
    heal_seconds: float = 180.0
    down_seconds: tuple[float, float] = (0.0, 2.0)


class Storm:
    def __init__(self, stack: Stack, plan: Plan) -> None:
        self.stack, self.plan = stack, plan
        # One for each thread, or the seed would not decide who draws what.
        self._speaking, self._killing = random.Random(plan.seed), random.Random(~plan.seed)
        self.intended: dict[str, list[str]] = defaultdict(list)
        self.report = Report(kills=dict.fromkeys(plan.kills, 0))
        self._stop = threading.Event()

    def run(self) -> Report:
        truth = Truth(self._database())
        threads = [threading.Thread(target=self._kill), threading.Thread(target=self._watch_limits)]
        started = time.monotonic()
        for thread in threads:
            thread.start()
        try:
            self._speak(started)
            threads[0].join()
            healed = time.monotonic()
            self._wait_until(self._quiet(truth), self.plan.heal_seconds)
            self.report.seconds_to_recover = round(time.monotonic() - healed, 1)
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
        self._check(truth)
        truth.close()
        return self.report

    def _database(self) -> str:
        return self.stack.suite.postgres_admin_url.rpartition("/")[0] + "/" + self.stack.suite.database

    def _speak(self, started: float) -> None:
        """Messages at random moments; each chat's own messages in order, as Telegram delivers them."""
        moments = sorted(self._speaking.uniform(0, self.plan.seconds) for _ in range(self.plan.messages))
        for number, moment in enumerate(moments):
            self._stop.wait(max(0.0, started + moment - time.monotonic()))
            chat = FIRST_CHAT + number % self.plan.conversations
            text = f"message {number} of chat {chat}"
            self.intended[str(chat)].append(text)
            # Every tenth update arrives twice, as Telegram's do after a lost answer.
            self.stack.say(chat, text, copies=2 if number % 10 == 0 else 1)

    def _process(self, name: str) -> Process:
        process: Any = self.stack.servers.rabbitmq if name == "rabbitmq" else self.stack.processes[name]
        assert isinstance(process, Process)
        return process

    def _kill(self) -> None:
        strikes = [name for name, count in self.plan.kills.items() for _ in range(count)]
        self._killing.shuffle(strikes)
        gap = self.plan.seconds / (len(strikes) + 1)
        for name in strikes:
            self._stop.wait(gap * self._killing.uniform(0.4, 1.2))
            process = self._process(name)
            process.kill()
            self.report.kills[name] += 1
            self._stop.wait(self._killing.uniform(*self.plan.down_seconds))
            process.start(wait=name == "rabbitmq")

    def _watch_limits(self) -> None:
        truth = Truth(self._database())
        while not self._stop.wait(0.05):
            self.report.budget_samples += 1
            for breach in over_limit(truth):
                self.report.breach(breach)
        truth.close()

    def _quiet(self, truth: Truth) -> Callable[[], str]:
        """What still waits, in words; empty when nothing does."""

        def waiting() -> str:
            undelivered = self.stack.telegram.deliveries.pending
            stored = truth.value("SELECT count(*) FROM bots.messages WHERE direction = 'in'")
            open_work = truth.open_work() | ({"webhook": undelivered} if undelivered else {})
            missing = self.plan.messages - stored
            return str(open_work | ({"not stored": missing} if missing > 0 else {}) or "")

        return waiting

    def _wait_until(self, waiting: Callable[[], str], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while left := waiting():
            if time.monotonic() > deadline:
                self.report.breach(f"I7 after {seconds} s there still waits: {left}")
                self._tell_why()
                return
            self._stop.wait(0.2)

    def _tell_why(self) -> None:
        """The ends of the victims' logs: a storm that doesn't heal is rare and seldom comes twice."""
        for name in sorted(self.plan.kills):
            self.report.logs[name] = self._process(name).tail(LAST_LINES)[-LAST_CHARACTERS:]

    def _check(self, truth: Truth) -> None:
        try:
            self.stack.wait_ready()
        except NotReadyError as error:
            self.report.breach(f"I7 {error}")
            self._tell_why()
        billed = {
            str(record.attempt_id): record.input_tokens * INPUT_PRICE + record.output_tokens * OUTPUT_PRICE
            for record in self.stack.provider.records
            if record.billed
        }
        self._reconcile(truth, billed)
        self._wait_until(lambda: self._unposted(truth, billed), 60)
        sent: dict[str, list[str]] = defaultdict(list)
        for message in self.stack.telegram.sent_to():
            sent[str(message.chat_id)].append(message.text)
        check_messages(truth, self.intended, self.report)
        check_channel(truth, sent, self.report)
        check_money(truth, billed, self.report)
        self._check_operations()

    def _unposted(self, truth: Truth, billed: dict[str, int]) -> str:
        posted = truth.value("SELECT count(*) FROM budget.attempts WHERE outcome = 'settled'")
        missing = len(billed) - int(posted)
        return f"{missing} attempts" if missing > 0 else ""

    def _reconcile(self, truth: Truth, billed: dict[str, int]) -> None:
        """What an operator does after an outage: hand the provider's own record in for unknown attempts."""
        unknown_query = "SELECT id FROM budget.attempts WHERE outcome = 'unknown'"
        # The unknown attempts of the last crash are reported when their claim has expired.
        self._wait_until(lambda: "attempts" if truth.open_work() else "", 60)
        self._stop.clear()
        settled_down = time.monotonic() + 60
        while time.monotonic() < settled_down:
            unknown = [str(row["id"]) for row in truth.rows(unknown_query)]
            known = truth.value("SELECT count(*) FROM budget.attempts WHERE outcome = 'settled'")
            if int(known) + len([attempt for attempt in unknown if attempt in billed]) >= len(billed):
                break
            time.sleep(0.2)
        unknown = [str(row["id"]) for row in truth.rows(unknown_query)]
        self.report.unknown_attempts_reconciled = len(unknown)
        records = [{"attempt_id": attempt, "cost_nano_usd": billed.get(attempt, 0)} for attempt in unknown]
        for start in range(0, len(records), 100):
            batch = {"records": records[start : start + 100]}
            try:
                self.stack.client("budget-analytics").post("/reconciliations", batch)
            except ApiError as error:
                self.report.breach(f"I4 reconciliation was refused: {error}")

    def _check_operations(self) -> None:
        budget = self.stack.client("budget-analytics")
        check = budget.get("/ledger/check")
        if not check["balanced"]:
            self.report.breach(f"I5 ledger check: {check}")
        dead = list(self.stack.client("observability").items("/dead-letters"))
        if dead:
            self.report.breach(f"I7 dead letters: {dead[:3]}")
        verified = self.stack.client("auth-audit").post("/audit/verify")
        if not verified["intact"]:
            self.report.breach(f"I6 audit: {verified}")


def run_storm(plan: Plan, options: StackOptions | None = None) -> Report:
    """Own servers (the broker is among the victims), own suite, one storm."""
    servers = start_native(durable=True)
    try:
        with start_stack(servers, ROOT, options or StackOptions(env=PATIENT)) as stack:
            return Storm(stack, plan).run()
    finally:
        servers.close()


def render(plan: Plan, report: Report) -> str:
    rows = {key: value for key, value in asdict(report).items() if key not in {"breaches", "logs"}}
    width = max(map(len, rows))
    what = f"{plan.messages} messages over {plan.conversations} conversations in {plan.seconds:.0f} s"
    lines = [f"seed {plan.seed}: {what}"]
    lines += [f"  {key:<{width}}  {json.dumps(value)}" for key, value in rows.items()]
    lines += [f"  BREACH {text}" for text in report.breaches[:40]]
    lines += [f"  LOG of {name}:\n{tail}" for name, tail in report.logs.items()]
    return "\n".join(lines)
