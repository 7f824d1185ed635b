from alembic import op

revision = "c0001"
down_revision = None


def upgrade() -> None:
    op.execute("ALTER TABLE notes DROP COLUMN title")
