"""Quotas, and which answers are kept for how long."""

from alembic import op

from kairos_persistence.schema import enable_tenant_scope

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE quotas (
            quota_id uuid PRIMARY KEY,
            organisation_id uuid NOT NULL,
            scope text NOT NULL CHECK (scope IN ('organisation', 'project', 'team', 'bot', 'contact', 'api_key')),
            -- NULL: each of that scope has a counter of its own.
            scope_id uuid,
            metric text NOT NULL CHECK (metric IN ('requests', 'tokens', 'concurrent')),
            limit_units bigint NOT NULL CHECK (limit_units > 0),
            quota_window text CHECK (quota_window IN ('minute', 'hour', 'day')),
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            CHECK ((quota_window IS NULL) = (metric = 'concurrent')),
            CHECK (scope <> 'organisation' OR scope_id IS NULL),
            UNIQUE NULLS NOT DISTINCT (organisation_id, scope, scope_id, metric, quota_window)
        )
    """)
    op.execute("""
        CREATE TABLE cache_policies (
            organisation_id uuid NOT NULL,
            -- '*' is the organisation's default.
            route text NOT NULL,
            mode text NOT NULL CHECK (mode IN ('off', 'deterministic', 'all')),
            ttl_seconds integer NOT NULL CHECK (ttl_seconds BETWEEN 0 AND 2592000),
            shared_by text NOT NULL CHECK (shared_by IN ('organisation', 'api_key', 'contact')),
            semantic boolean NOT NULL DEFAULT false,
            similarity double precision NOT NULL CHECK (similarity BETWEEN 0.5 AND 1),
            -- A part of every key: one more, and what was kept before is never found again.
            generation integer NOT NULL DEFAULT 0,
            updated_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (organisation_id, route)
        )
    """)
    for table in ("quotas", "cache_policies"):
        enable_tenant_scope(op, table)


def downgrade() -> None:
    for table in ("cache_policies", "quotas"):
        op.execute(f"DROP TABLE {table}")
