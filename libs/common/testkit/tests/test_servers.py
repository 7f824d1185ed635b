"""The private servers of a run: started in parallel, killable, and gone with the run."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
import redis
from aiohttp import web

from kairos_testkit import servers as servers_module
from kairos_testkit.engine import IMAGES, engine_usable
from kairos_testkit.fake_server import FakeServer
from kairos_testkit.guardian import start_time
from kairos_testkit.management import ManagementError
from kairos_testkit.ports import free_port, is_free, wait_until
from kairos_testkit.servers import ForeignServer, NotOursError, Servers, start_servers
from kairos_testkit.settings import KitSettings

pytestmark = pytest.mark.servers


def test_postgres_answers_and_survives_a_kill(servers: Servers) -> None:
    with psycopg.connect(servers.postgres_admin_url, autocommit=True) as connection:
        connection.execute("create table if not exists survives (n int)")
        connection.execute("insert into survives values (1)")

    servers.postgres.kill()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(servers.postgres_admin_url, connect_timeout=1)
    servers.postgres.start()

    with psycopg.connect(servers.postgres_admin_url, autocommit=True) as connection:
        assert connection.execute("select count(*) from survives").fetchone() == (1,)
        connection.execute("drop table survives")


def test_redis_restarts_on_the_same_address(servers: Servers, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.set("key", "value")
    servers.redis.restart()
    with redis.Redis.from_url(redis_url) as client:
        assert client.get("key") is None


def test_every_broker_url_is_a_virtual_host_of_its_own(servers: Servers, broker_url: str) -> None:
    vhost = broker_url.rpartition("/")[2]
    assert servers.management.queues(vhost) == []
    with pytest.raises(ManagementError):
        servers.management.queues(f"{vhost}-other")


def test_a_killed_broker_comes_back_with_its_durable_queues(servers: Servers, broker_url: str) -> None:
    vhost = broker_url.rpartition("/")[2]
    servers.management.call(
        "PUT", f"/api/queues/{vhost}/kept", {"durable": True, "arguments": {"x-queue-type": "quorum"}}
    )
    servers.rabbitmq.kill()
    servers.rabbitmq.start()
    assert [queue["name"] for queue in servers.management.queues(vhost)] == ["kept"]


def test_servers_end_when_their_run_is_killed(tmp_path: Path) -> None:
    port = free_port()
    program = f"""
import signal, sys
from pathlib import Path
from kairos_testkit.engine import IMAGES, engine_usable
from kairos_testkit.fake_server import FakeServer
from kairos_testkit.guardian import Guardian
from kairos_testkit.native import Credentials, ServerPorts, redis
from kairos_testkit.processes import Process
state = Path({str(tmp_path)!r}) / "state"
state.mkdir()
guardian = Guardian()
guardian.remove_at_end(state)
spec = redis(state, ServerPorts(0, 0, 0, 0, 0, 0, {port}), Credentials.random())
process = Process(spec, state / "redis.log", guardian)
process.start()
print(process.pid, flush=True)
signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        assert start_time(pid) is not None
        run.send_signal(signal.SIGKILL)
    wait_until(lambda: is_free(port), timeout=10, what="the orphaned server's end")
    wait_until(lambda: not (tmp_path / "state").exists(), timeout=10, what="the removal of the state")


def test_a_server_of_the_environment_is_used_and_never_stopped() -> None:
    settings = KitSettings(
        amqp_url="amqp://a:b@broker:1/%2F",
        amqp_management_url="http://a:b@broker:2",
        postgres_admin_url="postgresql://c@db/postgres",
        redis_url="redis://cache/0",
    )
    given = start_servers(settings)
    assert given.kind == "foreign"
    assert given.amqp("one") == "amqp://a:b@broker:1/one"
    assert isinstance(given.rabbitmq, ForeignServer)
    with pytest.raises(NotOursError):
        given.postgres.kill()


def test_a_missing_docker_engine_is_noticed_at_once(tmp_path: Path) -> None:
    assert not engine_usable(f"unix://{tmp_path}/none.sock")
    assert not engine_usable(f"tcp://127.0.0.1:{free_port()}")


class Engine(FakeServer):
    """A Docker engine with one image, and a registry that has one more."""

    def __init__(self, *, local: set[str], registry: set[str]) -> None:
        super().__init__()
        self.local, self.registry = local, registry

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/_ping", self._ping),
            web.get("/images/{name}/json", self._inspect),
            web.post("/images/create", self._pull),
        ]

    async def _ping(self, _: web.Request) -> web.Response:
        return web.Response(text="OK")

    async def _inspect(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if request.match_info["name"] in self.local else 404)

    async def _pull(self, request: web.Request) -> web.Response:
        image = f"{request.query['fromImage']}:{request.query['tag']}"
        return web.json_response({"status": "done"} if image in self.registry else {"error": "unreachable"})


def test_an_engine_is_used_only_when_it_has_our_images_or_can_fetch_them() -> None:
    rabbitmq, postgres, redis_image = IMAGES.values()
    with Engine(local={rabbitmq, postgres}, registry={redis_image}) as engine:
        assert engine_usable(engine.base_url.replace("http", "tcp"))
    with Engine(local={rabbitmq, postgres}, registry=set()) as engine:
        assert not engine_usable(engine.base_url.replace("http", "tcp"))


def test_tests_and_compose_run_the_same_images() -> None:
    compose = (Path(__file__).resolve().parents[4] / "docker-compose.yml").read_text()
    assert all(f"image: {image}\n" in compose for image in IMAGES.values())


def test_postgres_runs_without_root_rights(servers: Servers) -> None:
    if os.geteuid() != 0 or servers.kind != "native":
        pytest.skip("only a root run has rights to give up")
    pid = servers.postgres.pid  # type: ignore[attr-defined]  # native processes have one
    assert Path(f"/proc/{pid}").stat().st_uid != 0


def test_files_of_servers_lie_in_memory_only_where_there_is_plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers_module, "PLENTY", 2**60)
    assert servers_module.scratch() is None
    monkeypatch.setattr(servers_module, "PLENTY", 0)
    assert servers_module.scratch() == servers_module.MEMORY
    monkeypatch.setattr(servers_module, "MEMORY", Path("/nowhere"))
    assert servers_module.scratch() is None
