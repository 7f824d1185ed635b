"""Bots, contacts, conversations, messages, turns, replies on their way, pollers.

Revision ID: 0001
Revises:
"""

from alembic import op

from kairos_persistence.schema import create_messaging_tables, enable_tenant_scope, partition_by_day

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    """
    CREATE TABLE bots (
        id uuid PRIMARY KEY,
        organisation_id uuid NOT NULL,
        project_id uuid,
        name text NOT NULL,
        mode text NOT NULL CHECK (mode IN ('manual', 'gpt', 'hybrid')),
        model text NOT NULL,
        system_prompt text NOT NULL,
        fallback_text text NOT NULL,
        max_tokens integer NOT NULL CHECK (max_tokens > 0),
        web_enabled boolean NOT NULL,
        telegram_updates text NOT NULL CHECK (telegram_updates IN ('webhook', 'polling')),
        telegram_token_key_id text,
        telegram_token_ciphertext bytea,
        webhook_secret_key_id text,
        webhook_secret_ciphertext bytea,
        desired_state text NOT NULL CHECK (desired_state IN ('running', 'stopped')),
        observed_state text NOT NULL,
        observed_reason text NOT NULL,
        observed_at timestamptz NOT NULL,
        version integer NOT NULL,
        applied_version integer NOT NULL DEFAULT 0,
        apply_after timestamptz NOT NULL DEFAULT '-infinity',
        created_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL,
        deleted_at timestamptz
    )
    """,
    "CREATE INDEX bots_of_organisation ON bots (organisation_id, created_at DESC, id DESC)",
    "CREATE INDEX bots_unapplied ON bots (apply_after) WHERE applied_version < version",
    """
    CREATE TABLE contacts (
        id uuid PRIMARY KEY,
        organisation_id uuid NOT NULL,
        bot_id uuid NOT NULL REFERENCES bots (id),
        channel text NOT NULL,
        external_id text NOT NULL,
        display_name text NOT NULL,
        language text,
        created_at timestamptz NOT NULL,
        last_seen_at timestamptz NOT NULL
    )
    """,
    """
    CREATE TABLE conversations (
        id uuid PRIMARY KEY,
        organisation_id uuid NOT NULL,
        bot_id uuid NOT NULL REFERENCES bots (id),
        contact_id uuid NOT NULL REFERENCES contacts (id),
        channel text NOT NULL,
        external_chat_id text NOT NULL,
        last_sequence bigint NOT NULL,
        epoch bigint NOT NULL DEFAULT 0,
        created_at timestamptz NOT NULL,
        last_message_at timestamptz NOT NULL
    )
    """,
    "CREATE INDEX conversations_of_bot ON conversations (bot_id, created_at DESC, id DESC)",
    # No foreign keys: the transaction that inserts a message holds its conversation.
    """
    CREATE TABLE messages (
        id uuid NOT NULL,
        organisation_id uuid NOT NULL,
        conversation_id uuid NOT NULL,
        bot_id uuid NOT NULL,
        turn_id uuid NOT NULL,
        direction text NOT NULL CHECK (direction IN ('in', 'out')),
        sequence bigint NOT NULL,
        "order" bigint NOT NULL,
        text text NOT NULL,
        source text,
        external_message_id text,
        delivery text NOT NULL CHECK (delivery IN ('received', 'pending', 'sent', 'failed')),
        attempts integer NOT NULL,
        ambiguous integer NOT NULL,
        error text,
        traceparent text,
        created_at timestamptz NOT NULL,
        sent_at timestamptz,
        PRIMARY KEY (id, created_at)
    ) PARTITION BY RANGE (created_at)
    """,
    "CREATE INDEX messages_in_order ON messages (conversation_id, sequence)",
    "CREATE INDEX messages_of_turn ON messages (turn_id)",
    """
    CREATE TABLE turns (
        id uuid PRIMARY KEY,
        organisation_id uuid NOT NULL,
        conversation_id uuid NOT NULL REFERENCES conversations (id),
        bot_id uuid NOT NULL,
        channel text NOT NULL,
        state text NOT NULL CHECK (state IN ('collecting', 'answering', 'reopened', 'answered')),
        epoch bigint NOT NULL,
        message_count integer NOT NULL,
        mode text,
        source text,
        completion_id uuid,
        traceparent text,
        created_at timestamptz NOT NULL,
        due_at timestamptz NOT NULL,
        opened_at timestamptz,
        deadline_at timestamptz,
        answered_at timestamptz
    )
    """,
    # The two promises of a conversation: one turn collects, one is being answered.
    "CREATE UNIQUE INDEX turns_one_collecting ON turns (conversation_id) WHERE state = 'collecting'",
    "CREATE UNIQUE INDEX turns_one_answering ON turns (conversation_id) WHERE state IN ('answering', 'reopened')",
    "CREATE INDEX turns_due ON turns (due_at) WHERE state IN ('collecting', 'reopened')",
    "CREATE INDEX turns_deadline ON turns (deadline_at) WHERE state = 'answering'",
    "CREATE INDEX turns_answering_of_bot ON turns (bot_id) WHERE state = 'answering'",
    # Work rows: one per reply part until the channel took or refused it. Small and busy, so it is
    # vacuumed early and keeps room for updates in place.
    """
    CREATE TABLE replies (
        id uuid PRIMARY KEY,
        organisation_id uuid NOT NULL,
        conversation_id uuid NOT NULL REFERENCES conversations (id),
        bot_id uuid NOT NULL,
        turn_id uuid NOT NULL,
        channel text NOT NULL,
        external_chat_id text NOT NULL,
        sequence bigint NOT NULL,
        text text NOT NULL,
        state text NOT NULL CHECK (state IN ('pending', 'sending')),
        attempts integer NOT NULL,
        ambiguous integer NOT NULL,
        last_error text,
        not_before timestamptz NOT NULL,
        claim_token uuid,
        claimed_until timestamptz,
        traceparent text,
        created_at timestamptz NOT NULL
    ) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 200)
    """,
    "CREATE UNIQUE INDEX replies_in_order ON replies (conversation_id, sequence)",
    "CREATE INDEX replies_ready ON replies (not_before)",
    """
    CREATE TABLE telegram_pollers (
        bot_id uuid PRIMARY KEY REFERENCES bots (id),
        organisation_id uuid NOT NULL,
        holder text NOT NULL,
        held_until timestamptz NOT NULL,
        next_offset bigint
    )
    """,
)
TENANT_TABLES = ("bots", "contacts", "conversations", "messages", "turns", "replies", "telegram_pollers")


def upgrade() -> None:
    create_messaging_tables(op)
    for statement in TABLES:
        op.execute(statement)
    partition_by_day(op, "messages")
    for table in TENANT_TABLES:
        enable_tenant_scope(op, table)


def downgrade() -> None:
    for table in reversed(TENANT_TABLES):
        op.execute(f"DROP TABLE {table} CASCADE")
