"""What the database itself refuses, whatever the code above it does."""

import asyncio
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import text

from kairos_budget.adapters import tables
from kairos_testkit.databases import ClonedDatabase

from .conftest import Bench  # noqa: TID252 - tests have no importable package name

pytestmark = pytest.mark.servers

SCOPED = (
    "budgets",
    "budget_periods",
    "leases",
    "lease_allocations",
    "attempts",
    "attempt_holds",
    "transfers",
    "ledger_checkpoints",
    "usage_records",
    "spend_hours",
    "postings",
    "usage_series",
    "usage_minutes",
    "usage_hours",
    "usage_days",
    "usage_errors",
    "budget_forecasts",
    "budget_samples",
    "adjustments",
    "fx_rates",
)


def connect(cloned: ClonedDatabase) -> psycopg.Connection:
    connection = psycopg.connect(cloned.urls["budget"], autocommit=True)
    connection.execute("SELECT set_config('kairos.system', 'on', false)")
    return connection


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE transfers SET amount_nano = 1",
        "DELETE FROM transfers",
        "TRUNCATE transfers",
        "UPDATE usage_records SET cost_nano = 0",
    ],
)
async def test_the_ledger_is_append_only_for_the_service(cloned: ClonedDatabase, statement: str) -> None:
    with connect(cloned) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement)


@pytest.mark.parametrize(
    "change",
    [
        "leased_nano = leased_nano + 1",
        "settled_nano = settled_nano - 1",
        "available_nano = available_nano + 1",
        "leased_nano = leased_nano + available_nano + 1, excess_nano = 1, available_nano = 0",
        "settled_nano = settled_nano + available_nano + 1, excess_nano = 1, available_nano = 0",
        "overspend_nano = -1",
        "leased_nano = -1, available_nano = available_nano + leased_nano + 1",
        "available_nano = available_nano + 5, excess_nano = 5",
    ],
)
async def test_no_statement_can_put_a_period_over_its_limit_unrecorded(
    bench: Bench, cloned: ClonedDatabase, change: str
) -> None:
    budget = await bench.budget(100)
    await bench.lease(40)
    with connect(cloned) as connection, pytest.raises(psycopg.errors.CheckViolation):
        connection.execute(
            f"UPDATE budget_periods SET {change} WHERE budget_id = %s",  # noqa: S608 - the test's own text
            (budget.id,),
        )
    await bench.assert_balanced()


async def test_recorded_overspend_never_falls(bench: Bench, cloned: ClonedDatabase) -> None:
    budget = await bench.budget(10)
    await bench.record(bench.usage(None, cost=15))
    with connect(cloned) as connection, pytest.raises(psycopg.errors.CheckViolation, match="never falls"):
        connection.execute("UPDATE budget_periods SET overspend_nano = 0 WHERE budget_id = %s", (budget.id,))


async def test_the_same_cause_can_not_move_money_twice(bench: Bench, cloned: ClonedDatabase) -> None:
    await bench.budget(100)
    await bench.lease(40)
    columns = (
        "idempotency_key, organisation_id, budget_id, period_id, kind, source, target, amount_nano, lease_id"
    )
    with connect(cloned) as connection, pytest.raises(psycopg.errors.UniqueViolation):
        connection.execute(
            f"INSERT INTO transfers ({columns}) SELECT {columns} FROM transfers"  # noqa: S608 - constants
        )


async def test_rows_of_another_tenant_are_invisible_and_can_not_be_written(
    bench: Bench, cloned: ClonedDatabase
) -> None:
    await bench.budget(100)
    lease = (await bench.lease(40)).lease
    await bench.record(bench.usage(lease.id, cost=5), bench.usage(lease.id, hold=5, outcome="unknown"))
    assert await bench.cases.check_ledger(bench.organisation) == []
    with psycopg.connect(cloned.urls["budget"], autocommit=True) as stranger:
        stranger.execute("SELECT set_config('kairos.organisation_id', %s, false)", (str(uuid4()),))
        for table in SCOPED:
            found = stranger.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 - constants
            assert found == (0,), table
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            stranger.execute(
                "INSERT INTO spend_hours VALUES (%s, now(), 'm', null, null, 1, 1, 0, 0, 0)",
                (bench.organisation,),
            )


async def test_every_tenant_table_is_scoped(cloned: ClonedDatabase) -> None:
    query = """
        SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE c.relnamespace = 'budget'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
          AND a.attname = 'organisation_id' AND NOT (c.relrowsecurity AND c.relforcerowsecurity)
    """
    with psycopg.connect(cloned.admin_url) as connection:
        assert [name for (name,) in connection.execute(query)] == ["outbox"]


async def test_the_models_name_the_columns_the_migrations_make(cloned: ClonedDatabase) -> None:
    models = [model for model in vars(tables).values() if hasattr(model, "__table__")]
    assert len(models) == 10
    query = (
        "SELECT column_name FROM information_schema.columns WHERE table_schema = 'budget' AND table_name = %s"
    )
    with psycopg.connect(cloned.admin_url) as connection:
        for model in models:
            made = {name for (name,) in connection.execute(query, (model.__tablename__,))}
            named = {column.name for column in model.__table__.columns}
            assert named <= made if model is tables.AttemptRow else named == made, model


