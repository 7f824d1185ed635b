"""What callers see when the database is slow, locked, restarting or gone."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import exc, text

from kairos_contracts.auth.v1 import AccessChangedV1
from kairos_persistence import Database, DatabaseUnavailable, UnitOfWork, create_engine
from kairos_persistence.errors import is_unavailable
from kairos_telemetry import metrics
from kairos_testkit.servers import Servers

pytestmark = pytest.mark.servers

Url = Callable[[str], str]


@pytest.fixture
async def small(store_url: Url) -> AsyncIterator[Database]:
    """One connection and little patience."""
    engine = create_engine(store_url("kairos_bots"), application_name="small", pool_size=1)
    database = Database(engine, service="bot-worker", deadline_s=1.5)
    yield database
    await database.dispose()


@pytest.fixture
def postgres(servers: Servers) -> Iterator[Servers]:
    """The server may be hurt; it is well again afterwards."""
    if servers.kind == "foreign":
        pytest.skip("the server belongs to somebody else")
    yield servers
    servers.postgres.restart()


async def run(database: Database, statement: str) -> None:
    async with database.unit_of_work(None) as unit:
        await unit.session.execute(text(statement))


async def backend(unit: UnitOfWork) -> int:
    return int((await unit.session.execute(text("SELECT pg_backend_pid()"))).scalar_one())


def terminate(servers: Servers, pid: int) -> None:
    with psycopg.connect(servers.postgres_admin_url, autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))


async def test_a_stopped_server_is_unavailable_and_usable_again_once_it_is_back(
    database: Database, postgres: Servers
) -> None:
    await database.ping()
    postgres.postgres.stop()
    with pytest.raises(DatabaseUnavailable):
        await database.ping()
    with pytest.raises(DatabaseUnavailable):
        await run(database, "SELECT 1")

    postgres.postgres.start()
    await database.ping()
    await run(database, "SELECT 1")


async def test_a_server_that_was_restarted_between_two_units_of_work_is_not_noticed(
    database: Database, postgres: Servers
) -> None:
    await run(database, "SELECT 1")
    postgres.postgres.kill()
    postgres.postgres.start()
    await run(database, "SELECT 1")


async def test_a_server_that_dies_inside_a_unit_of_work_keeps_nothing(
    database: Database, postgres: Servers
) -> None:
    async def work() -> None:
        async with database.unit_of_work(uuid4()) as unit:
            await unit.session.execute(text("DELETE FROM notes"))
            unit.emit(AccessChangedV1(kind="member", subject_id=uuid4()))
            postgres.postgres.kill()

    with pytest.raises(DatabaseUnavailable) as caught:
        await work()

    assert not caught.value.outcome_unknown
    postgres.postgres.start()
    async with database.system_unit_of_work() as unit:
        assert (await unit.session.execute(text("SELECT count(*) FROM outbox"))).scalar_one() == 0


async def test_a_connection_lost_at_the_commit_has_an_unknown_outcome(
    database: Database, servers: Servers
) -> None:
    async def work() -> None:
        async with database.unit_of_work(None) as unit:
            terminate(servers, await backend(unit))

    with pytest.raises(DatabaseUnavailable) as caught:
        await work()
    assert caught.value.outcome_unknown


def unavailable_count() -> float:
    return (
        metrics.REGISTRY.get_sample_value("kairos_database_unavailable_total", {"service": "bot-worker"}) or 0
    )


async def test_a_server_that_stopped_answering_is_given_up(small: Database, postgres: Servers) -> None:
    async with small.unit_of_work(None) as unit:
        pid = await backend(unit)
    before = unavailable_count()
    # A backend is its own process group, so the server's main process is stopped apart from it.
    postgres.postgres.pause()
    os.kill(pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(30):
            with pytest.raises(DatabaseUnavailable):
                await run(small, "SELECT 1")
    finally:
        os.kill(pid, signal.SIGCONT)
        postgres.postgres.resume()
    assert unavailable_count() == before + 1
    await run(small, "SELECT 1")


async def test_work_longer_than_the_deadline_is_ended(small: Database) -> None:
    with pytest.raises(DatabaseUnavailable):
        await run(small, "SELECT pg_sleep(60)")


async def test_an_exhausted_pool_is_unavailable(store_url: Url) -> None:
    engine = create_engine(store_url("kairos_bots"), application_name="one", pool_size=1)
    engine.sync_engine.pool._timeout = 0.2  # type: ignore[attr-defined]
    database = Database(engine, service="bot-worker")
    async with database.unit_of_work(None):
        with pytest.raises(DatabaseUnavailable, match="QueuePool"):
            await run(database, "SELECT 1")
    await database.dispose()


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT set_config('statement_timeout', '50ms', true); SELECT pg_sleep(5)",
        "SELECT set_config('lock_timeout', '50ms', true); SELECT pg_advisory_xact_lock(1)",
        "DO $$ BEGIN RAISE EXCEPTION 'deadlock' USING ERRCODE = '40P01'; END $$",
        "DO $$ BEGIN RAISE EXCEPTION 'a standby' USING ERRCODE = '25006'; END $$",
        "DO $$ BEGIN RAISE EXCEPTION 'disk full' USING ERRCODE = '53100'; END $$",
    ],
)
async def test_waiting_too_long_and_lost_races_are_unavailability(
    database: Database, store_url: Url, statement: str
) -> None:
    with psycopg.connect(store_url("kairos_bots")) as other:
        other.execute("SELECT pg_advisory_xact_lock(1)")
        with pytest.raises(DatabaseUnavailable):
            await run(database, statement)


@pytest.mark.parametrize(
    "statement", ["SELECT 1/0", "SELECT * FROM absent", "INSERT INTO notes VALUES (NULL)"]
)
async def test_a_wrong_statement_is_an_error_and_not_unavailability(
    database: Database, statement: str
) -> None:
    with pytest.raises(exc.DBAPIError):
        await run(database, statement)


async def test_a_timeout_of_the_callers_own_stays_what_it_is(database: Database) -> None:
    async def work() -> None:
        async with database.unit_of_work(None):
            raise TimeoutError("the caller's")

    with pytest.raises(TimeoutError, match="the caller's"):
        await work()


async def test_a_cancelled_unit_of_work_is_rolled_back_and_its_connection_returned(small: Database) -> None:
    entered = asyncio.Event()

    async def work() -> None:
        async with small.unit_of_work(None) as unit:
            await unit.session.execute(text("INSERT INTO seals VALUES (77)"))
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with small.unit_of_work(None) as unit:
        assert (await unit.session.execute(text("SELECT * FROM seals WHERE id = 77"))).all() == []


async def test_the_message_of_the_error_holds_no_statement_and_no_parameter(database: Database) -> None:
    async def work() -> None:
        async with database.unit_of_work(None) as unit:
            await unit.session.execute(text("SELECT set_config('statement_timeout', '20ms', true)"))
            await unit.session.execute(text("SELECT pg_sleep(5), :secret"), {"secret": "canary-value"})

    with pytest.raises(DatabaseUnavailable) as caught:
        await work()
    assert "canary" not in f"{caught.value}{caught.value.__cause__}"
    assert "pg_sleep" not in str(caught.value)


@pytest.mark.parametrize("error", [ValueError(), psycopg.ProgrammingError(), exc.InvalidRequestError()])
def test_other_errors_are_not_unavailability(error: Exception) -> None:
    assert not is_unavailable(error)
