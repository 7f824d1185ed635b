"""What a budget lets through: one crowd of clients against ours and against LiteLLM Proxy. `make bench-cap`.

LiteLLM's budgets per key and team need a database client that its package does not carry, so its limit is
its provider budget (`provider_budget_config`), counted in a Redis that all proxies share. Nothing of it is
killed and no fault is scripted, which is kinder than what our own routers go through in the same run.
"""

import argparse
import json
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from tests.bench import page
from tests.chaos.crowd import Account, Crowd
from tests.chaos.hard_cap import (
    INPUT_PRICE,
    MAX_TOKENS,
    OUTPUT_PRICE,
    USD,
    Plan,
    Report,
    price_of,
    run_squeeze,
)
from tests.compat.environments import interpreter

from kairos_testkit.fake_provider import FakeProvider
from kairos_testkit.guardian import Guardian
from kairos_testkit.ports import answers, free_port
from kairos_testkit.processes import Process, ServerSpec
from kairos_testkit.servers import start_native
from kairos_testkit.settings import passed_environment

OWNER = "all"
READY_TIMEOUT_S = 180.0


@dataclass
class PeerReport:
    """Amounts in nano-USD. `overshoot` is what the provider billed above the limit."""

    proxies: int
    clients: int
    seconds: float
    limit_nano_usd: int
    outcomes: dict[str, int] = field(default_factory=dict)
    billed_nano_usd: int = 0
    overshoot_nano_usd: int = 0
    overshoot_percent: float = 0.0


def _config(provider_url: str, redis_url: str, key: str, limit: int) -> str:
    store = urlsplit(redis_url)
    deployment = {
        "model": "openai/fake-echo",
        "api_base": provider_url,
        "api_key": "fake",
        "input_cost_per_token": INPUT_PRICE / USD,
        "output_cost_per_token": OUTPUT_PRICE / USD,
    }
    budget = {"openai": {"budget_limit": limit / USD, "time_period": "1d"}}
    return yaml.safe_dump(
        {
            "model_list": [{"model_name": "default", "litellm_params": deployment}],
            "general_settings": {"master_key": key},
            "router_settings": {
                "num_retries": 0,
                "redis_host": store.hostname,
                "redis_port": store.port,
                "redis_password": store.password,
                "provider_budget_config": budget,
            },
        }
    )


def _proxy(python: Path, config: Path, number: int) -> ServerSpec:
    port = free_port()
    program = python.with_name("litellm")
    return ServerSpec(
        name=f"litellm-{number}",
        argv=(str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)),
        env=passed_environment() | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "PORT": str(port)},
        cwd=config.parent,
        ready=lambda: answers(port),
        ready_timeout=READY_TIMEOUT_S,
    )


def squeeze_litellm(
    python: Path, *, proxies: int = 3, clients: int = 200, seconds: float = 45.0, limit: int = USD // 20
) -> PeerReport:
    """`python` is the interpreter of an environment that has litellm[proxy]."""
    report = PeerReport(proxies, clients, seconds, limit)
    servers, provider, guardian = start_native(), FakeProvider().start(), Guardian()
    state = Path(tempfile.mkdtemp(prefix="kairos-peer-"))
    guardian.remove_at_end(state)
    key, config = f"sk-{secrets.token_hex(8)}", state / "litellm.yaml"
    config.write_text(_config(provider.url, servers.redis_url, key, limit))
    specs = [_proxy(python, config, number) for number in range(proxies)]
    running = [Process(spec, state / f"{spec.name}.log", guardian) for spec in specs]
    try:
        for process in running:
            process.start(wait=False)
        for process in running:
            process.wait_ready()
        gateways = [f"http://127.0.0.1:{process.spec.env['PORT']}" for process in running]
        crowd = Crowd(gateways, [Account(OWNER, key)], clients=clients, seed=1, max_tokens=MAX_TOKENS)
        crowd.start()
        time.sleep(seconds)
        crowd.leave()
        _count(report, crowd, provider)
    finally:
        for process in running:
            process.kill()
        guardian.close()
        provider.stop()
        servers.close()
        shutil.rmtree(state, ignore_errors=True)
    return report


def _count(report: PeerReport, crowd: Crowd, provider: FakeProvider) -> None:
    report.outcomes = crowd.tally.outcomes()
    report.billed_nano_usd = sum(price_of(each) for each in provider.records if each.billed)
    report.overshoot_nano_usd = max(0, report.billed_nano_usd - report.limit_nano_usd)
    report.overshoot_percent = round(100 * report.overshoot_nano_usd / report.limit_nano_usd, 1)


def _usd(nano: int) -> str:
    return f"{nano / USD:.4f}"


def _ours(report: Report, plan: Plan) -> str:
    limit, billed = report.limit_nano_usd["all"], report.billed_nano_usd["all"]
    over = max(0, billed - limit)
    kills = sum(report.kills.values())
    torment = f"{kills} x SIGKILL, {report.flushes} x FLUSHALL, {report.faults} faults"
    what = f"Kairos, {plan.routers} routers, {torment}"
    return _row(what, sum(report.outcomes.values()), limit, billed, over, report.outcomes.get("refused", 0))


def _row(what: str, asked: int, limit: int, billed: int, over: int, refused: int) -> str:
    above = f"{_usd(over)} ({100 * over / limit:.1f} %)"
    return f"| {what} | {asked:,} | {_usd(limit)} | {_usd(billed)} | {above} | {refused:,} |"


def _proof(ours: Report) -> str:
    return (
        f"Ours: {ours.samples:,} samples of every budget, {len(ours.breaches)} breaches; "
        f"{_usd(ours.unused_nano_usd['all'])} USD left at exhaustion; {ours.reconciled_attempts} attempts "
        "reconciled with the provider's record."
    )


def _text(plan: Plan, ours: Report, peer: PeerReport, version: str) -> str:
    theirs = f"LiteLLM Proxy {version}, {peer.proxies} proxies, nothing killed"
    asked, refused = sum(peer.outcomes.values()), peer.outcomes.get("refused", 0)
    rows = [
        f"Seed {plan.seed}, {plan.clients} clients at once, half of the requests are streams; USD.",
        "",
        "| gateway | requests | limit | billed by the provider | above the limit | refused |",
        "|---|--:|--:|--:|--:|--:|",
        _ours(ours, plan),
        _row(theirs, asked, peer.limit_nano_usd, peer.billed_nano_usd, peer.overshoot_nano_usd, refused),
        "",
        _proof(ours),
    ]
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What budgets let through.")
    parser.add_argument("--seconds", type=float, default=45.0)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seed", type=int, default=20261122)
    options = parser.parse_args(arguments)
    python = interpreter("litellm", "bench")
    code = "import importlib.metadata as m; print(m.version('litellm'))"
    version = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    peer = squeeze_litellm(python, seconds=options.seconds, clients=options.clients)
    sys.stdout.write(json.dumps(asdict(peer), indent=2) + "\n")
    plan = Plan(seed=options.seed, clients=options.clients, seconds=options.seconds)
    ours = run_squeeze(plan)
    text = _text(plan, ours, peer, version)
    sys.stdout.write(text + "\n" + "\n".join(ours.breaches) + "\n")
    page.write("bench-cap", text)


if __name__ == "__main__":
    main()
