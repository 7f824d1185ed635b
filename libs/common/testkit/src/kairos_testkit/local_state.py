"""What an installation on this machine remembers below `.kairos/`: secrets, ports, where the data lies.

Chosen once and kept, so that a second `make up`, or one after a reboot, finds the same installation.
"""

import grp
import hashlib
import json
import os
import pwd
import shutil
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kairos_testkit import native
from kairos_testkit.ports import free_port, is_free
from kairos_testkit.suite import FRONT_DOOR, FRONT_DOOR_PORT, SERVICES, TELEGRAM, new_secrets

_SERVER_PORTS: Final = (
    "amqp",
    "amqp_management",
    "amqp_metrics",
    "amqp_distribution",
    "epmd",
    "postgres",
    "redis",
    "supervisor",
    TELEGRAM,
)
_PRIVATE: Final = 0o600
_MANY: Final = 100


@dataclass(frozen=True, slots=True)
class LocalState:
    """`home` is the repository's `.kairos`; `data` is where servers keep theirs, often the same."""

    home: Path
    data: Path
    secrets: Mapping[str, str]
    ports: Mapping[str, int]
    kind: str

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def connection_file(self) -> Path:
        return self.home / "connection.json"

    @property
    def identifier(self) -> str:
        return f"kairos-{_fingerprint(self.home)}"

    def server_ports(self) -> native.ServerPorts:
        names = ("amqp", "amqp_management", "amqp_metrics", "amqp_distribution", "epmd", "postgres", "redis")
        return native.ServerPorts(*(self.ports[name] for name in names))

    def ports_of(self, program: str) -> tuple[str, ...]:
        """The names of the ports a program listens on."""
        several = {"rabbitmq": ("amqp", "amqp_management", "amqp_metrics", "amqp_distribution")}
        return several.get(program, (program,))

    def credentials(self) -> native.Credentials:
        return native.Credentials(
            amqp_user="kairos",
            amqp_password=self.secrets["KAIROS_RABBITMQ_PASSWORD"],
            postgres_password=self.secrets["KAIROS_POSTGRES_PASSWORD"],
            redis_password=self.secrets["KAIROS_REDIS_PASSWORD"],
            cookie=self.secrets["KAIROS_ERLANG_COOKIE"],
        )

    def connection(self) -> dict[str, Any]:
        """What the last `make up` wrote; empty before the first."""
        found: dict[str, Any] = _read_json(self.connection_file)
        return found


def open_state(root: Path, kind: str) -> LocalState:
    """Load what is there, make what is not. `kind` is native or containers; the first one stays."""
    home = root / ".kairos"
    home.mkdir(exist_ok=True)
    home.chmod(0o711)
    secrets = _env_file(home / "env", new_secrets())
    remembered = _read_json(home / "state.json")
    kind = str(remembered.get("kind", kind))
    ports = _ports(remembered.get("ports", {}))
    data = Path(remembered.get("data") or _data_directory(home))
    data.mkdir(parents=True, exist_ok=True)
    # Root's children run as other users and must reach their own folder below; nobody may list this one.
    data.chmod(0o711)
    write_private(
        home / "state.json", json.dumps({"kind": kind, "ports": ports, "data": str(data)}, indent=2)
    )
    return LocalState(home, data, secrets, ports, kind)


def existing_state(root: Path) -> LocalState | None:
    """The installation when there is one; nothing is created."""
    remembered = _read_json(root / ".kairos" / "state.json")
    if not remembered:
        return None
    home = root / ".kairos"
    secrets = _env_file(home / "env", {})
    return LocalState(home, Path(remembered["data"]), secrets, remembered["ports"], remembered["kind"])


def write_private(path: Path, text: str) -> None:
    """Replace a file at once, readable by its owner only from its first byte."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _PRIVATE)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    draft.replace(path)


def forget_data(state: LocalState) -> None:
    shutil.rmtree(state.data, ignore_errors=True)
    shutil.rmtree(state.home, ignore_errors=True)


def settle_ports(remembered: Mapping[str, int], *, running: Container[str]) -> dict[str, int]:
    """Ports to use now: one that somebody else has taken while our program did not run is replaced."""
    ports = dict(remembered)
    for name, port in remembered.items():
        if name not in running and not is_free(port):
            ports[name] = _next_free(port, ports) if name in _well_known() else free_port(ports.values())
    return ports


def with_ports(state: LocalState, ports: Mapping[str, int]) -> LocalState:
    remembered = _read_json(state.home / "state.json") | {"ports": dict(ports)}
    write_private(state.home / "state.json", json.dumps(remembered, indent=2))
    return LocalState(state.home, state.data, state.secrets, ports, state.kind)


def _well_known() -> dict[str, int]:
    return {FRONT_DOOR: FRONT_DOOR_PORT} | {service.name: service.port for service in SERVICES}


def _ports(remembered: Mapping[str, int]) -> dict[str, int]:
    ports = dict(remembered)
    for name, wanted in _well_known().items():
        if name not in ports:
            ports[name] = wanted if is_free(wanted) else _next_free(wanted, ports)
    for name in _SERVER_PORTS:
        if name not in ports:
            ports[name] = free_port(ports.values())
    return ports


def _next_free(wanted: int, taken: Mapping[str, int]) -> int:
    reserved = {*taken.values(), *_well_known().values()}
    for port in range(wanted + 10, wanted + 10 * _MANY):
        if port not in reserved and is_free(port):
            return port
    return free_port(reserved)


def _data_directory(home: Path) -> Path:
    """Below `.kairos`, unless the unprivileged user of the servers can't get there (a clone in /root)."""
    user = native.unprivileged_user()
    if user is None or all(_may_enter(directory, user) for directory in (home, *home.parents)):
        return home / "data"
    return Path("/var/lib/kairos") / _fingerprint(home)


def _may_enter(directory: Path, user: str) -> bool:
    entry, status = pwd.getpwnam(user), directory.stat()
    groups = {entry.pw_gid} | {group.gr_gid for group in grp.getgrall() if user in group.gr_mem}
    if status.st_uid == entry.pw_uid:
        return bool(status.st_mode & 0o100)
    if status.st_gid in groups:
        return bool(status.st_mode & 0o010)
    return bool(status.st_mode & 0o001)


def _fingerprint(path: Path) -> str:
    return hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]


def _env_file(path: Path, defaults: Mapping[str, str]) -> dict[str, str]:
    """NAME=value lines. Names that are new to an older file are added to it."""
    found: dict[str, str] = {}
    if path.exists():
        lines = (line.partition("=") for line in path.read_text().splitlines() if "=" in line)
        found = {name: value for name, _, value in lines}
    values = {**defaults, **found}
    if values != found:
        write_private(path, "".join(f"{name}={value}\n" for name, value in values.items()))
    return values


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found
