"""What the suite consists of and how each process is started: one description for `make up` and tests."""

import json
import secrets as random
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from kairos_testkit.databases import OWNER, SCHEMAS, with_login
from kairos_testkit.processes import ServerSpec
from kairos_testkit.settings import named_environment, passed_environment


@dataclass(frozen=True, slots=True)
class Service:
    """One service of ours. `prefix` is the middle of its settings: KAIROS_<prefix>_PORT."""

    name: str
    package: str
    prefix: str
    port: int

    @property
    def schema(self) -> str:
        return SCHEMAS[self.package]


# In the order they start: everybody asks auth-audit, the router asks budget-analytics.
SERVICES: Final = (
    Service("auth-audit", "kairos_auth", "AUTH", 5053),
    Service("budget-analytics", "kairos_budget", "BUDGET", 5052),
    Service("llm-router", "kairos_router", "ROUTER", 5051),
    Service("bot-worker", "kairos_bots", "BOTS", 5050),
    Service("observability", "kairos_ops", "OPS", 5054),
)
BY_NAME: Final = {service.name: service for service in SERVICES}
FRONT_DOOR: Final = "front-door"
FRONT_DOOR_PORT: Final = 5000
TELEGRAM: Final = "fake-telegram"
DATABASE: Final = "kairos"
# A loaded machine of two cores takes its time; one that is idle needs ten seconds.
_READY_TIMEOUT: Final = 150.0


def new_secrets() -> dict[str, str]:
    """Everything secret of one installation, under the names docker-compose.yml uses."""
    names = ["RABBITMQ_PASSWORD", "POSTGRES_PASSWORD", "REDIS_PASSWORD", "OWNER_DB_PASSWORD", "KEY_PEPPER"]
    names += ["ERLANG_COOKIE", "SUPERVISOR_PASSWORD", "TELEGRAM_TOKEN_SECRET"]
    names += [
        f"{service.prefix}_{kind}" for service in SERVICES for kind in ("DB_PASSWORD", "SERVICE_SECRET")
    ]
    keys = ("DATA_KEY", "SIGNING_KEY")
    return {f"KAIROS_{name}": random.token_hex(24) for name in names} | {
        f"KAIROS_{name}": b64encode(random.token_bytes(32)).decode() for name in keys
    }


def roles(secrets: Mapping[str, str]) -> dict[str, str]:
    """Database role -> password, as kairos_persistence.provision wants it."""
    return {OWNER: secrets["KAIROS_OWNER_DB_PASSWORD"]} | {
        f"kairos_{service.schema}": secrets[f"KAIROS_{service.prefix}_DB_PASSWORD"] for service in SERVICES
    }


