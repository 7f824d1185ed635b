"""The programs of a local installation: servers, fake Telegram, services and the front door."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kairos_testkit import native
from kairos_testkit.compiled import compiled
from kairos_testkit.compose import ComposeServers
from kairos_testkit.front_door import front_door
from kairos_testkit.local_state import LocalState
from kairos_testkit.processes import ServerSpec
from kairos_testkit.settings import LocalSettings
from kairos_testkit.suite import FRONT_DOOR, SERVICES, TELEGRAM, Suite


@dataclass(frozen=True, slots=True)
class LocalSuite:
    """Everything `make up` starts, in three waves: servers, services, front door."""

    state: LocalState
    suite: Suite
    servers: tuple[ServerSpec, ...]
    services: tuple[ServerSpec, ...]
    front_door: ServerSpec
    compose: ComposeServers | None

    @property
    def specs(self) -> tuple[ServerSpec, ...]:
        return (*self.servers, *self.services, self.front_door)

    def stamps(self) -> dict[str, str]:
        """What else must restart a program when it changes: its source code."""
        libs = digest(self.suite.root, "libs/common", but="testkit")
        lock = digest(self.suite.root, "requirements/dev.txt")
        router = digest(self.suite.root, "kairos.toml")
        found = {
            service.name: libs + lock + digest(self.suite.root, f"services/{service.name}/src")
            for service in SERVICES
        }
        found["llm-router"] += router
        found[TELEGRAM] = digest(self.suite.root, "libs/common/testkit/src")
        found[FRONT_DOOR] = digest(self.suite.root, "deploy/nginx")
        return found


def local_suite(root: Path, state: LocalState, settings: LocalSettings) -> LocalSuite:
    compose = ComposeServers(root, state, settings.docker_host) if state.kind == "containers" else None
    ports, credentials = state.server_ports(), state.credentials()
    fake_telegram = f"http://127.0.0.1:{state.ports[TELEGRAM]}"
    own_front_door = f"http://127.0.0.1:{state.ports[FRONT_DOOR]}"
    suite = Suite(
        root=root,
        state=state.data,
        ports=state.ports,
        amqp_url=compose.amqp_url
        if compose
        else f"amqp://{credentials.amqp_user}:{credentials.amqp_password}@127.0.0.1:{ports.amqp}/%2F",
        postgres_admin_url=compose.postgres_admin_url
        if compose
        else f"postgresql://postgres:{credentials.postgres_password}@127.0.0.1:{ports.postgres}/postgres",
        redis_url=compose.redis_url
        if compose
        else f"redis://:{credentials.redis_password}@127.0.0.1:{ports.redis}/0",
        secrets=state.secrets,
        telegram_api_base=settings.telegram_api_base or fake_telegram,
        # The fake Telegram runs here and reaches the front door; the real one needs an address given to us.
        public_url=settings.public_url or (None if settings.telegram_api_base else own_front_door),
        otlp_endpoint=settings.otlp_endpoint,
        log_level=settings.log_level,
        # One person's own machine: models that run on it are the first that one wants to add.
        overrides={"llm-router": {"KAIROS_ROUTER_PRIVATE_PROVIDERS": "true"}},
        compiled=compiled(root),
    )
    servers = () if compose else tuple(_native_servers(state))
    services = (suite.telegram_spec(), *(suite.service_spec(service) for service in SERVICES))
    door = front_door(root, state.data, state.ports, native.unprivileged_user())
    return LocalSuite(state, suite, servers, services, door, compose)


def _native_servers(state: LocalState) -> Iterator[ServerSpec]:
    ports, credentials = state.server_ports(), state.credentials()
    yield native.epmd(state.data, ports)
    yield native.rabbitmq(state.data, ports, credentials)
    yield native.postgres(state.data, ports, credentials, durable=True)
    yield native.redis(state.data, ports, credentials)


def digest(root: Path, name: str, but: str | None = None) -> str:
    """Names, sizes and times of files: cheap, and different after every edit."""
    start = root / name
    files = sorted(start.rglob("*")) if start.is_dir() else [start]
    hashed = hashlib.sha256()
    for file in files:
        if (
            file.suffix not in (".pyc", "")
            and file.is_file()
            and not (but and but in file.relative_to(start).parts)
        ):
            status = file.stat()
            hashed.update(f"{file.relative_to(root)} {status.st_size} {status.st_mtime_ns}\n".encode())
    return hashed.hexdigest()
