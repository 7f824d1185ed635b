"""`make bench`: baseline figures of the suite on this machine, as a table and in docs/benchmarks.md.

One suite with one process a service; the provider and the Bot API are fakes of the test kit in processes of
their own or of this one, as the table says. Figures compare within one run; nothing here fails on a time.
"""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from kairos_testkit.ports import free_port, wait_until
from kairos_testkit.servers import start_native
from kairos_testkit.stack import Stack, StackOptions, start_stack
from kairos_testkit.suite import healthy

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench.load import Figures, drive, measured, quantile  # noqa: E402 - needs the path above
from tests.bench.page import write  # noqa: E402 - as above

Rows = list[tuple[str, Figures]]
TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
FIRST_CHAT = 500_000
MESSAGES = """\
The whole way: webhook, RabbitMQ, turn, router, hold, fake provider, ledger, reply to the fake Bot API. The
quiet window, in which a turn waits for more messages, is 0 ms here and 300 ms by default."""
ROUTER = """\
Keys, budgets, limits, metrics and usage events on. The bare rows ask the same fake provider without the
router; their CPU is the provider's, the other rows' the router's."""
# The Bot API's own limit (30 messages a second for a bot) would be all that is measured.
UNLIMITED = {"bot-worker": {"KAIROS_BOTS_TELEGRAM_BOT_PER_S": "10000"}}
SERVICES = ("bot-worker", "llm-router", "budget-analytics", "auth-audit", "observability")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * PAGE_BYTES / 2**20


def completion(model: str, *, stream: bool) -> bytes:
    message = {"role": "user", "content": "When does my parcel arrive? It was sent on Monday from Ankara."}
    return json.dumps({"model": model, "messages": [message], "max_tokens": 64, "stream": stream}).encode()


async def router_figures(stack: Stack, provider: str, provider_pid: int, seconds: float) -> Rows:
    router, pid = stack.url("llm-router") + "/v1/chat/completions", stack.processes["llm-router"].pid
    bare = provider + "/v1/chat/completions"
    key = {"Authorization": f"Bearer {stack.seeded.api_key}"}
    rows: Rows = []
    for stream in (False, True):
        kind = "stream" if stream else "plain"
        for workers in (1, 32):
            for name, url, model, headers, process in (
                ("bare fake provider", bare, "fake-echo", {}, provider_pid),
                ("llm-router", router, "default", key, pid),
            ):
                body = completion(model, stream=stream)

                async def run(
                    url: str = url,
                    body: bytes = body,
                    headers: dict[str, str] = headers,
                    workers: int = workers,
                ) -> Figures:
                    return await drive(url, body, headers, workers=workers, seconds=seconds)

                await drive(url, body, headers, workers=workers, seconds=0.5)
                rows.append((f"{name}, {kind}, {workers} at once", await measured(process, cpu_seconds, run)))
    return rows


def one_by_one(stack: Stack, count: int) -> Figures:
    """Latency from webhook delivery to the sent reply, one message at a time, each in a chat of its own."""
    times: list[float] = []
    begun = time.perf_counter()
    for number in range(count):
        chat = FIRST_CHAT + number
        started = time.time()
        stack.say(chat, f"bench {number}")
        (sent, *_) = stack.telegram.wait_sent(1, chat_id=chat, timeout=30)
        times.append((sent.at - started) * 1_000)
    took = time.perf_counter() - begun
    times.sort()
    return Figures(count, took, quantile(times, 0.5), quantile(times, 0.99), 0)


def all_at_once(stack: Stack, count: int) -> Figures:
    """Throughput: every message is handed over at once, each in a chat of its own."""
    first = FIRST_CHAT + 100_000
    before = len(stack.telegram.sent)
    started = time.time()
    for number in range(count):
        stack.say(first + number, f"bench {number}")
    wait_until(lambda: len(stack.telegram.sent) - before >= count, timeout=300, what="all replies")
    times = sorted((message.at - started) * 1_000 for message in stack.telegram.sent[before:])
    return Figures(count, times[-1] / 1_000, quantile(times, 0.5), quantile(times, 0.99), 0)


def start_provider() -> tuple[subprocess.Popen[bytes], str]:
    port = free_port()
    command = [sys.executable, "-m", "kairos_testkit.fake_provider", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_until(lambda: healthy(f"http://127.0.0.1:{port}/v1/models"), timeout=20, what="the fake provider")
    return process, f"http://127.0.0.1:{port}"


def table(rows: Rows) -> list[str]:
    lines = [
        "| what | requests/s | p50 ms | p99 ms | errors | CPU ms a request |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, f in rows:
        cpu = f"{f.cpu_ms:.2f}" if f.cpu_ms is not None else "-"
        lines.append(f"| {name} | {f.per_second:,.0f} | {f.p50:.1f} | {f.p99:.1f} | {f.errors} | {cpu} |")
    return lines


def memory(stack: Stack) -> list[str]:
    lines = ["| service | resident MiB |", "|---|--:|"]
    return lines + [f"| {name} | {resident_mib(stack.processes[name].pid):.0f} |" for name in SERVICES]


def page(messages: Rows, router: Rows, stack_lines: list[str]) -> str:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    kernel = f"{platform.system()} {platform.release()}"
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, {kernel}"
    return "\n".join(
        [
            f"{datetime.now(UTC):%Y-%m-%d}, commit {commit.stdout.strip()}, {machine}.",
            "",
            "### From webhook to sent reply",
            MESSAGES,
            "",
            *table(messages),
            "",
            "### Router",
            ROUTER,
            "",
            *table(router),
            "",
            "### Memory after the run",
            *stack_lines,
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one router measurement")
    parser.add_argument("--messages", type=int, default=1_000)
    parser.add_argument("--no-page", action="store_true", help="print only")
    given = parser.parse_args()
    provider, url = start_provider()
    servers = start_native(durable=True)
    try:
        options = StackOptions(
            quiet_window_ms=0,
            provider_url=f"{url}/v1",
            log_level="WARNING",
            env=UNLIMITED,
            compiled=True,
        )
        with start_stack(servers, ROOT, options) as stack:
            messages = [("one message at a time", one_by_one(stack, given.messages // 10))]
            messages.append((f"{given.messages} messages at once", all_at_once(stack, given.messages)))
            router = asyncio.run(router_figures(stack, url, provider.pid, given.seconds))
            text = page(messages, router, memory(stack))
    finally:
        servers.close()
        provider.terminate()
        provider.wait(10)
    print(text)
    if not given.no_page:
        write("bench", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
