import asyncio
from collections.abc import Callable
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from kairos_persistence import Database, create_engine
from kairos_persistence.schema import enable_tenant_scope
from kairos_telemetry import metrics
from kairos_testkit.ports import free_port

pytestmark = pytest.mark.servers

Rows = Callable[[str], list[tuple[object, ...]]]

DAYS = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'bots.{}'::regclass ORDER BY 1"


def add_outbox(owner_rows: Rows, age: str, published: str) -> str:
    key = str(uuid4())
    owner_rows(
        "INSERT INTO bots.outbox (id, aggregate, type, headers, body, created_at, published_at)"  # noqa: S608 - ours
        f" VALUES ('{key}', 'a', 't', '{{}}', '', now() - interval '{age}', {published})"
    )
    return key


async def test_the_coming_days_exist_and_asking_again_changes_nothing(
    database: Database, owner_rows: Rows
) -> None:
    assert await database.ensure_partitions(12) == 3 * (12 - 7)
    assert await database.ensure_partitions(12) == 0
    assert len(owner_rows(DAYS.format("inbox"))) == 12 + 2


async def test_a_days_count_out_of_bounds_is_refused(database: Database) -> None:
    for days in (0, 61):
        with pytest.raises(DBAPIError, match="between 1 and 60"):
            await database.ensure_partitions(days)


async def test_rows_of_a_day_without_partition_are_kept_and_move_into_it(
    database: Database, owner_rows: Rows
) -> None:
    organisation = uuid4()
    async with database.unit_of_work(organisation) as unit:
        await unit.session.execute(
            text(
                "INSERT INTO visits (id, organisation_id, created_at)"
                " VALUES (:id, :id, now() + interval '20 days')"
            ),
            {"id": organisation},
        )
    assert owner_rows("SELECT count(*) FROM bots.visits_default") == [(1,)]

    await database.ensure_partitions(20)

    assert owner_rows("SELECT count(*) FROM bots.visits_default") == [(0,)]
    async with database.unit_of_work(organisation) as unit:
        assert (await unit.session.execute(text("SELECT id FROM visits"))).scalars().all() == [organisation]
    async with database.unit_of_work(uuid4()) as unit:
        assert (await unit.session.execute(text("SELECT id FROM visits"))).scalars().all() == []


async def test_old_days_go_when_every_row_may_go(database: Database, owner_rows: Rows) -> None:
    for day in (8, 9, 40):
        owner_rows(f"SELECT bots.create_day('outbox', 'created_at', current_date - {day})")
        owner_rows(f"SELECT bots.create_day('inbox', 'handled_at', current_date - {day})")
    add_outbox(owner_rows, "8 days", "now()")
    waiting = add_outbox(owner_rows, "9 days", "NULL")
    stray = add_outbox(owner_rows, "50 days", "NULL")
    add_outbox(owner_rows, "50 days", "now()")
    add_outbox(owner_rows, "6 days", "now()")

    await database.ensure_partitions(7)

    left = {str(row[0]) for row in owner_rows("SELECT id FROM bots.outbox WHERE published_at IS NULL")}
    assert left == {waiting, stray}
    assert owner_rows("SELECT count(*) FROM bots.outbox") == [(3,)]
    days = owner_rows(
        "SELECT count(*) FROM pg_inherits WHERE inhparent = 'bots.inbox'::regclass"
        " AND inhrelid::regclass::text < 'bots.inbox_' || to_char(current_date, 'YYYYMMDD')"
    )
    assert days == [(2,)]  # 8 and 9 days old are kept, 40 days old is dropped


@pytest.mark.parametrize("table", ["Notes", "a b", "x;drop", ""])
def test_a_table_is_named_plainly(table: str) -> None:
    with pytest.raises(ValueError, match="plain"):
        enable_tenant_scope(_Nothing(), table)


class _Nothing:
    def execute(self, sqltext: str) -> object:
        raise AssertionError(sqltext)


async def test_a_background_task_keeps_the_days_coming(database: Database, owner_rows: Rows) -> None:
    owner_rows(
        "DROP TABLE bots.visits_"
        + str(owner_rows("SELECT to_char(now() + interval '7 days', 'YYYYMMDD')")[0][0])
    )
    task = asyncio.create_task(database.keep_partitions(every_s=0.01))
    wanted = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'bots.visits'::regclass"
    before = owner_rows(wanted)[0][0]
    async with asyncio.timeout(10):
        while owner_rows(wanted)[0][0] == before:
            await database.ping()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_it_waits_for_a_database_that_is_away() -> None:
    engine = create_engine(f"postgresql://nobody@127.0.0.1:{free_port()}/none", application_name="early")
    early = Database(engine, service="early")
    task = asyncio.create_task(early.keep_partitions(every_s=0.01))
    name, labels = "kairos_database_unavailable_total", {"service": "early"}
    async with asyncio.timeout(60):
        while (metrics.REGISTRY.get_sample_value(name, labels) or 0) < 2 and not task.done():
            await asyncio.wait([task], timeout=0.02)
    assert not task.done()
    task.cancel()
    await early.dispose()


def test_the_pool_is_measured(database: Database) -> None:
    labels = {"service": "bot-worker", "state": "idle"}
    assert (metrics.REGISTRY.get_sample_value("kairos_database_connections", labels) or 0) >= 1
