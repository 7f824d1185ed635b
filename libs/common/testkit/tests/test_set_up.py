"""The pieces of `make up` that need no server."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from kairos_testkit.compose import ComposeError, ComposeServers, run_command
from kairos_testkit.console_build import build_console, is_stale, node_directory
from kairos_testkit.front_door import TEMPLATE, TemplateChangedError, publish_console, render
from kairos_testkit.local_state import forget_data, open_state
from kairos_testkit.local_suite import digest
from kairos_testkit.measuring import imported_first
from kairos_testkit.settings import passed_environment
from kairos_testkit.suite import BY_NAME, FRONT_DOOR

ROOT = Path(__file__).resolve().parents[4]
PORTS = {FRONT_DOOR: 16000} | {name: 16001 + index for index, name in enumerate(BY_NAME)}


def load_bootstrap() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "deploy/local/bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_front_door_is_the_containers_with_local_addresses(tmp_path: Path) -> None:
    config = render(
        (ROOT / TEMPLATE).read_text(), home=tmp_path, ports=PORTS, mime_types=tmp_path / "mime.types"
    )
    assert f"proxy_pass http://127.0.0.1:{PORTS['llm-router']};" in config
    assert "listen 127.0.0.1:16000;" in config
    assert "/dev/std" not in config
    assert not any(f"http://{name}" in config for name in BY_NAME)


def test_a_template_that_moved_on_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(TemplateChangedError):
        render("events {}", home=tmp_path, ports=PORTS, mime_types=tmp_path)


def test_the_console_is_published_where_nginx_may_read_it(tmp_path: Path) -> None:
    target = tmp_path / "published"
    publish_console(tmp_path, target)
    assert "has not been built" in (target / "index.html").read_text()
    built = tmp_path / "services/console/dist"
    built.mkdir(parents=True)
    (built / "index.html").write_text("console")
    publish_console(tmp_path, target)
    publish_console(tmp_path, target)
    assert (target / "index.html").read_text() == "console"


def test_the_console_is_built_only_after_its_sources_changed(tmp_path: Path) -> None:
    console = tmp_path / "services/console"
    (console / "src").mkdir(parents=True)
    assert not build_console(tmp_path)
    (console / "package.json").write_text("{}")
    (console / "src/main.tsx").write_text("")
    assert is_stale(console)
    (console / "dist").mkdir()
    (console / "dist/index.html").write_text("")
    assert not build_console(tmp_path)
    later = (console / "dist/index.html").stat().st_mtime + 10
    os.utime(console / "src/main.tsx", (later, later))
    assert is_stale(console)


def test_an_old_or_missing_node_gives_way_to_the_environments_own(tmp_path: Path) -> None:
    own = str(Path(sys.prefix) / "bin")
    assert node_directory(str(tmp_path)) == own
    for name, version in (("node", "v18.20.4"), ("npm", "9")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {version}\n")
        (tmp_path / name).chmod(0o755)
    assert node_directory(str(tmp_path)) == own
    (tmp_path / "node").write_text("#!/bin/sh\necho v22.1.0\n")
    assert node_directory(str(tmp_path)) == str(tmp_path)


def test_a_digest_changes_with_its_sources(tmp_path: Path) -> None:
    (tmp_path / "src/skipped").mkdir(parents=True)
    (tmp_path / "src/one.py").write_text("1")
    before = digest(tmp_path, "src", but="skipped")
    (tmp_path / "src/skipped/two.py").write_text("2")
    assert digest(tmp_path, "src", but="skipped") == before
    (tmp_path / "src/one.py").write_text("12")
    assert digest(tmp_path, "src", but="skipped") != before


def test_compose_gets_every_secret_and_only_the_servers(tmp_path: Path) -> None:
    calls: list[tuple[list[str], dict[str, str]]] = []

    def run(command: Sequence[str], env: dict[str, str]) -> None:
        calls.append((list(command), env))

    state = open_state(tmp_path, "containers")
    servers = ComposeServers(ROOT, state, None, run)
    servers.up()
    servers.stop()
    servers.remove()
    command, env = calls[0]
    assert command[-3:] == ["rabbitmq", "postgres", "redis"]
    assert "--wait" in command
    assert env["KAIROS_POSTGRES_PORT"] == str(state.ports["postgres"])
    assert str(state.ports["amqp"]) in servers.amqp_url
    assert str(state.ports["postgres"]) in servers.postgres_admin_url
    assert str(state.ports["redis"]) in servers.redis_url
    needed = {
        line.split("${")[1].split(":?")[0]
        for line in (ROOT / "docker-compose.yml").read_text().splitlines()
        if ":?" in line and "${" in line
    }
    assert needed <= set(env)
    with pytest.raises(ComposeError):
        run_command(["false"], {})
    forget_data(state)


def test_without_rights_the_exact_command_is_named(tmp_path: Path) -> None:
    bootstrap = load_bootstrap()
    program = f"""
import sys
sys.path.insert(0, {str(ROOT / "deploy/local")!r})
import bootstrap
bootstrap.privilege = lambda: None
bootstrap.packages_wanted = lambda **_: ["rabbitmq-server", "nginx-light"]
sys.argv = ["bootstrap.py", "--servers"]
bootstrap.stamp = lambda: bootstrap.STAMP.read_text() if bootstrap.STAMP.exists() else ""
bootstrap.make_environment = lambda: None
raise SystemExit(bootstrap.main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    command = "sudo apt-get update && sudo apt-get install -y rabbitmq-server nginx-light"
    assert done.stderr.strip().splitlines() == [f"kairos: packages are missing; run: {command}"]
    assert bootstrap.own_projects()


def test_services_of_the_distribution_are_held_back_during_installation(tmp_path: Path) -> None:
    bootstrap = load_bootstrap()
    policy = tmp_path / "policy-rc.d"
    bootstrap.POLICY = policy  # type: ignore[attr-defined]
    with bootstrap.services_held_back([]):
        assert subprocess.run([policy], check=False).returncode == 101
    assert not policy.exists()


def test_services_are_measured_with_the_run_unless_their_suite_says_no(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COVERAGE_PROCESS_START", "pyproject.toml")
    assert passed_environment()["COVERAGE_PROCESS_START"] == "pyproject.toml"
    unmeasured = passed_environment(measured=False)
    assert not any(name.startswith("COVERAGE") for name in unmeasured)
    assert "PATH" in unmeasured


def test_before_measuring_a_process_imports_what_it_needs_of_others_and_nothing_of_ours() -> None:
    python = "/usr/bin/python"
    assert imported_first([python, "some/program.py"]) == ()
    router = imported_first([python, "bin/kairos-llm-router"])
    worker = imported_first([python, "-u", "-c", "import sys;exec(eval(sys.stdin.readline()))"])
    assert "fastapi" in router
    assert "aiogram.types" not in router
    assert "aiogram.types" in imported_first([python, "bin/kairos-bot-worker"])
    assert "aiogram.types" in worker
    # A plugin of pytest that is imported too early keeps its asserts as they are.
    assert not any(name.startswith(("kairos", "hypothesis", "pytest")) for name in worker)
