from collections.abc import Callable
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import CursorResult, text
from sqlalchemy.exc import ProgrammingError

from kairos_persistence import Database

pytestmark = pytest.mark.servers

INSERT = text("INSERT INTO notes (id, organisation_id, body) VALUES (:id, :owner, 'hello')")


async def add_note(database: Database, owner: UUID) -> UUID:
    note = uuid4()
    async with database.unit_of_work(owner) as unit:
        await unit.session.execute(INSERT, {"id": note, "owner": owner})
    return note


async def visible(database: Database, organisation: UUID | None) -> set[UUID]:
    async with database.unit_of_work(organisation) as unit:
        return set((await unit.session.execute(text("SELECT id FROM notes"))).scalars())


async def changed(database: Database, organisation: UUID | None, statement: str) -> int:
    async with database.unit_of_work(organisation) as unit:
        answer = await unit.session.execute(text(statement))
        assert isinstance(answer, CursorResult)
        return answer.rowcount


async def test_an_organisation_sees_its_own_rows_only(database: Database) -> None:
    ours, theirs = uuid4(), uuid4()
    note, other = await add_note(database, ours), await add_note(database, theirs)

    assert await visible(database, ours) == {note}
    assert await visible(database, theirs) == {other}
    assert await visible(database, None) == set()


async def test_a_row_of_a_foreign_organisation_is_refused(database: Database) -> None:
    ours, theirs = uuid4(), uuid4()
    for scope in (ours, None):
        with pytest.raises(ProgrammingError, match="row-level security"):
            async with database.unit_of_work(scope) as unit:
                await unit.session.execute(INSERT, {"id": uuid4(), "owner": theirs})
    assert await visible(database, theirs) == set()


async def test_a_foreign_row_can_be_neither_changed_nor_removed_nor_taken_over(database: Database) -> None:
    ours, theirs = uuid4(), uuid4()
    note = await add_note(database, theirs)

    assert await changed(database, ours, "UPDATE notes SET body = 'mine'") == 0
    assert await changed(database, ours, "DELETE FROM notes") == 0
    await add_note(database, ours)
    with pytest.raises(ProgrammingError, match="row-level security"):
        await changed(database, ours, f"UPDATE notes SET organisation_id = '{theirs}'")  # noqa: S608 - our own UUID
    assert await visible(database, theirs) == {note}


async def test_the_system_scope_sees_every_organisation(database: Database) -> None:
    notes = {await add_note(database, uuid4()) for _ in range(3)}
    async with database.system_unit_of_work() as unit:
        assert set((await unit.session.execute(text("SELECT id FROM notes"))).scalars()) == notes


async def test_a_scope_ends_with_its_transaction(database: Database) -> None:
    async with database.system_unit_of_work():
        pass
    await add_note(database, uuid4())
    async with database.engine.connect() as connection:  # the pool hands the same connection out again
        assert (await connection.execute(text("SELECT count(*) FROM notes"))).scalar_one() == 0


async def test_the_owner_of_the_table_is_bound_by_the_scope_as_well(
    database: Database, owner_rows: Callable[[str], list[tuple[object, ...]]]
) -> None:
    await add_note(database, uuid4())
    assert owner_rows("SELECT count(*) FROM bots.notes") == [(0,)]


async def test_a_partition_is_no_way_round_the_scope(
    database: Database, store_url: Callable[[str], str], owner_rows: Callable[[str], list[tuple[object, ...]]]
) -> None:
    partitions = [
        name
        for (name,) in owner_rows(
            "SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'bots.visits'::regclass"
        )
    ]
    assert len(partitions) == 9  # seven days ahead, today and the default one
    with psycopg.connect(store_url("kairos_bots"), autocommit=True) as connection:
        for partition in partitions:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT * FROM {partition}".encode())  # noqa: S608 - names from the catalogue


async def test_a_tenant_table_by_day_takes_rows_through_its_parent(database: Database) -> None:
    organisation = uuid4()
    async with database.unit_of_work(organisation) as unit:
        await unit.session.execute(
            text("INSERT INTO visits (id, organisation_id) VALUES (:id, :id)"), {"id": organisation}
        )
    assert await changed(database, uuid4(), "DELETE FROM visits") == 0
    assert await changed(database, organisation, "DELETE FROM visits") == 1
