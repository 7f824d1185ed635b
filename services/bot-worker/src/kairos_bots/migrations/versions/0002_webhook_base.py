"""Where each bot's webhook was set, so that a new public address is noticed.

Revision ID: 0002
Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE bots ADD COLUMN webhook_base text")


def downgrade() -> None:
    op.execute("ALTER TABLE bots DROP COLUMN webhook_base")
