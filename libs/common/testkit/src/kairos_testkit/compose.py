"""The three servers of a local installation as containers, from docker-compose.yml."""

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kairos_testkit.local_state import LocalState
from kairos_testkit.settings import passed_environment

SERVERS: Final = ("rabbitmq", "postgres", "redis")
Run = Callable[[Sequence[str], dict[str, str]], None]


class ComposeError(Exception):
    """docker compose failed."""


def run_command(command: Sequence[str], env: dict[str, str]) -> None:
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ComposeError(f"{' '.join(command)}: {done.stderr.strip()[-2000:]}")


@dataclass(frozen=True, slots=True)
class ComposeServers:
    root: Path
    state: LocalState
    docker_host: str | None = None
    run: Run = run_command

    def up(self) -> None:
        """Start the servers and wait for their health checks. Running ones are left alone."""
        self.run([*self._compose(), "up", "--detach", "--wait", *SERVERS], self._environment())

    def stop(self) -> None:
        self.run([*self._compose(), "stop", *SERVERS], self._environment())

    def remove(self) -> None:
        """Containers and their data."""
        self.run([*self._compose(), "down", "--volumes"], self._environment())

    @property
    def amqp_url(self) -> str:
        return f"amqp://kairos:{self.state.secrets['KAIROS_RABBITMQ_PASSWORD']}@127.0.0.1:{self.state.ports['amqp']}/%2F"

    @property
    def postgres_admin_url(self) -> str:
        password = self.state.secrets["KAIROS_POSTGRES_PASSWORD"]
        return f"postgresql://postgres:{password}@127.0.0.1:{self.state.ports['postgres']}/postgres"

    @property
    def redis_url(self) -> str:
        return f"redis://127.0.0.1:{self.state.ports['redis']}/0"

    def _compose(self) -> list[str]:
        # A project of its own per clone, so that two clones on one engine don't share data.
        file = str(self.root / "docker-compose.yml")
        return [
            "docker",
            "compose",
            "--project-name",
            self.state.identifier,
            "--file",
            file,
            "--profile",
            "servers",
        ]

    def _environment(self) -> dict[str, str]:
        ports = self.state.ports
        engine = {"DOCKER_HOST": self.docker_host} if self.docker_host else {}
        return (
            passed_environment()
            | engine
            | dict(self.state.secrets)
            | {
                "KAIROS_AMQP_PORT": str(ports["amqp"]),
                "KAIROS_RABBITMQ_MANAGEMENT_PORT": str(ports["amqp_management"]),
                "KAIROS_POSTGRES_PORT": str(ports["postgres"]),
                "KAIROS_REDIS_PORT": str(ports["redis"]),
            }
        )
