"""What periods had settled at recent moments, so that the present rate of spending is known."""

from alembic import op

from kairos_persistence.schema import enable_tenant_scope

revision = "0005"
down_revision = "0004"

SAMPLES = """
CREATE TABLE budget_samples (
    period_id uuid NOT NULL REFERENCES budget_periods,
    sampled_at timestamptz NOT NULL,
    organisation_id uuid NOT NULL,
    settled_nano bigint NOT NULL,
    PRIMARY KEY (period_id, sampled_at)
);
CREATE INDEX budget_samples_oldest ON budget_samples (sampled_at);
"""


def upgrade() -> None:
    op.execute(SAMPLES)
    enable_tenant_scope(op, "budget_samples")
