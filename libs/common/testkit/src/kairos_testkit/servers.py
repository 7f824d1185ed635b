"""RabbitMQ, PostgreSQL and Redis private to one run, which a test may kill and restart."""

import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kairos_testkit import native
from kairos_testkit.engine import engine_usable
from kairos_testkit.guardian import Guardian
from kairos_testkit.management import Management
from kairos_testkit.ports import free_port
from kairos_testkit.processes import Process, ServerSpec
from kairos_testkit.settings import KitSettings

__all__ = ["Server", "ServerSpec", "Servers", "start_servers"]


class Server(Protocol):
    """What a test may do to one server, whatever it runs as."""

    def start(self) -> None: ...

    def wait_ready(self, timeout: float | None = None) -> None: ...

    def kill(self) -> None: ...

    def stop(self) -> object: ...

    def restart(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class NotOursError(Exception):
    """A server given by the environment belongs to somebody else and is not killed by tests."""


class ForeignServer:
    """A server that KAIROS_TEST_... names: used, never stopped."""

    def start(self) -> None:
        raise NotOursError(NotOursError.__doc__)

    stop = kill = restart = pause = resume = start

    def wait_ready(self, timeout: float | None = None) -> None:
        """It was ready before the run began."""


MEMORY = Path("/dev/shm")  # noqa: S108 - mkdtemp makes a directory of our own in it.
PLENTY = 4 * 2**30


@dataclass(slots=True)
class Servers:
    """Addresses of the three servers, and handles to hurt them."""

    amqp_url: str
    management: Management
    postgres_admin_url: str
    redis_url: str
    rabbitmq: Server
    postgres: Server
    redis: Server
    state: Path | None = None
    kind: str = "native"
    _closers: list[Callable[[], None]] = field(default_factory=list)

    def close(self) -> None:
        while self._closers:
            self._closers.pop()()

    def amqp(self, vhost: str) -> str:
        """The broker's address with another virtual host."""
        return f"{self.amqp_url.rpartition('/')[0]}/{vhost}"


def start_servers(settings: KitSettings | None = None, *, durable: bool = False) -> Servers:
    """Servers from the environment, else from a Docker engine, else native processes."""
    settings = settings or KitSettings()
    if settings.amqp_url and settings.postgres_admin_url and settings.redis_url:
        return _foreign(settings)
    if not settings.native and engine_usable(settings.docker_host):
        from kairos_testkit.containers import start_containers  # noqa: PLC0415 - only where an engine answers

        return start_containers()
    return start_native(durable=durable, keep=settings.keep)


def scratch() -> Path | None:
    """Memory for the servers' files, where there is plenty; None for the disk.

    Whoever else writes to a disk can stall it for many seconds, and every confirm and commit with it. Tests
    end processes, not machines: what a killed server wrote is there for the next one on either.
    """
    try:
        memory = shutil.disk_usage(MEMORY).free
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = {
            name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)
        }
    except (OSError, ValueError, IndexError):
        return None
    return MEMORY if min(memory, available.get("MemAvailable", 0) // 2) >= PLENTY else None


def start_native(*, durable: bool = False, keep: bool = False) -> Servers:
    ports = native.ServerPorts(*(free_port() for _ in range(7)))
    credentials = native.Credentials.random()
    state = Path(tempfile.mkdtemp(prefix="kairos-test-", dir=scratch()))
    # PostgreSQL's own user must reach its directory; only root can list this one.
    state.chmod(0o711)
    guardian = Guardian()
    if not keep:
        guardian.remove_at_end(state)
    specs = (
        native.epmd(state, ports),
        native.postgres(state, ports, credentials, durable=durable),
        native.redis(state, ports, credentials),
        native.rabbitmq(state, ports, credentials),
    )
    processes = {spec.name: Process(spec, state / "logs" / f"{spec.name}.log", guardian) for spec in specs}

    def close() -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(Process.kill, processes.values()))
        guardian.close()
        if not keep:
            shutil.rmtree(state, ignore_errors=True)

    try:
        processes["epmd"].start()
        with ThreadPoolExecutor() as pool:
            list(pool.map(Process.start, [processes[name] for name in ("rabbitmq", "postgres", "redis")]))
    except BaseException:
        close()
        raise
    user, password = credentials.amqp_user, credentials.amqp_password
    return Servers(
        amqp_url=f"amqp://{user}:{password}@127.0.0.1:{ports.amqp}/%2F",
        management=Management("127.0.0.1", ports.amqp_management, user, password),
        postgres_admin_url=f"postgresql://postgres:{credentials.postgres_password}@127.0.0.1:{ports.postgres}/postgres",
        redis_url=f"redis://:{credentials.redis_password}@127.0.0.1:{ports.redis}/0",
        rabbitmq=processes["rabbitmq"],
        postgres=processes["postgres"],
        redis=processes["redis"],
        state=state,
        _closers=[close],
    )


def _foreign(settings: KitSettings) -> Servers:
    assert settings.amqp_url
    assert settings.postgres_admin_url
    assert settings.redis_url
    management = settings.amqp_management_url
    if management is None:
        raise NotOursError(
            "KAIROS_TEST_AMQP_URL needs KAIROS_TEST_AMQP_MANAGEMENT_URL=http://user:password@host:15672"
        )
    server = ForeignServer()
    return Servers(
        amqp_url=settings.amqp_url,
        management=Management.from_url(management),
        postgres_admin_url=settings.postgres_admin_url,
        redis_url=settings.redis_url,
        rabbitmq=server,
        postgres=server,
        redis=server,
        kind="foreign",
    )
