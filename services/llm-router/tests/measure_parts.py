"""Where the processor time of a request to /v1 goes, part by part.

`python services/llm-router/tests/measure_parts.py`. The process of `measure_hot_path.py` is stopped a
thousand times a second of its own processor time, and the part of the code it is in is counted: nothing is
added to what a request does, as a tracing profiler would. What the event loop does in C counts for the part
it calls next.
"""

import argparse
import asyncio
import gc
import signal
import sys
import time
from collections import Counter
from types import FrameType
from typing import Final, Self

import uvicorn
import uvloop
from measure_hot_path import CONNECTIONS, GARBAGE_THRESHOLDS, Callers, Measured, Provider, request_for

EVERY_S: Final = 0.001
OURS: Final = "the measure's own caller and provider"
LOOP: Final = "event loop: turns, tasks, callbacks"
PARTS: Final = {
    "caller's connection: parse, frame, write": (
        "kairos_router/entrypoints/hot_http.py",
        "kairos_web/bounded_heads.py",
        "uvicorn/",
    ),
    "exchange: headers in and out, errors, dispatch": (
        "entrypoints/exchange.py",
        "entrypoints/openai_api.py",
        "entrypoints/operations.py",
        "entrypoints/chat.py",
        "entrypoints/completions.py",
    ),
    "key: digest, actor, permission": ("entrypoints/credentials.py", "kairos_contracts/permissions.py"),
    "quotas: take, tell, correct": (
        "application/limit_requests.py",
        "application/admitted.py",
        "application/quota_counters.py",
        "domain/allowance.py",
    ),
    "what is asked, and who may answer": (
        "domain/ask.py",
        "domain/selection.py",
        "domain/catalogue.py",
        "domain/policy.py",
        "application/choose_deployment.py",
        "application/circuits.py",
    ),
    "money: hold, price, settle": (
        "application/hold_money.py",
        "application/held_lease.py",
        "domain/lease.py",
        "domain/scope_index.py",
        "domain/pricing.py",
        "domain/attempt.py",
        "domain/stream_hold.py",
    ),
    "attempt: its order and its end": (
        "application/complete_chat.py",
        "application/stream_chat.py",
        "domain/identifiers.py",
    ),
    "provider's connection: send, parse, wake": ("adapters/http_client.py", "adapters/http_answer.py"),
    "provider's documents: write, read, find the usage": (
        "adapters/openai_upstream.py",
        "adapters/openai_documents.py",
        "adapters/operations.py",
        "adapters/translated_responses.py",
        "application/usage_documents.py",
    ),
    "usage records": (
        "adapters/usage_journal.py",
        "adapters/buffer.py",
        "application/usage.py",
        "kairos_contracts/message.py",
    ),
    "metrics and traces": ("kairos_telemetry/", "prometheus_client/", "opentelemetry/", "adapters/genai.py"),
    OURS: ("measure_hot_path.py", "measure_parts.py"),
}


def part_of(frame: FrameType | None) -> str:
    """The part of the innermost frame that belongs to one."""
    while frame is not None:
        path = frame.f_code.co_filename
        if not path.endswith(("asyncio/runners.py", "uvloop/__init__.py")):
            for part, places in PARTS.items():
                if any(place in path for place in places):
                    # The loop runs below this module's `main`, whose own frame is no work of anybody's.
                    return LOOP if frame.f_code.co_name in {"main", "<module>"} else part
        frame = frame.f_back
    return LOOP


class Sampler:
    """Counts in which part each sample of processor time falls."""

    def __init__(self) -> None:
        self.samples: Counter[str] = Counter()

    def __enter__(self) -> Self:
        signal.signal(signal.SIGPROF, lambda _, frame: self.samples.update((part_of(frame),)))
        signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)


async def main(seconds: float) -> None:
    measured = Measured()
    config = uvicorn.Config(measured, log_config=None, lifespan="off")
    config.load()
    config.loaded_app = measured
    loop = asyncio.get_running_loop()
    client = measured.upstream._line(measured.deployment).client
    providers = [Provider(loop, client) for _ in range(CONNECTIONS)]
    upkeep = [asyncio.create_task(measured.usage.buffer.run()), asyncio.create_task(measured.quotas.keep())]
    callers = Callers(config)
    found: dict[str, Counter[str]] = {}
    costs: dict[str, float] = {}
    for name in ("plain", "stream"):
        request = request_for(stream=name == "stream")
        await callers.ask(request, 1_000)
        until, best = time.process_time() + seconds, float("inf")
        with Sampler() as sampler:
            while time.process_time() < until:
                started = time.process_time()
                await callers.ask(request, 200)
                best = min(best, (time.process_time() - started) / 200 * 1e6)
        found[name], costs[name] = sampler.samples, best
    for task in upkeep:
        task.cancel()
    await measured.upstream.close()
    del providers
    _print(found, costs)


def _print(found: dict[str, Counter[str]], costs: dict[str, float]) -> None:
    write = sys.stdout.write
    shares = {name: costs[name] / samples.total() for name, samples in found.items()}
    write("| part | plain | stream of 20 |\n|---|--:|--:|\n")
    for part in sorted((*PARTS, LOOP), key=lambda part: -found["plain"][part]):
        figures = [f"{found[name][part] * shares[name]:.1f}" for name in ("plain", "stream")]
        write(f"| {part} | {figures[0]} | {figures[1]} |\n")
    write(f"| **all, best of many rounds** | **{costs['plain']:.0f}** | **{costs['stream']:.0f}** |\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="of processor time, for each kind of request"
    )
    given = parser.parse_args()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    uvloop.run(main(given.seconds))
