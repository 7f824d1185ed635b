import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import event, text

from kairos_contracts.auth.v1 import AccessChangedV1, OrganisationCreatedV1
from kairos_contracts.message import Envelope
from kairos_persistence import Database
from kairos_telemetry import configure, current_traceparent, span

pytestmark = pytest.mark.servers


class WorkFailed(Exception):  # noqa: N818 - reads as the fact it states
    """The handler refused."""


def created(organisation: UUID) -> OrganisationCreatedV1:
    return OrganisationCreatedV1(organisation_id=organisation, name="Acme")


async def outbox(database: Database) -> list[dict[str, object]]:
    async with database.system_unit_of_work() as unit:
        answer = await unit.session.execute(text("SELECT * FROM outbox ORDER BY sequence"))
        return [dict(row) for row in answer.mappings()]


async def test_state_and_message_are_kept_together(database: Database) -> None:
    organisation, cause = uuid4(), uuid4()
    async with database.unit_of_work(organisation, causation_id=cause) as unit:
        await unit.session.execute(
            text("INSERT INTO notes (id, organisation_id, body) VALUES (:id, :id, 'kept')"),
            {"id": organisation},
        )
        message_id = unit.emit(created(organisation))

    (row,) = await outbox(database)
    envelope = Envelope.from_headers(row["headers"])  # type: ignore[arg-type]
    assert row["id"] == message_id == envelope.id
    assert row["aggregate"] == str(organisation) == envelope.subject
    assert row["organisation_id"] == organisation == envelope.organisation_id
    assert (envelope.source, envelope.causation_id) == ("bot-worker", cause)
    assert OrganisationCreatedV1.model_validate_json(row["body"]) == created(organisation)  # type: ignore[arg-type]
    assert row["published_at"] is None
    assert row["attempts"] == 0


async def test_a_failed_handler_leaves_neither_state_nor_message(database: Database) -> None:
    organisation = uuid4()
    called: list[str] = []

    async def work() -> None:
        async with database.unit_of_work(organisation) as unit:
            await unit.session.execute(
                text("INSERT INTO notes (id, organisation_id, body) VALUES (:id, :id, 'lost')"),
                {"id": organisation},
            )
            unit.emit(created(organisation))
            unit.after_commit(lambda: called.append("committed"))
            raise WorkFailed

    with pytest.raises(WorkFailed):
        await work()

    assert await outbox(database) == []
    async with database.system_unit_of_work() as unit:
        assert (await unit.session.execute(text("SELECT count(*) FROM notes"))).scalar_one() == 0
    assert called == []
    assert not database.outbox_written.is_set()


async def test_the_outbox_is_one_statement_in_the_order_of_emission(database: Database) -> None:
    statements: list[str] = []

    def note(_conn: object, _cursor: object, statement: str, *_rest: object) -> None:
        statements.append(statement)

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    organisations = [uuid4() for _ in range(300)]
    async with database.unit_of_work(None) as unit:
        ids = [unit.emit(created(one), organisation_id=one) for one in organisations]
    event.remove(database.engine.sync_engine, "before_cursor_execute", note)

    assert sum("INSERT INTO outbox" in statement for statement in statements) == 1
    assert [row["id"] for row in await outbox(database)] == ids


async def test_a_message_carries_the_span_that_emitted_it(database: Database) -> None:
    telemetry = configure("bot-worker", otlp_endpoint=None)
    with span("handle"):
        expected = current_traceparent()
        async with database.unit_of_work(uuid4()) as unit:
            unit.emit(created(uuid4()))
            unit.emit(created(uuid4()), traceparent=None)
    telemetry.shutdown()

    first, second = [Envelope.from_headers(row["headers"]) for row in await outbox(database)]  # type: ignore[arg-type]
    assert expected is not None
    assert (first.traceparent, second.traceparent) == (expected, None)


async def test_after_the_commit_callbacks_run_and_the_relay_is_woken(database: Database) -> None:
    called: list[str] = []

    def broken() -> None:
        called.append("broken")
        raise WorkFailed

    async with database.unit_of_work(uuid4()) as unit:
        unit.emit(AccessChangedV1(kind="member", subject_id=uuid4()))
        unit.after_commit(broken)
        unit.after_commit(lambda: called.append("next"))
        assert called == []

    assert called == ["broken", "next"]
    assert database.outbox_written.is_set()


async def test_a_listener_on_the_schemas_channel_hears_the_commit(
    database: Database, store_url: Callable[[str], str]
) -> None:
    async with await psycopg.AsyncConnection.connect(store_url("kairos_bots"), autocommit=True) as listener:
        await listener.execute("LISTEN kairos_outbox_bots")
        async with database.unit_of_work(uuid4()) as unit:
            unit.emit(created(uuid4()))
        heard = [note async for note in listener.notifies(timeout=10, stop_after=1)]

    assert [note.channel for note in heard] == ["kairos_outbox_bots"]


async def test_a_message_is_handled_once_per_consumer(database: Database) -> None:
    message = uuid4()
    answers = []
    for consumer in ("turns", "turns", "usage"):
        async with database.unit_of_work(None) as unit:
            answers.append(await unit.first_time(consumer, message))
    assert answers == [True, False, True]


async def test_a_failed_handler_may_handle_the_message_again(database: Database) -> None:
    message = uuid4()

    async def work() -> None:
        async with database.unit_of_work(None) as unit:
            assert await unit.first_time("turns", message)
            raise WorkFailed

    with pytest.raises(WorkFailed):
        await work()
    async with database.unit_of_work(None) as unit:
        assert await unit.first_time("turns", message)


async def test_of_many_handlers_at_once_exactly_one_is_first(database: Database) -> None:
    messages = [uuid4() for _ in range(10)]

    async def handle(message: UUID) -> bool:
        async with database.unit_of_work(None) as unit:
            first = await unit.first_time("turns", message)
            if first:
                unit.emit(created(message))
            return first

    attempts: list[Awaitable[bool]] = [handle(message) for message in messages for _ in range(8)]
    answers = await asyncio.gather(*attempts)

    assert sum(answers) == len(messages)
    assert sorted(str(row["aggregate"]) for row in await outbox(database)) == sorted(map(str, messages))


async def test_a_message_handled_on_an_earlier_day_stays_handled(
    database: Database, owner_rows: Callable[[str], object]
) -> None:
    message = uuid4()
    owner_rows(
        "INSERT INTO bots.inbox (consumer, message_id, handled_at)"  # noqa: S608 - a UUID of our own
        f" VALUES ('turns', '{message}', now() - interval '20 days')"
    )
    async with database.unit_of_work(None) as unit:
        assert not await unit.first_time("turns", message)
