"""Identity, audit chains and their checkpoints."""

from alembic import op

from kairos_persistence.schema import (
    append_only,
    create_messaging_tables,
    enable_tenant_scope,
    partition_by_day,
)

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_IDENTITY = """
CREATE TABLE organisations (
    organisation_id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL
);
CREATE TABLE members (
    id uuid PRIMARY KEY,
    organisation_id uuid NOT NULL REFERENCES organisations,
    email text NOT NULL,
    display text NOT NULL,
    role text NOT NULL CHECK (role IN ('admin', 'developer', 'viewer')),
    password_hash text NOT NULL,
    must_change_password boolean NOT NULL,
    created_at timestamptz NOT NULL,
    removed_at timestamptz
);
CREATE UNIQUE INDEX members_email ON members (email) WHERE removed_at IS NULL;
CREATE INDEX members_organisation ON members (organisation_id, id);
CREATE TABLE sessions (
    id uuid PRIMARY KEY,
    organisation_id uuid NOT NULL REFERENCES organisations,
    member_id uuid NOT NULL REFERENCES members,
    token_hash text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    ended_at timestamptz,
    ip text
);
CREATE INDEX sessions_member ON sessions (member_id) WHERE ended_at IS NULL;
CREATE TABLE projects (
    id uuid PRIMARY KEY,
    organisation_id uuid NOT NULL REFERENCES organisations,
    name text NOT NULL,
    created_at timestamptz NOT NULL,
    UNIQUE (organisation_id, name)
);
CREATE TABLE api_keys (
    id uuid PRIMARY KEY,
    organisation_id uuid NOT NULL REFERENCES organisations,
    member_id uuid NOT NULL REFERENCES members,
    name text NOT NULL,
    hint text NOT NULL,
    key_hash text NOT NULL UNIQUE,
    scopes json,
    project_id uuid REFERENCES projects,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    last_used_at timestamptz,
    revoked_at timestamptz
);
CREATE INDEX api_keys_organisation ON api_keys (organisation_id, id);
CREATE INDEX api_keys_member ON api_keys (member_id) WHERE revoked_at IS NULL;
-- Not a tenant's table: an attempt belongs to nobody until it succeeds. Keys are digests.
CREATE TABLE sign_in_attempts (
    key text PRIMARY KEY,
    failures integer NOT NULL,
    blocked_until timestamptz,
    changed_at timestamptz NOT NULL
);
CREATE INDEX sign_in_attempts_age ON sign_in_attempts (changed_at);
"""

# Filters read `entry` itself, so that none can disagree with what is hashed.
# `json` and not `jsonb`: the text must come back as it was written.
_AUDIT = """
CREATE TABLE audit_entries (
    stream text NOT NULL,
    seq bigint NOT NULL CHECK (seq > 0),
    organisation_id uuid,
    prev_hash text NOT NULL,
    hash text NOT NULL,
    recorded_at timestamptz NOT NULL,
    entry json NOT NULL,
    PRIMARY KEY (stream, seq, recorded_at)
) PARTITION BY RANGE (recorded_at);
CREATE INDEX audit_entries_actor ON audit_entries (stream, (entry #>> '{actor,id}'), seq);
CREATE INDEX audit_entries_action ON audit_entries (stream, (entry ->> 'action'), seq);
CREATE INDEX audit_entries_target ON audit_entries (stream, (entry ->> 'target'), seq);
CREATE TABLE audit_heads (
    stream text PRIMARY KEY,
    organisation_id uuid,
    size bigint NOT NULL,
    hash text NOT NULL,
    recorded_at timestamptz NOT NULL
);
CREATE TABLE audit_checkpoints (
    stream text NOT NULL,
    size bigint NOT NULL,
    organisation_id uuid,
    root text NOT NULL,
    head_hash text NOT NULL,
    signed_at text NOT NULL,
    key_id text NOT NULL,
    public_key text NOT NULL,
    signature text NOT NULL,
    frontier json NOT NULL,
    PRIMARY KEY (stream, size)
);
CREATE TABLE audit_anchors (
    stream text NOT NULL,
    size bigint NOT NULL,
    organisation_id uuid,
    anchored_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stream, size)
);
"""

_TENANT_TABLES = (
    "organisations",
    "members",
    "sessions",
    "projects",
    "api_keys",
    "audit_entries",
    "audit_heads",
    "audit_checkpoints",
    "audit_anchors",
)


def upgrade() -> None:
    create_messaging_tables(op)
    for statement in f"{_IDENTITY}{_AUDIT}".split(";\n"):
        if statement.strip():
            op.execute(statement)
    for table in _TENANT_TABLES:
        enable_tenant_scope(op, table)
    partition_by_day(op, "audit_entries", column="recorded_at")
    for table in ("audit_entries", "audit_checkpoints", "audit_anchors"):
        append_only(op, table)
