"""`make bench-router`: llm-router beside LiteLLM Proxy, Portkey's gateway and no gateway at all.

One machine, one fake upstream, one load generator, one after the other. Ours runs with everything on: API
keys, budgets, quotas, metrics and usage events, on real RabbitMQ, PostgreSQL and Redis. CPU is that of the
process under test alone, so that two cores are enough. Nothing here fails on a time.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from kairos_testkit.guardian import Guardian
from kairos_testkit.ports import answers, free_port, wait_until
from kairos_testkit.processes import Process
from kairos_testkit.servers import start_native
from kairos_testkit.stack import Stack, StackOptions, start_stack

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench import page, peers  # noqa: E402 - needs the path above

HERE = Path(__file__).parent
TICKS = os.sysconf("SC_CLK_TCK")
SHORT, LONG = 20, 100
QUESTION = "When does my parcel arrive? It was sent on Monday from Ankara."
# Above what the machine can do, so that nothing is refused and everything is counted.
UNREACHABLE = 10**9
QUOTAS = (
    {"scope": "api_key", "metric": "requests", "limit": UNREACHABLE, "window": "minute"},
    {"scope": "organisation", "metric": "tokens", "limit": UNREACHABLE, "window": "minute"},
    {"scope": "organisation", "metric": "concurrent", "limit": 10_000},
)
# Of the suite only what the router needs runs: nobody writes to bots here.
QUIET = {"llm-router": {"KAIROS_ROUTER_OTLP_ENDPOINT": ""}}
DEPLOYMENT = """
[deployments.events-{events}]
kind = "openai"
provider = "bench"
model = "bench-model-{events}"
base_url = "{url}"
price = {{ input = 1, output = 4 }}
context_window = 128_000
max_output_tokens = 4_096
capabilities = ["streaming", "tools", "json"]
"""


@dataclass(frozen=True)
class Load:
    """What is asked: `connections` clients at once, streams of `events` pieces or whole answers."""

    label: str
    connections: int
    events: int
    stream: bool


LOADS: Final = (
    Load("plain, 1 at once", 1, SHORT, stream=False),
    Load("plain, 64 at once", 64, SHORT, stream=False),
    Load("stream of 20, 1 at once", 1, SHORT, stream=True),
    Load("stream of 20, 64 at once", 64, SHORT, stream=True),
    Load("stream of 100, 64 at once", 64, LONG, stream=True),
)


@dataclass(frozen=True)
class Target:
    """Something that answers chat completions."""

    name: str
    url: Mapping[int, str]
    models: Mapping[int, str]
    headers: Mapping[int, Mapping[str, str]]
    pids: Mapping[int, int]


@dataclass(frozen=True)
class Row:
    """Times in milliseconds. `cpu_ms` is the processor time of the process under test per request."""

    target: str
    load: Load
    per_second: float
    p50: float
    p99: float
    errors: int
    cpu_ms: float

    @property
    def per_core(self) -> float:
        return 1_000 / self.cpu_ms if self.cpu_ms else 0.0


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def drive(target: Target, load: Load, seconds: float) -> dict[str, Any]:
    """One run of the load generator, in a process of its own."""
    body = {
        "model": target.models[load.events],
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 64,
        "stream": load.stream,
    }
    told = json.dumps(
        {"headers": target.headers[load.events], "body": json.dumps(body, separators=(",", ":"))}
    )
    command = [sys.executable, str(HERE / "wire.py"), target.url[load.events]]
    command += ["--connections", str(load.connections), "--seconds", str(seconds)]
    done = subprocess.run(command, input=told, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    if found["errors"]:
        print(f"{found['errors']} errors, the first: {found['first_error']}", flush=True)
    return found


def measure(target: Target, load: Load, given: argparse.Namespace) -> Row:
    """The round that took the least CPU per request: what else the machine does makes some dearer."""
    drive(target, load, min(1.0, given.seconds))
    rows = [_measure(target, load, given.seconds) for _ in range(given.rounds)]
    return replace(min(rows, key=lambda row: row.cpu_ms), errors=sum(row.errors for row in rows))


def _measure(target: Target, load: Load, seconds: float) -> Row:
    pid = target.pids[load.events]
    before = cpu_seconds(pid)
    found = drive(target, load, seconds)
    used = (cpu_seconds(pid) - before) * 1_000 / max(found["requests"], 1)
    rate = found["requests"] / found["seconds"]
    row = Row(target.name, load, rate, found["p50"], found["p99"], int(found["errors"]), used)
    print(f"{row.target}, {load.label}: {rate:,.0f}/s, {used:.3f} ms CPU, {row.errors} errors", flush=True)
    return row


@contextmanager
def upstream() -> Iterator[Target]:
    """The fake provider, once for short streams and once for long ones."""
    processes, urls = {}, {}
    try:
        for events in (SHORT, LONG):
            port = free_port()
            command = [
                sys.executable,
                str(HERE / "upstream.py"),
                "--port",
                str(port),
                "--events",
                str(events),
            ]
            processes[events] = subprocess.Popen(command)
            wait_until(lambda port=port: answers(port), timeout=20, what="the upstream")
            urls[events] = f"http://127.0.0.1:{port}/v1"
        yield Target(
            "no gateway",
            {events: f"{url}/chat/completions" for events, url in urls.items()},
            dict.fromkeys(urls, "bench"),
            {events: {} for events in urls},
            {events: process.pid for events, process in processes.items()},
        )
    finally:
        for process in processes.values():
            process.terminate()
            process.wait(10)


def bases(bare: Target) -> dict[int, str]:
    return {events: url.removesuffix("/chat/completions") for events, url in bare.url.items()}


def config(bare: Target) -> str:
    deployments = [DEPLOYMENT.format(events=events, url=url) for events, url in bases(bare).items()]
    return (
        'price_version = "bench"\n'
        + "".join(deployments)
        + '\n[routes.default]\ndeployments = ["events-20"]\n'
    )


def ours(stack: Stack) -> Target:
    router = stack.client("llm-router")
    for quota in QUOTAS:
        router.post("/quotas", quota)
    pid = stack.processes["llm-router"].pid
    key = {"Authorization": f"Bearer {stack.seeded.api_key}"}
    both = (SHORT, LONG)
    return Target(
        "llm-router",
        dict.fromkeys(both, stack.url("llm-router") + "/v1/chat/completions"),
        {events: f"events-{events}" for events in both},
        dict.fromkeys(both, key),
        dict.fromkeys(both, pid),
    )


def run_peer(
    peer: peers.Peer, state: Path, guardian: Guardian, given: argparse.Namespace
) -> tuple[list[Row], str]:
    process = Process(peer.spec, state / f"{peer.spec.name}.log", guardian)
    process.start()
    try:
        both = tuple(peer.models)
        urls, pids = dict.fromkeys(both, peer.url), dict.fromkeys(both, process.pid)
        target = Target(f"{peer.name} {peer.version}", urls, peer.models, peer.headers, pids)
        idle = resident_mib(process.pid)
        rows = [measure(target, load, given) for load in LOADS]
        return rows, f"| {target.name} | {idle:.0f} | {resident_mib(process.pid):.0f} |"
    finally:
        process.stop()


def run_ours(bare: Target, given: argparse.Namespace) -> tuple[list[Row], str]:
    servers = start_native(durable=True)
    try:
        options = StackOptions(
            config=config(bare),
            env=QUIET,
            log_level="WARNING",
            with_front_door=False,
            compiled=True,
            replicas={"observability": 0},
        )
        with start_stack(servers, ROOT, options) as stack:
            target = ours(stack)
            pid = target.pids[SHORT]
            idle = resident_mib(pid)
            rows = [measure(target, load, given) for load in LOADS]
            return rows, f"| llm-router | {idle:.0f} | {resident_mib(pid):.0f} |"
    finally:
        servers.close()


def table(rows: list[Row]) -> list[str]:
    bare = {row.load: row for row in rows if row.target == "no gateway"}
    columns = ["load", "gateway", "requests/s", "per core", "CPU ms", "p50 ms", "p99 ms"]
    columns += ["added p50", "added p99", "errors"]
    lines = [_line(columns), "|---|---|" + "--:|" * (len(columns) - 2)]
    for load in LOADS:
        for row in (row for row in rows if row.load == load):
            base = bare[load]
            figures = [f"{row.per_second:,.0f}", f"{row.per_core:,.0f}", f"{row.cpu_ms:.3f}"]
            figures += [f"{row.p50:.2f}", f"{row.p99:.2f}"]
            added = [f"{row.p50 - base.p50:.2f}", f"{row.p99 - base.p99:.2f}"]
            figures += ["", ""] if row is base else added
            lines.append(_line([load.label, row.target, *figures, str(row.errors)]))
    return lines


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def section(rows: list[Row], memory: list[str], given: argparse.Namespace) -> str:
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()}"
    arguments = f"--seconds {given.seconds:g} --rounds {given.rounds}"
    made = f"`make bench-router ARGS='{arguments}'`, {datetime.now(UTC):%Y-%m-%d}"
    load = " ".join(f"{each:.1f}" for each in os.getloadavg())
    return "\n".join(
        [
            f"{made}, commit {commit}, {machine}, load average at the end {load}.",
            "",
            *table(rows),
            "",
            "| gateway | resident MiB idle | after the load |",
            "|---|--:|--:|",
            *memory,
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each load; the best counts")
    parser.add_argument(
        "--only", choices=["ours", "litellm", "portkey"], help="one gateway only, and no page"
    )
    given = parser.parse_args()
    rows: list[Row] = []
    memory: list[str] = []
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        bare = stack.enter_context(upstream())
        guardian = Guardian()
        stack.callback(guardian.close)
        rows += [measure(bare, load, given) for load in LOADS]
        runs = {
            "ours": lambda: run_ours(bare, given),
            "portkey": lambda: run_peer(
                peers.portkey(bases(bare), Path(folder)), Path(folder), guardian, given
            ),
            "litellm": lambda: run_peer(
                peers.litellm(bases(bare), Path(folder)), Path(folder), guardian, given
            ),
        }
        for name, run in runs.items():
            if given.only in {None, name}:
                found, line = run()
                rows += found
                memory.append(line)
    text = section(rows, memory, given)
    print(text)
    if given.only is None:
        page.write("bench-router", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
