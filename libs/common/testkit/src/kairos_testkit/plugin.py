"""Fixtures every distribution's tests share. Loaded by pytest through the `pytest11` entry point.

Nothing of our own packages is imported at load time: the plugin is read before coverage starts, and what
is imported here would not be measured.
"""
# ruff: noqa: PLC0415 - for that reason

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kairos_testkit.databases import Provisioned
    from kairos_testkit.fake_provider import FakeProvider
    from kairos_testkit.fake_telegram import FakeTelegram
    from kairos_testkit.otlp_receiver import OtlpReceiver
    from kairos_testkit.servers import Servers
    from kairos_testkit.stack import Stack

_END_STACK: pytest.StashKey[Callable[[], Any]] = pytest.StashKey()


def pytest_configure() -> None:
    """Examples of Hypothesis fail for what they find, never for how busy the machine is."""
    from hypothesis import HealthCheck, settings

    settings.register_profile("kairos", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("kairos")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give the first test of a stack time to start it (five services under coverage on two cores).

    Workers that share a run get its files in one order, see `run_order`.
    """
    for item in items:
        if "stack" in getattr(item, "fixturenames", ()) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(600))
    if hasattr(config, "workerinput"):
        from kairos_testkit.run_order import in_line

        items[:] = in_line(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Files are shared out by this project's own rule; other ways of sharing stay as they are."""
    if config.getoption("dist") != "loadfile":
        return None
    from kairos_testkit.run_order import FromBothEnds

    return FromBothEnds(config, log)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End the shared suite when the next test has no use for it: idle, it takes a quarter of a core."""
    end = item.config.stash.get(_END_STACK, None)
    if end is None or nextitem is None or nextitem.path == item.path:
        return
    if "stack" not in getattr(nextitem, "fixturenames", ()):
        end()


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """RabbitMQ, PostgreSQL and Redis of this run (per xdist worker), started on first use."""
    from kairos_testkit.servers import start_servers

    running = start_servers()
    yield running
    running.close()


@pytest.fixture
def broker_url(servers: Servers) -> Iterator[str]:
    """An AMQP address with a virtual host of this test's own, deleted afterwards."""
    vhost = f"test-{secrets.token_hex(6)}"
    servers.management.create_vhost(vhost)
    yield servers.amqp(vhost)
    servers.management.delete_vhost(vhost)


@pytest.fixture
def redis_url(servers: Servers) -> Iterator[str]:
    """A Redis database of this test's own, empty before and after."""
    from kairos_testkit.redis_databases import lend

    with lend(servers.redis_url) as url:
        yield url


@pytest.fixture(scope="session")
def _provisioned_templates(servers: Servers) -> Provisioned:
    from kairos_testkit.databases import Provisioned

    provisioned = Provisioned(servers.postgres_admin_url)
    provisioned.provision()
    return provisioned


@pytest.fixture(scope="module")
def provisioned(_provisioned_templates: Provisioned) -> Iterator[Provisioned]:
    """Roles, schemas and a way to databases of this module's own, cloned from migrated templates."""
    yield _provisioned_templates
    _provisioned_templates.drop_lent()


@pytest.fixture
def fake_provider() -> Iterator[FakeProvider]:
    """An OpenAI-compatible provider with its own books."""
    from kairos_testkit.fake_provider import FakeProvider

    with FakeProvider() as provider:
        yield provider


@pytest.fixture
def fake_telegram() -> Iterator[FakeTelegram]:
    """A Telegram Bot API server."""
    from kairos_testkit.fake_telegram import FakeTelegram

    with FakeTelegram() as telegram:
        yield telegram


@pytest.fixture
def otlp_receiver() -> Iterator[OtlpReceiver]:
    """An OTLP/HTTP endpoint whose spans can be asked for."""
    from kairos_testkit.otlp_receiver import OtlpReceiver

    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def stack(servers: Servers, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """The whole suite, started once per run. Tests that hurt it start their own with start_stack()."""
    from kairos_testkit.stack import start_stack

    with start_stack(servers, request.config.rootpath) as running:
        own: Any = request
        # By itself, pytest ends what belongs to a session with the session only.
        request.config.stash[_END_STACK] = lambda: own._fixturedef.finish(own)  # noqa: SLF001 - no public way.
        yield running
        del request.config.stash[_END_STACK]
