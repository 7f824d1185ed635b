"""The catalogue: deployments, routes, prices with all their versions, price books, scores."""

from alembic import op

from kairos_persistence.schema import append_only, enable_tenant_scope

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Rows without an organisation are shared: everybody reads them, only the service itself writes them.
SHARED = ("catalogue_entries", "price_versions", "price_books")


def upgrade() -> None:
    op.execute("""
        CREATE TABLE catalogue_entries (
            entry_id uuid PRIMARY KEY,
            organisation_id uuid,
            kind text NOT NULL CHECK (kind IN ('deployment', 'route', 'price')),
            name text NOT NULL,
            document jsonb NOT NULL,
            price_version text,
            -- A provider's key, sealed; `key_id` names the key it is sealed under.
            key_id text,
            sealed bytea,
            version integer NOT NULL DEFAULT 1 CHECK (version > 0),
            updated_at timestamptz NOT NULL DEFAULT now(),
            CHECK ((key_id IS NULL) = (sealed IS NULL)),
            UNIQUE NULLS NOT DISTINCT (organisation_id, kind, name)
        )
    """)
    op.execute("""
        CREATE TABLE price_versions (
            organisation_id uuid,
            name text NOT NULL,
            version text NOT NULL,
            document jsonb NOT NULL,
            source text NOT NULL,
            valid_from timestamptz NOT NULL DEFAULT now(),
            UNIQUE NULLS NOT DISTINCT (organisation_id, name, version)
        )
    """)
    op.execute("""
        CREATE TABLE price_books (
            book_id uuid PRIMARY KEY,
            organisation_id uuid,
            version text NOT NULL,
            source text NOT NULL,
            models integer NOT NULL,
            document jsonb NOT NULL,
            imported_at timestamptz NOT NULL DEFAULT clock_timestamp()
        )
    """)
    # The newest one is in force; the same book may come back after another one.
    op.execute("CREATE INDEX price_books_in_force ON price_books (organisation_id, imported_at DESC)")
    op.execute("""
        CREATE TABLE deployment_scores (
            organisation_id uuid NOT NULL,
            name text NOT NULL,
            quality double precision NOT NULL CHECK (quality BETWEEN 0 AND 1),
            samples bigint NOT NULL CHECK (samples > 0),
            updated_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (organisation_id, name)
        )
    """)
    for table in (*SHARED, "deployment_scores"):
        enable_tenant_scope(op, table)
    for table in SHARED:
        op.execute(f"CREATE POLICY shared_rows ON {table} FOR SELECT USING (organisation_id IS NULL)")
    for table in ("price_versions", "price_books"):
        append_only(op, table)


def downgrade() -> None:
    for table in ("deployment_scores", "price_books", "price_versions", "catalogue_entries"):
        op.execute(f"DROP TABLE {table}")
