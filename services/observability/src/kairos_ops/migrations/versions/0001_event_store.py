"""Event store, dead letters, observed health and the watch over it."""

from alembic import op

from kairos_persistence import schema

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

KEEP_EVENTS_DAYS = 30


def upgrade() -> None:
    schema.create_messaging_tables(op)
    # `recorded_at` is taken at the insert, so that the order of the store hardly differs from the order
    # of commits; readers that poll overlap by a few seconds instead of trusting a "last id".
    op.execute(
        """
        CREATE TABLE events (
            recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            id uuid NOT NULL,
            type text NOT NULL,
            source text NOT NULL,
            subject text NOT NULL,
            occurred_at timestamptz NOT NULL,
            organisation_id uuid,
            causation_id uuid,
            trace_id text,
            data jsonb NOT NULL,
            PRIMARY KEY (recorded_at, id)
        ) PARTITION BY RANGE (recorded_at)
        """
    )
    op.execute("CREATE INDEX events_by_organisation ON events (organisation_id, recorded_at DESC, id DESC)")
    op.execute("CREATE INDEX events_by_trace ON events (trace_id) WHERE trace_id IS NOT NULL")
    schema.partition_by_day(op, "events", column="recorded_at", keep_days=KEEP_EVENTS_DAYS)
    schema.enable_tenant_scope(op, "events")
    op.execute(
        """
        CREATE TABLE dead_letters (
            id uuid PRIMARY KEY,
            message_id text NOT NULL,
            queue text NOT NULL,
            type text NOT NULL,
            organisation_id uuid,
            reason text NOT NULL,
            error text NOT NULL,
            attempts integer NOT NULL,
            deaths integer NOT NULL DEFAULT 1 CHECK (deaths > 0),
            trace_id text,
            payload_sha256 text NOT NULL,
            headers jsonb NOT NULL,
            body bytea NOT NULL,
            status text NOT NULL CHECK (status IN ('open', 'replayed')),
            first_died_at timestamptz NOT NULL,
            last_died_at timestamptz NOT NULL,
            replayed_at timestamptz,
            replayed_by text,
            UNIQUE (message_id, queue)
        )
        """
    )
    op.execute("CREATE INDEX dead_letters_by_time ON dead_letters (last_died_at DESC, id DESC)")
    schema.enable_tenant_scope(op, "dead_letters")
    op.execute(
        """
        CREATE TABLE service_health (
            service text PRIMARY KEY,
            health text NOT NULL CHECK (health IN ('up', 'degraded', 'down')),
            detail text NOT NULL,
            changed_at timestamptz NOT NULL
        )
        """
    )
    # One replica at a time writes health changes; the row is taken over when its holder stops renewing.
    op.execute(
        "CREATE TABLE watches (name text PRIMARY KEY, holder text NOT NULL, expires_at timestamptz NOT NULL)"
    )


def downgrade() -> None:
    for table in ("watches", "service_health", "dead_letters", "events"):
        op.execute(f"DROP TABLE {table}")
