"""Calendar periods in any time zone, rolling windows, reserves per priority, and leases that shrink."""

from alembic import op

from kairos_persistence.schema import enable_tenant_scope

revision = "0003"
down_revision = "0002"

# `index_version` is the version of the organisation's index of scopes that last changed because of this budget.
BUDGETS = """
ALTER TABLE budgets DROP CONSTRAINT budgets_period_check, DROP CONSTRAINT budgets_time_zone_check;
ALTER TABLE budgets
    ADD COLUMN window_hours integer,
    ADD COLUMN reserve_normal smallint NOT NULL DEFAULT 0 CHECK (reserve_normal BETWEEN 0 AND 100),
    ADD COLUMN reserve_interactive smallint NOT NULL DEFAULT 0 CHECK (reserve_interactive BETWEEN 0 AND 100),
    ADD COLUMN index_version bigint NOT NULL DEFAULT 0,
    ADD CONSTRAINT budgets_period_check CHECK (
        period IN ('hour', 'day', 'week', 'month', 'quarter', 'year', 'total', 'rolling')
    ),
    ADD CONSTRAINT budgets_window_check CHECK ((period = 'rolling') = (window_hours IS NOT NULL AND window_hours > 0)),
    ADD CONSTRAINT budgets_reserves_check CHECK (reserve_normal + reserve_interactive <= 100);
CREATE INDEX budgets_indexed ON budgets (organisation_id, index_version);
CREATE TABLE scope_indexes (
    organisation_id uuid PRIMARY KEY,
    version bigint NOT NULL
);
"""

# What a rolling period has settled, by when it was settled. What leaves the window becomes available again by a
# transfer of kind `expire`, so the buckets of a period always add up to its settled account.
ROLLING = """
CREATE TABLE period_buckets (
    period_id uuid NOT NULL REFERENCES budget_periods,
    starts_at timestamptz NOT NULL,
    organisation_id uuid NOT NULL,
    settled_nano bigint NOT NULL CHECK (settled_nano >= 0),
    PRIMARY KEY (period_id, starts_at)
) WITH (fillfactor = 70);
ALTER TABLE transfers DROP CONSTRAINT transfers_kind_check;
ALTER TABLE transfers ADD CONSTRAINT transfers_kind_check CHECK (
    kind IN ('lease', 'post', 'return', 'suspense', 'release', 'reconcile', 'adjust', 'expire', 'reversal')
);
"""

# `refused_at`: a lease was refused that unused money of other holders could have served; they give it back.
LEASES = """
ALTER TABLE budget_periods ADD COLUMN refused_at timestamptz;
ALTER TABLE leases
    ADD COLUMN priority text CHECK (priority IN ('batch', 'normal', 'interactive')),
    ADD COLUMN index_version bigint NOT NULL DEFAULT 0,
    ADD COLUMN returned_nano bigint NOT NULL DEFAULT 0 CHECK (returned_nano >= 0),
    ADD COLUMN open_holds jsonb NOT NULL DEFAULT '[]';
CREATE INDEX leases_with_old_holds ON leases (organisation_id) WHERE open_holds <> '[]';
"""


def upgrade() -> None:
    for script in (BUDGETS, ROLLING, LEASES):
        op.execute(script)
    enable_tenant_scope(op, "scope_indexes")
    enable_tenant_scope(op, "period_buckets")
