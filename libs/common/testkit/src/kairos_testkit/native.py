"""How RabbitMQ, PostgreSQL and Redis of the system's packages run as private processes.

Addresses are loopback only, ports are given, state lives below one directory, and no setting of the
packages' own default instances is read or written.
"""

import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kairos_testkit.management import Management
from kairos_testkit.ports import answers
from kairos_testkit.processes import ServerSpec

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PLUGINS: Final = (
    "[rabbitmq_management,rabbitmq_prometheus,rabbitmq_consistent_hash_exchange,rabbitmq_shovel]."
)
PACKAGES: Final = {
    "rabbitmq-server": "rabbitmq-server",
    "epmd": "rabbitmq-server",
    "postgres": "postgresql",
    "initdb": "postgresql",
    "redis-server": "redis-server",
    "nginx": "nginx-light",
}
# The packages keep these outside PATH, and RabbitMQ's own wrapper in /usr/sbin would change the user.
_PLACES: Final = {
    "rabbitmq-server": ("/usr/lib/rabbitmq/bin",),
    "postgres": ("/usr/lib/postgresql/*/bin",),
    "initdb": ("/usr/lib/postgresql/*/bin",),
    "nginx": ("/usr/sbin",),
}


class ProgramMissingError(Exception):
    """A server program is not installed."""


def find_program(name: str) -> str:
    for pattern in _PLACES.get(name, ()):
        root = Path("/")
        found = sorted(root.glob(f"{pattern.removeprefix('/')}/{name}"), reverse=True)
        if found:
            return str(found[0])
    located = shutil.which(name, path=PATH) or shutil.which(name)
    if located is None:
        raise ProgramMissingError(
            f"{name} is not installed; run: apt-get install -y {PACKAGES.get(name, name)}"
        )
    return located


def missing_packages(programs: Sequence[str] = tuple(PACKAGES)) -> list[str]:
    """Debian packages to install before the native servers can run."""
    missing: set[str] = set()
    for program in programs:
        try:
            find_program(program)
        except ProgramMissingError:
            missing.add(PACKAGES[program])
    return sorted(missing)


def unprivileged_user() -> str | None:
    """PostgreSQL refuses to run as root; None when this process is not root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


@dataclass(frozen=True, slots=True)
class ServerPorts:
    amqp: int
    amqp_management: int
    amqp_metrics: int
    amqp_distribution: int
    epmd: int
    postgres: int
    redis: int


@dataclass(frozen=True, slots=True)
class Credentials:
    amqp_user: str
    amqp_password: str
    postgres_password: str
    redis_password: str
    cookie: str

    @classmethod
    def random(cls) -> "Credentials":
        one, two, three, four = (secrets.token_hex(12) for _ in range(4))
        return cls("kairos", one, two, three, four)


def epmd(state: Path, ports: ServerPorts) -> ServerSpec:
    """The Erlang name server, as a process of its own: a node would otherwise leave one behind."""
    return ServerSpec(
        name="epmd",
        argv=(find_program("epmd"), "-port", str(ports.epmd), "-address", "127.0.0.1"),
        env={"PATH": PATH},
        cwd=state,
        ready=lambda: answers(ports.epmd),
        priority=10,
    )


def _rabbitmq_config(ports: ServerPorts, credentials: Credentials) -> str:
    return f"""\
