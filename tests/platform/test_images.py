"""Builds every image and runs the compose file on a real engine. Slow: `make platform`, not `make test`."""

import base64
import json
import secrets
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.platform.engine import ROOT, Engine

pytestmark = [pytest.mark.platform, pytest.mark.timeout(2400)]

PORTS = {
    "bot-worker": 5050,
    "llm-router": 5051,
    "budget-analytics": 5052,
    "auth-audit": 5053,
    "observability": 5054,
}
DOOR = "127.0.0.1:15000"
HEALTHY_SECONDS = 240


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    with Engine() as running:
        yield running


@pytest.fixture(scope="session")
def images(engine: Engine) -> dict[str, str]:
    """Every image under the name docker-compose.yml uses."""
    engine.base_image("bookworm")
    tags = {}
    for service, port in PORTS.items():
        tags[service] = f"kairos-{service}:dev"
        arguments = (
            "--target",
            "service",
            "--build-arg",
            f"SERVICE={service}",
            "--build-arg",
            f"PORT={port}",
        )
        engine.build(tags[service], *arguments)
    tags["console"] = "kairos-console:dev"
    engine.build(tags["console"], "--target", "console")
    return tags


@pytest.fixture(scope="session")
def servers(engine: Engine) -> None:
    base = engine.base_image("trixie")
    engine.stand_in("rabbitmq:4.1-management", "rabbitmq", base)
    engine.stand_in("postgres:17", "postgres", base)
    engine.stand_in("redis:7", "redis", base)


def compose_tool(engine: Engine) -> list[str]:
    """Compose v2: the client's plug-in, or the distribution's newer package unpacked beside it."""
    if engine.run("compose", "version", check=False, quiet=True).returncode == 0:
        return ["/usr/bin/docker", "compose"]
    folder = engine.folder / "compose"
    binary = folder / "usr/libexec/docker/cli-plugins/docker-compose"
    if not binary.exists():
        # The trixie base image's own package tool finds it, so that this machine's sources stay as they are.
        folder.mkdir(parents=True, exist_ok=True)
        fetch = "apt-get update -qq && cd /out && apt-get download -qq docker-compose"
        engine.run(
            "run", "--rm", "--volume", f"{folder}:/out", engine.base_image("trixie"), "sh", "-c", fetch
        )
        (package,) = folder.glob("docker-compose_*.deb")
        subprocess.run(["dpkg", "-x", str(package), str(folder)], check=True)
    return [str(binary)]


@pytest.fixture(scope="session")
def environment_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = []
    for line in (ROOT / ".env.example").read_text(encoding="utf-8").splitlines():
        if line.endswith("="):
            key = line.rstrip("=")
            base64_wanted = key in {"KAIROS_DATA_KEY", "KAIROS_SIGNING_KEY"}
            value = (
                base64.b64encode(secrets.token_bytes(32)).decode() if base64_wanted else secrets.token_hex(24)
            )
            lines.append(f"{key}={value}")
    ports = {"AMQP": 25672, "RABBITMQ_MANAGEMENT": 25673, "POSTGRES": 25432, "REDIS": 26379}
    lines += [f"KAIROS_{name}_PORT={port}" for name, port in ports.items()] + [f"KAIROS_FRONT_DOOR={DOOR}"]
    path = tmp_path_factory.mktemp("compose") / "env"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_images_are_small_run_as_nobody_and_carry_no_compiler(engine: Engine, images: dict[str, str]) -> None:
    for service, tag in images.items():
        described = json.loads(engine.run("image", "inspect", tag).stdout)[0]
        assert described["Config"]["User"] == "10001:10001", service
        assert described["Config"]["Healthcheck"], service
        assert described["Config"]["Labels"]["org.opencontainers.image.title"] == f"kairos-{service}"
        found = engine.run(
            "run", "--rm", "--entrypoint", "/bin/sh", tag, "-c", "command -v gcc cc pip pip3 || true"
        )
        assert found.stdout.strip() == "", service


def test_the_routers_hot_path_is_machine_code(engine: Engine, images: dict[str, str]) -> None:
    program = "import kairos_router.entrypoints.hot_http as hot; print(hot.__file__)"
    found = engine.run("run", "--rm", "--entrypoint", "python", images["llm-router"], "-c", program)
    assert found.stdout.strip().endswith(".so")


def test_the_whole_suite_comes_up_healthy_and_answers_through_the_front_door(
    engine: Engine, images: dict[str, str], servers: None, environment_file: Path
) -> None:
    tool = [
        *compose_tool(engine),
        "--env-file",
        str(environment_file),
        "--profile",
        "core",
        "--project-name",
        "kairos-platform",
    ]

    def compose(*arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            [*tool, *arguments],
            cwd=ROOT,
            env=engine.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout

    compose("config", "--quiet")
    try:
        compose("up", "--detach", "--no-build")
        deadline = time.monotonic() + HEALTHY_SECONDS
        waiting = {"console", *PORTS}
        while waiting and time.monotonic() < deadline:
            states = [json.loads(line) for line in compose("ps", "--format", "json").splitlines() if line]
            waiting -= {state["Service"] for state in states if state["Health"] == "healthy"}
            time.sleep(1)
        assert not waiting, compose("ps", "--all") + compose("logs", "--tail", "40", check=False)[-12000:]
        for path in ("/healthz", "/", *(f"/api/{service}/health/ready" for service in PORTS)):
            with urllib.request.urlopen(f"http://{DOOR}{path}", timeout=10) as answer:
                assert answer.status == 200, path
        assert "password" in compose("logs", "first-admin")
    finally:
        compose("down", "--volumes", "--timeout", "30", check=False)
