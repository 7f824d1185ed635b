"""Teams, and the team of an API key."""

from alembic import op

from kairos_persistence.schema import enable_tenant_scope

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE teams (
            id uuid PRIMARY KEY,
            organisation_id uuid NOT NULL REFERENCES organisations,
            name text NOT NULL,
            created_at timestamptz NOT NULL,
            UNIQUE (organisation_id, name)
        )
    """)
    enable_tenant_scope(op, "teams")
    op.execute("ALTER TABLE api_keys ADD COLUMN team_id uuid REFERENCES teams")


def downgrade() -> None:
    op.execute("ALTER TABLE api_keys DROP COLUMN team_id")
    op.execute("DROP TABLE teams")
