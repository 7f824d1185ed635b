"""A tenant table by day, an append-only table and the messaging tables."""

from alembic import op

from kairos_persistence.schema import (
    append_only,
    create_messaging_tables,
    enable_tenant_scope,
    partition_by_day,
)

revision = "0001"
down_revision = None


def upgrade() -> None:
    create_messaging_tables(op)
    op.execute("CREATE TABLE notes (id uuid PRIMARY KEY, organisation_id uuid NOT NULL, body text NOT NULL)")
    enable_tenant_scope(op, "notes")
    op.execute(
        "CREATE TABLE visits (id uuid NOT NULL, organisation_id uuid NOT NULL,"
        " created_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (id, created_at))"
        " PARTITION BY RANGE (created_at)"
    )
    enable_tenant_scope(op, "visits")
    partition_by_day(op, "visits", keep_days=10)
    op.execute("CREATE TABLE seals (id bigint PRIMARY KEY)")
    append_only(op, "seals")