def role_secrets(passwords: Mapping[str, str]) -> dict[str, str]:
    """The reverse of roles(): for servers whose roles have passwords already."""
    found = {"KAIROS_OWNER_DB_PASSWORD": passwords[OWNER]}
    for service in SERVICES:
        found[f"KAIROS_{service.prefix}_DB_PASSWORD"] = passwords[f"kairos_{service.schema}"]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """One running installation: where its servers are, which ports it takes, what it is told."""

    root: Path
    state: Path
    # Service name, "front-door" or "fake-telegram" -> port.
    ports: Mapping[str, int]
    amqp_url: str
    postgres_admin_url: str
    redis_url: str
    secrets: Mapping[str, str]
    database: str = DATABASE
    config_file: Path | None = None
    telegram_api_base: str | None = None
    public_url: str | None = None
    otlp_endpoint: str | None = None
    log_level: str = "INFO"
    # Service name -> more environment, for tests: {"bot-worker": {"KAIROS_BOTS_QUIET_WINDOW_MS": "50"}}
    overrides: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    # Whether services are measured when the run that starts them is.
    measured: bool = True
    # The import path of a compiled llm-router, see compiled.py; None runs its sources.
    compiled: Path | None = None

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def postgres_url(self, service: Service) -> str:
        password = self.secrets[f"KAIROS_{service.prefix}_DB_PASSWORD"]
        role = f"kairos_{service.schema}"
        return with_login(self.postgres_admin_url, user=role, password=password, database=self.database)

    @property
    def owner_url(self) -> str:
        password = self.secrets["KAIROS_OWNER_DB_PASSWORD"]
        return with_login(self.postgres_admin_url, user=OWNER, password=password, database=self.database)

    def environment(self, service: Service, port: int | None = None) -> dict[str, str]:
        """Everything the service is told, with what it inherits."""
        own = {
            "HOST": "127.0.0.1",
            "PORT": str(port or self.ports[service.name]),
            "POSTGRES_URL": self.postgres_url(service),
            "AMQP_URL": self.amqp_url,
            "REDIS_URL": self.redis_url,
            "AUTH_URL": self.url("auth-audit"),
            "SERVICE_SECRET": self.secrets[f"KAIROS_{service.prefix}_SERVICE_SECRET"],
            "LOG_LEVEL": self.log_level,
            "ENVIRONMENT": "dev",
            "COOKIE_SECURE": "false",
        }
        if self.otlp_endpoint:
            own["OTLP_ENDPOINT"] = self.otlp_endpoint
        own |= self._of(service)
        return (
            passed_environment(measured=self.measured)
            | (self._of_router() if service.name == "llm-router" else {})
            | {"PYTHONUNBUFFERED": "1"}
            | {f"KAIROS_{service.prefix}_{name}": value for name, value in own.items()}
            | dict(self.overrides.get(service.name, {}))
        )

    @property
    def _catalogue(self) -> Path:
        return self.config_file or self.root / "kairos.toml"

    def _of_router(self) -> dict[str, str]:
        """The models, addresses and keys that the file of deployments names, and where its code is."""
        named = named_environment(self._catalogue.read_text("utf-8")) if self._catalogue.exists() else {}
        return named | ({"PYTHONPATH": str(self.compiled)} if self.compiled else {})

    def _of(self, service: Service) -> dict[str, str]:
        """What only one service is told."""
        match service.name:
            case "auth-audit":
                clients = {
                    each.name: self.secrets[f"KAIROS_{each.prefix}_SERVICE_SECRET"] for each in SERVICES
                }
                return {
                    "SIGNING_KEY": self.secrets["KAIROS_SIGNING_KEY"],
                    "KEY_PEPPER": self.secrets["KAIROS_KEY_PEPPER"],
                    "SERVICE_SECRETS": json.dumps(clients),
                    "ANCHOR_FILE": str(self.state / "audit-anchors.jsonl"),
                }
            case "bot-worker":
                optional = {"TELEGRAM_API_BASE": self.telegram_api_base, "PUBLIC_URL": self.public_url}
                return {"DATA_KEY": self.secrets["KAIROS_DATA_KEY"]} | {
                    name: value for name, value in optional.items() if value
                }
            case "llm-router":
                return {
                    "BUDGET_URL": self.url("budget-analytics"),
                    "CONFIG_FILE": str(self._catalogue),
                    "DATA_KEY": self.secrets["KAIROS_DATA_KEY"],
                }
            case "observability":
                return {"TARGETS": json.dumps({each.name: self.url(each.name) for each in SERVICES})}
            case _:
                return {}

    def service_spec(self, service: Service, replica: int = 0, port: int | None = None) -> ServerSpec:
        own_port = port or self.ports[service.name]
        return ServerSpec(
            name=service.name if replica == 0 else f"{service.name}-{replica}",
            argv=(str(Path(sys.prefix) / "bin" / f"kairos-{service.name}"),),
            env=self.environment(service, own_port),
            # Coverage finds its configuration, and errors name files, relative to the repository.
            cwd=self.root,
            ready=lambda: healthy(f"http://127.0.0.1:{own_port}/health/ready"),
            ready_timeout=_READY_TIMEOUT,
            priority=200,
        )

    def telegram_spec(self) -> ServerSpec:
        port = self.ports[TELEGRAM]
        files = (
            "--state",
            str(self.state / "telegram.json"),
            "--log",
            str(self.state / "telegram-sent.jsonl"),
        )
        return ServerSpec(
            name=TELEGRAM,
            argv=(sys.executable, "-m", "kairos_testkit.fake_telegram", "--port", str(port), *files),
            env=passed_environment() | {"PYTHONUNBUFFERED": "1"},
            cwd=self.root,
            ready=lambda: healthy(f"http://127.0.0.1:{port}/_sent"),
            priority=150,
        )

    def prepare_database(self) -> None:
        """Roles, schemas and every service's migrations. Doing it again changes nothing."""
        from kairos_persistence.migrate import migrate  # noqa: PLC0415 - the plugin must not load our packages
        from kairos_persistence.provision import provision  # noqa: PLC0415 - as above

        provision(self.postgres_admin_url, roles(self.secrets), database=self.database)
        for service in SERVICES:
            migrate(self.owner_url, service.package, service.schema)


def healthy(url: str, timeout: float = 3.0) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:  # noqa: S310 - our own loopback address
            return bool(answer.status == 200)  # noqa: PLR2004 - HTTP OK
    except (urllib.error.URLError, OSError):
        return False
