"""`make up`: everything from nothing, or whatever is missing of it. `python -m kairos_testkit.up`."""

import fcntl
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from kairos_testkit import native
from kairos_testkit.api_client import ApiError
from kairos_testkit.compose import ComposeError
from kairos_testkit.console_build import ConsoleBuildError, build_console
from kairos_testkit.engine import engine_usable
from kairos_testkit.local_state import LocalState, open_state, settle_ports, with_ports, write_private
from kairos_testkit.local_suite import LocalSuite, local_suite
from kairos_testkit.management import Management
from kairos_testkit.ports import NotReadyError, wait_until
from kairos_testkit.processes import ServerSpec
from kairos_testkit.seed import TELEGRAM_BOT_ID, Seeded, SeedError, SeedPlan, seed
from kairos_testkit.settings import LocalSettings
from kairos_testkit.suite import FRONT_DOOR, SERVICES, TELEGRAM
from kairos_testkit.supervision import Supervisor

_TAIL_LINES = 15
# A program that ended by itself this often while it was waited for will not come up.
_LIVES = 4


class UpError(Exception):
    """The suite could not be brought up; the message says what to do."""


@dataclass(slots=True)
class Progress:
    """One line per step, with its seconds."""

    started: float = field(default_factory=time.monotonic)

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        print(f"  {what:<44} {time.monotonic() - begun:5.1f} s", flush=True)

    @property
    def total(self) -> float:
        return time.monotonic() - self.started


def repository() -> Path:
    """The clone this package is installed from."""
    for directory in (Path.cwd(), *Path.cwd().parents, *Path(__file__).resolve().parents):
        if (directory / "kairos.toml").exists() and (directory / "services").is_dir():
            return directory
    raise UpError("run this inside a clone of the repository")


def up(root: Path, settings: LocalSettings, progress: Progress | None = None) -> dict[str, Any]:
    """Bring the suite up and give the connection record. Raises UpError with one clear line."""
    progress = progress or Progress()
    kind = "containers" if not settings.native and engine_usable(settings.docker_host) else "native"
    state = open_state(root, kind)
    _check_programs(state)
    with only_one(state), ThreadPoolExecutor() as pool:
        console = pool.submit(build_console, root)
        state = _settled(state)
        supervisor = Supervisor(state)
        local = local_suite(root, state, settings)
        with progress.step("servers"):
            _start_servers(local, supervisor, pool)
        with progress.step("database: roles, schemas, migrations"):
            local.suite.prepare_database()
        with progress.step("services"):
            start(local.services, supervisor, state, pool)
        with progress.step("console"):
            _finish_console(console)
        with progress.step("front door"):
            local.front_door.prepare()
            start([local.front_door], supervisor, state, pool)
        with progress.step("organisation, admin, key, bot, budget"):
            seeded = seed(local.suite, _plan(settings, state), state.connection())
        connection = _connection(local, supervisor, seeded)
        write_private(state.connection_file, json.dumps(connection, indent=2) + "\n")
    return connection


def _settled(state: LocalState) -> LocalState:
    """Nothing left over from an earlier run, and no port that somebody else has."""
    supervisor = Supervisor(state)
    running: set[str] = set()
    if supervisor.running:
        alive = (info.name for info in supervisor.programs() if info.state == "RUNNING")
        running = {"supervisor"} | {port for name in alive for port in state.ports_of(name)}
    else:
        supervisor.end_orphans()
    if state.kind == "containers":
        # The engine holds these ports for us.
        running |= {"amqp", "amqp_management", "postgres", "redis"}
    return with_ports(state, settle_ports(state.ports, running=running))


def _check_programs(state: LocalState) -> None:
    programs = tuple(native.PACKAGES) if state.kind == "native" else ("nginx",)
    missing = native.missing_packages(programs)
    if missing:
        raise UpError(f"missing packages; run: sudo apt-get install -y {' '.join(missing)}")