async def set_aside(bench: Bench, statement: str, **values: object) -> None:
    """Change a row as an intruder with the owner's rights would."""
    async with bench.database.system_unit_of_work() as unit:
        await unit.session.execute(text(statement), values)


async def test_a_stored_balance_that_no_transfer_explains_is_found(bench: Bench) -> None:
    budget = await bench.budget(100)
    await bench.lease(40)
    await bench.assert_balanced()
    await set_aside(
        bench,
        "UPDATE budget_periods SET leased_nano = leased_nano - 7, available_nano = available_nano + 7,"
        " version = version + 1 WHERE budget_id = :id",
        id=budget.id,
    )
    for full in (False, True):
        rules = {
            f.rule: (f.stored, f.recomputed)
            for f in await bench.cases.check_ledger(bench.organisation, full=full)
        }
        assert rules == {
            "available_equals_transfers": (67, 60),
            "leased_equals_transfers": (33, 40),
            "leased_equals_leases": (33, 40),
        }


async def test_an_attempt_charged_twice_or_not_in_full_is_found(bench: Bench, cloned: ClonedDatabase) -> None:
    await bench.budget(100)
    lease = (await bench.lease(40)).lease
    usage = bench.usage(lease.id, cost=10)
    await bench.record(usage)
    await set_aside(bench, "UPDATE attempts SET cost_nano = 9 WHERE id = :id", id=usage.message.attempt_id)
    (finding,) = await bench.cases.check_ledger(bench.organisation, full=False)
    assert (finding.rule, finding.stored, finding.recomputed) == ("posting_of_attempts", 10, 9)


async def test_an_unknown_attempt_resolved_to_another_cost_than_moved_is_found(bench: Bench) -> None:
    await bench.budget(100)
    lease = (await bench.lease(40)).lease
    unknown = bench.usage(lease.id, hold=20, outcome="unknown")
    await bench.record(unknown)
    attempt = unknown.message.attempt_id
    await bench.record(bench.usage(lease.id, hold=20, cost=10, attempt=attempt))
    await bench.assert_balanced()
    await set_aside(bench, "UPDATE attempts SET cost_nano = 9 WHERE id = :id", id=attempt)
    (finding,) = await bench.cases.check_ledger(bench.organisation, full=False)
    assert (finding.rule, finding.stored, finding.recomputed) == ("attempt_charged_once", 9, 10)


@pytest.mark.parametrize("full", [True, False])
async def test_a_posting_that_moved_less_or_more_than_its_attempts_cost_is_found(
    bench: Bench, cloned: ClonedDatabase, full: bool
) -> None:
    await bench.budget(1_000)
    lease = (await bench.lease(500)).lease
    usages = [bench.usage(lease.id, cost=10) for _ in range(5)]
    await bench.record(*usages)
    await bench.assert_balanced()
    with psycopg.connect(cloned.admin_url) as connection:
        connection.execute(
            "UPDATE budget.transfers SET amount_nano = 40 WHERE posting_id IS NOT NULL"
            " AND organisation_id = %s",
            (bench.organisation,),
        )
    rules = {finding.rule for finding in await bench.cases.check_ledger(bench.organisation, full=full)}
    assert "posting_charged_once" in rules


async def test_an_attempt_that_left_its_posting_is_found(bench: Bench) -> None:
    await bench.budget(1_000)
    lease = (await bench.lease(500)).lease
    usages = [bench.usage(lease.id, cost=10) for _ in range(5)]
    await bench.record(*usages)
    for posting in ("NULL", "gen_random_uuid()"):
        await set_aside(
            bench,
            f"UPDATE attempts SET posting_id = {posting} WHERE id = :id",  # noqa: S608 - the test's own text
            id=usages[0].message.attempt_id,
        )
        rules = {finding.rule for finding in await bench.cases.check_ledger(bench.organisation, full=False)}
        assert "posting_of_attempts" in rules


async def test_money_moves_while_the_ledger_is_checked(bench: Bench) -> None:
    """A check of a big ledger takes seconds, and what it has written must stop nobody until it ends."""
    budget = await bench.budget(1_000)
    lease = (await bench.lease(500)).lease
    await bench.record(bench.usage(lease.id, cost=10))
    async with bench.cases.check_ledger.money.tenant(bench.organisation) as checking:
        assert await checking.check_ledger(full=False) == []
        async with asyncio.timeout(2):
            await bench.record(bench.usage(lease.id, cost=10))
            await bench.lease(100)
            await bench.beat(lease.id, want=10)
    assert (await bench.reading(budget)).balances.settled == 20
    await bench.assert_balanced()


async def test_the_check_of_everybody_sets_the_metric(bench: Bench) -> None:
    budget = await bench.budget(100)
    await bench.lease(40)
    await set_aside(
        bench,
        "UPDATE lease_allocations SET leased_nano = 35 WHERE period_id IN"
        " (SELECT id FROM budget_periods WHERE budget_id = :id)",
        id=budget.id,
    )
    findings = [f for f in await bench.cases.check_ledger() if f.rule == "leased_equals_leases"]
    assert 5 in {abs(each.stored - each.recomputed) for each in findings}
