"""The gateways that `make bench-router` compares with, each as its own documentation says to run it fast."""

import secrets
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml
from tests.compat.environments import interpreter

from kairos_testkit.ports import answers, free_port
from kairos_testkit.processes import ServerSpec
from kairos_testkit.settings import passed_environment

HERE: Final = Path(__file__).parent
PLACE: Final = HERE.parents[1] / ".kairos" / "bench"
READY_S: Final = 180.0


@dataclass(frozen=True)
class Peer:
    """A gateway ready to be started. `models` and `headers` are by the upstream's events per stream."""

    name: str
    version: str
    spec: ServerSpec
    url: str
    models: Mapping[int, str]
    headers: Mapping[int, Mapping[str, str]]


def litellm(upstreams: Mapping[int, str], state: Path) -> Peer:
    """LiteLLM Proxy with one worker, its master key, prices, and no database or callbacks."""
    python = interpreter("litellm", "bench")
    port, key = free_port(), f"sk-{secrets.token_hex(8)}"
    price = {"input_cost_per_token": 1e-9, "output_cost_per_token": 4e-9}
    models = [
        {
            "model_name": f"events-{events}",
            "litellm_params": {"model": "openai/bench", "api_base": url, "api_key": "none", **price},
        }
        for events, url in upstreams.items()
    ]
    config = state / "litellm.yaml"
    config.write_text(yaml.safe_dump({"model_list": models, "general_settings": {"master_key": key}}))
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOG": "ERROR"}
    program = str(python.with_name("litellm"))
    spec = ServerSpec(
        name="litellm",
        argv=(program, "--config", str(config), "--host", "127.0.0.1", "--port", str(port)),
        env=passed_environment() | quiet,
        cwd=state,
        ready=lambda: answers(port),
        ready_timeout=READY_S,
    )
    code = "import importlib.metadata as m; print(m.version('litellm'))"
    version = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    headers = {events: {"Authorization": f"Bearer {key}"} for events in upstreams}
    named = {events: f"events-{events}" for events in upstreams}
    return Peer(
        "LiteLLM Proxy", version, spec, f"http://127.0.0.1:{port}/v1/chat/completions", named, headers
    )


def portkey(upstreams: Mapping[int, str], state: Path) -> Peer:
    """Portkey's gateway on Node.js, headless. It keeps no keys or budgets: those are its paid service's."""
    home = PLACE / "portkey"
    home.mkdir(parents=True, exist_ok=True)
    lock = (HERE / "portkey/package-lock.json").read_bytes()
    installed = home / "package-lock.json"
    if not (home / "node_modules").exists() or installed.read_bytes() != lock:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / "portkey" / name, home / name)
        subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=home, check=True)
    gateway = home / "node_modules/@portkey-ai/gateway"
    port = free_port()
    spec = ServerSpec(
        name="portkey",
        argv=("node", str(gateway / "build/start-server.js"), f"--port={port}", "--headless"),
        env=passed_environment() | {"NODE_ENV": "production"},
        cwd=state,
        ready=lambda: answers(port),
        ready_timeout=READY_S,
    )
    version = yaml.safe_load((gateway / "package.json").read_text(encoding="utf-8"))["version"]
    headers = {
        events: {"Authorization": "Bearer none", "x-portkey-provider": "openai", "x-portkey-custom-host": url}
        for events, url in upstreams.items()
    }
    named = dict.fromkeys(upstreams, "bench")
    return Peer(
        "Portkey gateway", version, spec, f"http://127.0.0.1:{port}/v1/chat/completions", named, headers
    )