listeners.tcp.1 = 127.0.0.1:{ports.amqp}
management.tcp.ip = 127.0.0.1
management.tcp.port = {ports.amqp_management}
prometheus.tcp.ip = 127.0.0.1
prometheus.tcp.port = {ports.amqp_metrics}
default_user = {credentials.amqp_user}
default_pass = {credentials.amqp_password}
disk_free_limit.absolute = 50MB
# The default write-ahead log of quorum queues (512 MB) would be most of the memory of a small machine.
raft.wal_max_size_bytes = 33554432
log.file.level = warning
log.console = false
"""


def rabbitmq(state: Path, ports: ServerPorts, credentials: Credentials) -> ServerSpec:
    home = state / "rabbitmq"
    erlang = f"-setcookie {credentials.cookie} -kernel inet_dist_use_interface {{127,0,0,1}}"
    env = {
        "PATH": PATH,
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "RABBITMQ_NODENAME": "kairos@localhost",
        "RABBITMQ_NODE_PORT": str(ports.amqp),
        "RABBITMQ_DIST_PORT": str(ports.amqp_distribution),
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(ports.epmd),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_MNESIA_BASE": str(home / "data"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        "RABBITMQ_CONF_ENV_FILE": str(home / "rabbitmq-env.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
        "RABBITMQ_PID_FILE": str(home / "rabbitmq.pid"),
        # Idle schedulers must not spin: several private brokers share few cores.
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{erlang} +sbwt none +sbwtdcpu none +sbwtdio none",
        "RABBITMQ_CTL_ERL_ARGS": f"-setcookie {credentials.cookie}",
        # Makes the start script become the Erlang machine instead of waiting for it: one process, one number.
        "RUNNING_UNDER_SYSTEMD": "true",
    }
    config = _rabbitmq_config(ports, credentials)

    def prepare() -> None:
        home.mkdir(parents=True, exist_ok=True)
        (home / "rabbitmq.conf").write_text(config)
        (home / "rabbitmq.conf").chmod(0o600)
        (home / "enabled_plugins").write_text(_PLUGINS + "\n")
        (home / "rabbitmq-env.conf").touch()

    management = Management(
        "127.0.0.1", ports.amqp_management, credentials.amqp_user, credentials.amqp_password
    )
    return ServerSpec(
        name="rabbitmq",
        argv=(find_program("rabbitmq-server"),),
        env=env,
        cwd=state,
        prepare=prepare,
        ready=lambda: management.listens(ports.amqp),
        ready_timeout=90.0,
        priority=20,
    )


def postgres(state: Path, ports: ServerPorts, credentials: Credentials, *, durable: bool) -> ServerSpec:
    """`durable=False` trades safety against a power cut for speed.

    A SIGKILL of the server still loses nothing: each commit is written to the operating system, only not
    forced to the disk.
    """
    user = unprivileged_user()
    data = state / "postgres"
    options = {
        "port": str(ports.postgres),
        "listen_addresses": "127.0.0.1",
        # Socket paths are limited to 107 characters; clients use the port.
        "unix_socket_directories": "",
        "max_connections": "300",
        # In the data directory: a killed server would leave the kernel's kind behind for good.
        "dynamic_shared_memory_type": "mmap",
        "shared_buffers": "128MB",
        "max_wal_size": "512MB",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_min_messages": "warning",
    }
    if not durable:
        options |= {"fsync": "off", "full_page_writes": "off"}
    settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    env = {"PATH": PATH, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "HOME": str(state)}

    def prepare() -> None:
        if not (data / "PG_VERSION").exists():
            _initdb(data, user, credentials.postgres_password, env)
        elif not _runs(data / "postmaster.pid"):
            # A machine that lost power leaves this behind, and another process may have the number now.
            (data / "postmaster.pid").unlink(missing_ok=True)

    return ServerSpec(
        name="postgres",
        argv=(find_program("postgres"), "-D", str(data), *settings),
        env=env,
        cwd=data.parent,
        user=user,
        prepare=prepare,
        ready=lambda: postgres_answers(ports.postgres, credentials.postgres_password),
        # Fast shutdown: SIGTERM would wait for every client to leave.
        stop_signal=signal.SIGINT,
        priority=20,
    )


def redis(state: Path, ports: ServerPorts, credentials: Credentials) -> ServerSpec:
    home = state / "redis"
    config = home / "redis.conf"

    def prepare() -> None:
        home.mkdir(parents=True, exist_ok=True)
        config.write_text(
            f"bind 127.0.0.1\nport {ports.redis}\ndir {json.dumps(str(home))}\n"
            f'save ""\nappendonly no\nrequirepass {credentials.redis_password}\ndatabases 64\n'
        )
        config.chmod(0o600)

    return ServerSpec(
        name="redis",
        argv=(find_program("redis-server"), str(config)),
        env={"PATH": PATH, "LANG": "C.UTF-8"},
        cwd=state,
        prepare=prepare,
        ready=lambda: redis_answers(ports.redis, credentials.redis_password),
        priority=20,
    )


def _initdb(data: Path, user: str | None, password: str, env: dict[str, str]) -> None:
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True, mode=0o700)
    password_file = data.parent / ".postgres-password"
    password_file.write_text(password)
    password_file.chmod(0o600)
    owner = pwd.getpwnam(user) if user else None
    if owner:
        for path in (data, password_file):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    try:
        subprocess.run(
            [
                find_program("initdb"),
                f"--pgdata={data}",
                "--username=postgres",
                f"--pwfile={password_file}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            ],
            env=env,
            cwd=data,
            check=True,
            capture_output=True,
            user=user,
            group=owner.pw_gid if owner else None,
            extra_groups=[] if owner else None,
        )
    except subprocess.CalledProcessError as error:
        shutil.rmtree(data, ignore_errors=True)
        raise ProgramMissingError(f"initdb failed: {error.stderr.decode(errors='replace')}") from error
    finally:
        password_file.unlink(missing_ok=True)


def _runs(pid_file: Path) -> bool:
    try:
        pid = int(pid_file.read_text().splitlines()[0])
        return Path(f"/proc/{pid}/comm").read_text().strip() == "postgres"
    except (OSError, ValueError, IndexError):
        return False


def postgres_answers(port: int, password: str) -> bool:
    import psycopg  # noqa: PLC0415 - the plugin is loaded by every run, also those without servers

    with psycopg.connect(
        host="127.0.0.1", port=port, user="postgres", password=password, dbname="postgres", connect_timeout=2
    ) as connection:
        return connection.execute("select 1").fetchone() == (1,)


def redis_answers(port: int, password: str) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
        connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
        with connection.makefile("rb") as answers_of:
            return [answers_of.readline(), answers_of.readline()] == [b"+OK\r\n", b"+PONG\r\n"]
