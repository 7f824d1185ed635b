"""DDL that migrations share: messaging tables, tenant scope, partitions by day, append-only tables.

Every function takes Alembic's `op` and works in the schema the migrations run in. The first migration
of a service calls `create_messaging_tables`, which also makes what `partition_by_day` needs.
"""

import re
from importlib import resources
from typing import Protocol

OUTBOX_KEEP_DAYS = 7
INBOX_KEEP_DAYS = 30

TENANT_RULE = (
    "organisation_id = nullif(current_setting('kairos.organisation_id', true), '')::uuid"
    " OR current_setting('kairos.system', true) = 'on'"
)

_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]{0,50}")


class Operations(Protocol):
    """The part of Alembic's `op` used here."""

    def execute(self, sqltext: str) -> object: ...


def create_messaging_tables(op: Operations) -> None:
    """Create outbox and inbox, by day, and the functions the runtime role may call on them."""
    for name in ("partitions.sql", "messaging.sql"):
        for statement in _statements(name):
            op.execute(statement)
    partition_by_day(op, "outbox", keep_days=OUTBOX_KEEP_DAYS, removable="published_at IS NOT NULL")
    partition_by_day(op, "inbox", column="handled_at", keep_days=INBOX_KEEP_DAYS)


def enable_tenant_scope(op: Operations, table: str) -> None:
    """Show and accept rows of the scope's organisation only. The table has `organisation_id uuid`."""
    name = _identifier(table)
    op.execute(f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY tenant_scope ON {name} USING ({TENANT_RULE}) WITH CHECK ({TENANT_RULE})")


def partition_by_day(
    op: Operations,
    table: str,
    *,
    column: str = "created_at",
    keep_days: int | None = None,
    removable: str = "true",
) -> None:
    """Manage the day partitions of a table made with `PARTITION BY RANGE (column)`, a timestamptz.

    Makes the default partition and the first days; `ensure_partitions` makes the next ones. With
    `keep_days`, a day older than that is dropped once every row of it satisfies the SQL `removable`.
    """
    name, key = _identifier(table), _identifier(column)
    keep = "NULL" if keep_days is None else str(int(keep_days))
    condition = removable.replace("'", "''")
    op.execute(f"CREATE TABLE {name}_default PARTITION OF {name} DEFAULT")
    op.execute(f"SELECT hide_partition('{name}_default')")
    op.execute(  # names are checked above; the condition is a migration's own text
        "INSERT INTO partitioned_tables (table_name, column_name, keep_days, removable)"  # noqa: S608 - as said
        f" VALUES ('{name}', '{key}', {keep}, '{condition}')"
    )
    op.execute("SELECT ensure_partitions(7)")


def append_only(op: Operations, table: str) -> None:
    """Let the runtime role insert and read, never change or remove. `FOR UPDATE` is refused too."""
    op.execute(f"SELECT withhold_changes('{_identifier(table)}')")


def _identifier(name: str) -> str:
    if not _IDENTIFIER.fullmatch(name):
        raise ValueError(f"not a plain lower-case SQL name: {name!r}")
    return name


def _statements(name: str) -> list[str]:
    """The statements of a packaged file; a line of two dashes alone parts them."""
    source = resources.files("kairos_persistence").joinpath("sql", name).read_text("utf-8")
    return [part.strip() for part in source.split("\n--\n") if part.strip()]
