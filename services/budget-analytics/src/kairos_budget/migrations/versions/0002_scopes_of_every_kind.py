"""Budgets of teams, contacts, API keys and models, and chains that name them."""

from alembic import op

revision = "0002"
down_revision = "0001"

SCOPES = """
ALTER TABLE budgets DROP CONSTRAINT budgets_scope_check;
ALTER TABLE budgets ADD CONSTRAINT budgets_scope_check
    CHECK (scope IN ('organisation', 'project', 'team', 'bot', 'contact', 'api_key', 'model'));
ALTER TABLE budgets ADD COLUMN model text;
"""
# A model has no row anywhere: its id is made of its name (kairos_contracts.scopes).
CHAINS = """
ALTER TABLE leases ADD COLUMN team_id uuid, ADD COLUMN contact_id uuid, ADD COLUMN api_key_id uuid,
    ADD COLUMN model_id uuid;
ALTER TABLE attempts ADD COLUMN team_id uuid, ADD COLUMN contact_id uuid, ADD COLUMN api_key_id uuid,
    ADD COLUMN model_id uuid;
ALTER TABLE usage_records ADD COLUMN team_id uuid, ADD COLUMN contact_id uuid;
"""


def upgrade() -> None:
    op.execute(SCOPES)
    op.execute(CHAINS)
