"""A database of each module's own, migrated with the example package in the schema `bots`."""

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import text

from kairos_persistence import Database, create_engine
from kairos_persistence.migrate import migrate
from kairos_persistence.provision import provision
from kairos_testkit.servers import Servers

PACKAGES = Path(__file__).parent / "packages"
PACKAGE = "kairos_example"
PASSWORDS = {"kairos_owner": "owner-pw", "kairos_bots": "bots-pw", "kairos_router": "router-pw"}


@dataclass(frozen=True)
class Store:
    """One provisioned database and how to log in to it."""

    admin_url: str
    name: str

    def url(self, role: str | None = None) -> str:
        scheme, _, rest = self.admin_url.partition("://")
        login, _, host = rest.rpartition("@")
        who = login if role is None else f"{role}:{PASSWORDS[role]}"
        return f"{scheme}://{who}@{host.partition('/')[0]}/{self.name}"

    def rows(self, query: str, role: str | None = None) -> list[tuple[object, ...]]:
        with psycopg.connect(self.url(role), autocommit=True) as connection:
            cursor = connection.execute(query.encode())
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def example_package(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.syspath_prepend(str(PACKAGES))
    return PACKAGE


@pytest.fixture
def empty_store(servers: Servers) -> Iterator[Store]:
    """Provisioned, not migrated."""
    store = Store(servers.postgres_admin_url, f"store_{token_hex(6)}")
    provision(servers.postgres_admin_url, PASSWORDS, database=store.name)
    yield store
    _drop(store)


@pytest.fixture(scope="module")
def store(servers: Servers) -> Iterator[Store]:
    store = Store(servers.postgres_admin_url, f"store_{token_hex(6)}")
    provision(servers.postgres_admin_url, PASSWORDS, database=store.name)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PACKAGES))
        migrate(store.url("kairos_owner"), PACKAGE, "bots")
    yield store
    _drop(store)


@pytest.fixture
async def database(store: Store) -> AsyncIterator[Database]:
    engine = create_engine(store.url("kairos_bots"), application_name="persistence-tests")
    database = Database(engine, service="bot-worker")
    async with database.system_unit_of_work() as unit:
        for table in ("notes", "visits", "outbox", "inbox"):
            await unit.session.execute(text(f"DELETE FROM {table}"))  # noqa: S608 - literals above
    yield database
    await database.dispose()


@pytest.fixture
def store_url(store: Store) -> Callable[[str], str]:
    return store.url


@pytest.fixture
def owner_rows(store: Store) -> Callable[[str], list[tuple[object, ...]]]:
    """Run SQL as the owner of the tables, outside of every scope."""

    def run(query: str) -> list[tuple[object, ...]]:
        return store.rows(query, "kairos_owner")

    return run


@pytest.fixture
def store_name(servers: Servers) -> Iterator[Callable[[], str]]:
    """Names for databases that are dropped afterwards."""
    given: list[str] = []

    def name() -> str:
        given.append(f"store_{token_hex(6)}")
        return given[-1]

    yield name
    for each in given:
        _drop(Store(servers.postgres_admin_url, each))


def _drop(store: Store) -> None:
    with psycopg.connect(store.admin_url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(store.name)))
