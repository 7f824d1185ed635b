"""Completions on the queue, their attempts, and refusals."""

from alembic import op

from kairos_persistence.schema import create_messaging_tables, enable_tenant_scope

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_messaging_tables(op)
    op.execute("""
        CREATE TABLE completions (
            completion_id uuid PRIMARY KEY,
            organisation_id uuid NOT NULL,
            message_id uuid NOT NULL,
            traceparent text,
            model text NOT NULL,
            -- The command's document. Cleared at the end: it holds what contacts wrote.
            request jsonb,
            state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'running', 'done', 'failed')),
            outcome text,
            due_at timestamptz NOT NULL DEFAULT now(),
            deadline timestamptz NOT NULL,
            claim_token uuid,
            claim_epoch integer NOT NULL DEFAULT 0,
            claimed_until timestamptz,
            created_at timestamptz NOT NULL DEFAULT now(),
            ended_at timestamptz,
            CHECK (state <> 'running' OR (claim_token IS NOT NULL AND claimed_until IS NOT NULL)),
            CHECK (state IN ('pending', 'running') = (request IS NOT NULL)),
            CHECK (state IN ('done', 'failed') = (ended_at IS NOT NULL))
        )
    """)
    op.execute("CREATE INDEX completions_due ON completions (due_at) WHERE state = 'pending'")
    op.execute("CREATE INDEX completions_claimed ON completions (claimed_until) WHERE state = 'running'")
    op.execute("CREATE INDEX completions_ended ON completions (ended_at) WHERE ended_at IS NOT NULL")
    op.execute("""
        CREATE TABLE attempts (
            attempt_id uuid PRIMARY KEY,
            organisation_id uuid NOT NULL,
            completion_id uuid NOT NULL REFERENCES completions ON DELETE CASCADE,
            claim_epoch integer NOT NULL,
            state text NOT NULL DEFAULT 'dispatched'
                CHECK (state IN ('dispatched', 'settled', 'released', 'unknown')),
            deployment text NOT NULL,
            provider text NOT NULL,
            model text NOT NULL,
            price_version text NOT NULL,
            max_tokens integer NOT NULL,
            lease_id uuid,
            project_id uuid,
            bot_id uuid,
            hold_nano_usd bigint NOT NULL CHECK (hold_nano_usd >= 0),
            cost_nano_usd bigint CHECK (cost_nano_usd >= 0),
            input_tokens bigint,
            output_tokens bigint,
            estimated boolean NOT NULL DEFAULT false,
            status integer,
            started_at timestamptz NOT NULL,
            ended_at timestamptz,
            CHECK ((state = 'dispatched') = (ended_at IS NULL))
        )
    """)
    op.execute("CREATE INDEX attempts_of_completion ON attempts (completion_id)")
    op.execute("""
        CREATE TABLE decisions (
            decision_id uuid PRIMARY KEY,
            organisation_id uuid NOT NULL,
            project_id uuid,
            bot_id uuid,
            api_key_id uuid,
            completion_id uuid NOT NULL,
            model text NOT NULL,
            code text NOT NULL,
            steps jsonb NOT NULL,
            decided_at timestamptz NOT NULL
        )
    """)
    op.execute("CREATE INDEX decisions_of_organisation ON decisions (organisation_id, decided_at DESC)")
    for table in ("completions", "attempts", "decisions"):
        enable_tenant_scope(op, table)


def downgrade() -> None:
    for table in ("decisions", "attempts", "completions"):
        op.execute(f"DROP TABLE {table}")