@contextmanager
def only_one(state: LocalState) -> Iterator[None]:
    with (state.home / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UpError("another `make up` or `make down` is at work in this clone") from error
        yield


def _start_servers(local: LocalSuite, supervisor: Supervisor, pool: ThreadPoolExecutor) -> None:
    if local.compose is not None:
        local.compose.up()
    for spec in local.servers:
        spec.prepare()
    supervisor.write(local.specs, local.stamps())
    if supervisor.running:
        supervisor.apply()
    else:
        supervisor.start()
        supervisor.apply()
    start(local.servers, supervisor, local.state, pool)


def start(
    specs: Sequence[ServerSpec], supervisor: Supervisor, state: LocalState, pool: ThreadPoolExecutor
) -> None:
    supervisor.start_programs([spec.name for spec in specs])

    def wait(spec: ServerSpec) -> None:
        try:
            _wait(spec, supervisor)
        except NotReadyError as error:
            log = state.logs / f"{spec.name}.log"
            lines = log.read_text(errors="replace").splitlines()[-_TAIL_LINES:] if log.exists() else []
            raise UpError("\n".join([f"{error}; the end of {log}:", *lines])) from error

    list(pool.map(wait, specs))


def _wait(spec: ServerSpec, supervisor: Supervisor) -> None:
    lives: set[int] = set()

    def ready_or_hopeless() -> bool:
        if spec.ready():
            return True
        lives.update(info.pid for info in supervisor.programs() if info.name == spec.name and info.pid)
        return len(lives) > _LIVES

    wait_until(ready_or_hopeless, timeout=spec.ready_timeout, what=spec.name, pause=0.1)
    if len(lives) > _LIVES:
        raise NotReadyError(f"{spec.name} ends by itself, {_LIVES} times so far")


def _finish_console(console: "Future[bool]") -> None:
    try:
        console.result()
    except ConsoleBuildError as error:
        print(f"  the console was not built, everything else runs: {error}", file=sys.stderr)


def _plan(settings: LocalSettings, state: LocalState) -> SeedPlan:
    """The real Telegram knows no token of ours: only the fake one gets the demo bot's."""
    token = f"{TELEGRAM_BOT_ID}:{state.secrets['KAIROS_TELEGRAM_TOKEN_SECRET']}"
    return SeedPlan(
        organisation=settings.organisation,
        admin_email=settings.admin_email,
        telegram_token=None if settings.telegram_api_base else token,
    )


def _connection(local: LocalSuite, supervisor: Supervisor, seeded: Seeded) -> dict[str, Any]:
    """The local profile of the command line and of tests."""
    suite, pids = local.suite, {info.name: info.pid for info in supervisor.programs()}
    front = suite.url(FRONT_DOOR)
    admin = suite.postgres_admin_url.rpartition("/")[0]
    return {
        "front_door": front,
        "openai_base_url": f"{front}/v1",
        **seeded.connection(),
        "amqp_url": suite.amqp_url,
        "amqp_management_url": Management(
            "127.0.0.1",
            local.state.ports["amqp_management"],
            "kairos",
            suite.secrets["KAIROS_RABBITMQ_PASSWORD"],
        ).url,
        "postgres_url": f"{admin}/{suite.database}",
        "redis_url": suite.redis_url,
        "fake_telegram_url": suite.url(TELEGRAM),
        "telegram_api_base": suite.telegram_api_base,
        "services": {
            service.name: {
                "url": suite.url(service.name),
                "pid": pids.get(service.name, 0),
                "compiled": service.name == "llm-router" and suite.compiled is not None,
            }
            for service in SERVICES
        },
    }


def _announce(connection: dict[str, Any], total: float) -> None:
    lines = [
        f"\nKairos runs ({total:.1f} s).\n",
        f"  Console         {connection['front_door']}",
        f"  OpenAI API      {connection['openai_base_url']}  (model {connection['model']})",
        f"  Fake Telegram   {connection['fake_telegram_url']}",
        *(f"  {name:<15} {each['url']}{_how(each)}" for name, each in connection["services"].items()),
        f"\n  Sign in as      {connection['admin_email']}",
        f"  Password        {connection['admin_password']}",
        "  Connection      .kairos/connection.json\n",
    ]
    print("\n".join(lines))


def _how(service: dict[str, Any]) -> str:
    return "  (compiled, as in images)" if service["compiled"] else ""


def guarded(action: Callable[[], int]) -> int:
    """Turn the expected failures of local commands into one line and exit code 1."""
    try:
        return action()
    except (UpError, NotReadyError, ComposeError, SeedError, ApiError, native.ProgramMissingError) as error:
        print(f"kairos: {error}", file=sys.stderr)
        return 1


def main() -> int:
    def action() -> int:
        # Migrations log each schema; this output is for people.
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
        progress = Progress()
        connection = up(repository(), LocalSettings(), progress)
        _announce(connection, progress.total)
        return 0

    return guarded(action)


if __name__ == "__main__":
    raise SystemExit(main())
