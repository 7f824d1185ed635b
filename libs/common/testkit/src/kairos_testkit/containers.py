"""The same three servers as containers, when a Docker engine answers."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from testcontainers.core.container import DockerContainer

from kairos_testkit import native
from kairos_testkit.engine import IMAGES
from kairos_testkit.management import Management
from kairos_testkit.ports import free_port, wait_until
from kairos_testkit.servers import Servers


@dataclass(slots=True)
class Container:
    """One container with fixed host ports, so that its address survives a restart."""

    name: str
    container: DockerContainer
    ready: Callable[[], bool]

    def start(self) -> None:
        self.container.get_wrapped_container().start()
        self.wait_ready()

    def wait_ready(self, timeout: float | None = None) -> None:
        wait_until(self.ready, timeout=timeout or 90, what=self.name)

    def kill(self) -> None:
        self.container.get_wrapped_container().kill()

    def stop(self) -> None:
        self.container.get_wrapped_container().stop(timeout=20)

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        self.container.get_wrapped_container().pause()

    def resume(self) -> None:
        self.container.get_wrapped_container().unpause()


def start_containers() -> Servers:
    password = secrets.token_hex(12)
    amqp, management_port, postgres, redis = (free_port() for _ in range(4))
    management = Management("127.0.0.1", management_port, "kairos", password)
    rabbitmq = Container(
        "rabbitmq",
        DockerContainer(IMAGES["rabbitmq"])
        .with_bind_ports(5672, amqp)
        .with_bind_ports(15672, management_port)
        .with_env("RABBITMQ_DEFAULT_USER", "kairos")
        .with_env("RABBITMQ_DEFAULT_PASS", password),
        lambda: management.listens(5672),
    )
    database = Container(
        "postgres",
        DockerContainer(IMAGES["postgres"])
        .with_bind_ports(5432, postgres)
        .with_env("POSTGRES_PASSWORD", password)
        .with_command("postgres -c max_connections=300 -c fsync=off -c full_page_writes=off"),
        lambda: native.postgres_answers(postgres, password),
    )
    cache = Container(
        "redis",
        DockerContainer(IMAGES["redis"])
        .with_bind_ports(6379, redis)
        .with_command(f"redis-server --requirepass {password} --save '' --databases 64"),
        lambda: native.redis_answers(redis, password),
    )
    everything = (rabbitmq, database, cache)

    def close() -> None:
        for each in everything:
            each.container.stop()

    def boot(each: Container) -> None:
        each.container.start()
        each.wait_ready()

    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(boot, everything))
    except BaseException:
        close()
        raise
    return Servers(
        amqp_url=f"amqp://kairos:{password}@127.0.0.1:{amqp}/%2F",
        management=management,
        postgres_admin_url=f"postgresql://postgres:{password}@127.0.0.1:{postgres}/postgres",
        redis_url=f"redis://:{password}@127.0.0.1:{redis}/0",
        rabbitmq=rabbitmq,
        postgres=database,
        redis=cache,
        kind="containers",
        _closers=[close],
    )
