"""Budgets, their periods, leases, attempts, the ledger and spend."""

from alembic import op

from kairos_persistence.schema import (
    append_only,
    create_messaging_tables,
    enable_tenant_scope,
    partition_by_day,
)

revision = "0001"
down_revision = None

BUDGETS = """
CREATE TABLE budgets (
    id uuid PRIMARY KEY,
    organisation_id uuid NOT NULL,
    name text NOT NULL,
    scope text NOT NULL CHECK (scope IN ('organisation', 'project', 'bot')),
    scope_id uuid NOT NULL,
    limit_nano bigint NOT NULL CHECK (limit_nano >= 0),
    period text NOT NULL CHECK (period IN ('day', 'month', 'total')),
    time_zone text NOT NULL DEFAULT 'UTC' CHECK (time_zone = 'UTC'),
    thresholds smallint[] NOT NULL,
    active boolean NOT NULL DEFAULT true,
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (scope <> 'organisation' OR scope_id = organisation_id)
);
CREATE INDEX budgets_active ON budgets (organisation_id, scope, scope_id) WHERE active;
CREATE INDEX budgets_newest ON budgets (organisation_id, created_at DESC, id DESC);
"""

# `excess_nano` is what is committed above the limit and nothing else: the two checks leave it no other value. It
# is 0 while the cap holds, so "settled + leased + suspense <= limit" is `excess_nano = 0`.
PERIODS = """
CREATE TABLE budget_periods (
    id uuid PRIMARY KEY,
    organisation_id uuid NOT NULL,
    budget_id uuid NOT NULL REFERENCES budgets,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz,
    opened boolean NOT NULL DEFAULT false,
    limit_nano bigint NOT NULL DEFAULT 0 CHECK (limit_nano >= 0),
    available_nano bigint NOT NULL DEFAULT 0 CHECK (available_nano >= 0),
    leased_nano bigint NOT NULL DEFAULT 0 CHECK (leased_nano >= 0),
    settled_nano bigint NOT NULL DEFAULT 0 CHECK (settled_nano >= 0),
    suspense_nano bigint NOT NULL DEFAULT 0 CHECK (suspense_nano >= 0),
    excess_nano bigint NOT NULL DEFAULT 0 CHECK (excess_nano >= 0),
    overspend_nano bigint NOT NULL DEFAULT 0 CHECK (overspend_nano >= 0),
    announced smallint[] NOT NULL DEFAULT '{}',
    version bigint NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (budget_id, starts_at),
    CONSTRAINT committed_within_limit_and_excess
        CHECK (settled_nano + leased_nano + suspense_nano <= limit_nano + excess_nano),
    CONSTRAINT accounts_balance
        CHECK (available_nano + settled_nano + leased_nano + suspense_nano = limit_nano + excess_nano),
    CONSTRAINT excess_only_when_nothing_is_left
        CHECK (available_nano = 0 OR excess_nano = 0)
) WITH (fillfactor = 70);
"""

# A CHECK sees one row version, so it can't tell why excess grew. This guard can.
GUARD = """
CREATE FUNCTION guard_period() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF NEW.leased_nano > OLD.leased_nano AND NEW.excess_nano > 0 THEN
        RAISE EXCEPTION 'a lease would pass the limit of period %', OLD.id USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.overspend_nano < OLD.overspend_nano THEN
        RAISE EXCEPTION 'recorded overspend of period % never falls', OLD.id USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.excess_nano - OLD.excess_nano
        > greatest(OLD.limit_nano - NEW.limit_nano, 0) + (NEW.overspend_nano - OLD.overspend_nano) THEN
        RAISE EXCEPTION 'excess of period % grew without a lowered limit or recorded overspend', OLD.id
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard_period BEFORE UPDATE ON budget_periods FOR EACH ROW EXECUTE FUNCTION guard_period();
"""

LEASES = """
CREATE TABLE leases (
    id uuid PRIMARY KEY,
    organisation_id uuid NOT NULL,
    project_id uuid,
    bot_id uuid,
    holder text NOT NULL,
    epoch integer NOT NULL,
    state text NOT NULL CHECK (state IN ('open', 'closing', 'suspended', 'closed')),
    granted_nano bigint NOT NULL CHECK (granted_nano >= 0),
    grants integer NOT NULL,
    accounted_nano bigint NOT NULL CHECK (accounted_nano >= 0),
    expected_nano bigint,
    reported_settled_nano bigint NOT NULL DEFAULT 0,
    reported_open_nano bigint NOT NULL DEFAULT 0,
    expires_at timestamptz NOT NULL,
    suspend_after timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 70);
CREATE INDEX leases_waiting ON leases (suspend_after) WHERE state IN ('open', 'closing');
CREATE INDEX leases_newest ON leases (organisation_id, created_at DESC, id DESC);
CREATE TABLE lease_allocations (
    lease_id uuid NOT NULL REFERENCES leases,
    period_id uuid NOT NULL REFERENCES budget_periods,
    organisation_id uuid NOT NULL,
    leased_nano bigint NOT NULL CHECK (leased_nano >= 0),
    suspense_nano bigint NOT NULL DEFAULT 0 CHECK (suspense_nano >= 0),
    PRIMARY KEY (lease_id, period_id)
) WITH (fillfactor = 70);
CREATE INDEX lease_allocations_held ON lease_allocations (period_id) WHERE leased_nano > 0 OR suspense_nano > 0;
CREATE INDEX lease_allocations_suspended ON lease_allocations (organisation_id, lease_id) WHERE suspense_nano > 0;
"""

ATTEMPTS = """
CREATE TABLE attempts (
    id uuid PRIMARY KEY,
    organisation_id uuid NOT NULL,
    lease_id uuid,
    project_id uuid,
    bot_id uuid,
    outcome text NOT NULL CHECK (outcome IN ('settled', 'released', 'unknown')),
    resolved_by text NOT NULL CHECK (resolved_by IN ('usage', 'reconciliation', 'release')),
    hold_nano bigint NOT NULL CHECK (hold_nano >= 0),
    cost_nano bigint NOT NULL CHECK (cost_nano >= 0),
    model text NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    price_version text NOT NULL,
    started_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (outcome = 'settled' OR cost_nano = 0)
);
CREATE TABLE attempt_holds (
    attempt_id uuid NOT NULL REFERENCES attempts,
    period_id uuid NOT NULL REFERENCES budget_periods,
    organisation_id uuid NOT NULL,
    lease_id uuid,
    amount_nano bigint NOT NULL CHECK (amount_nano > 0),
    PRIMARY KEY (attempt_id, period_id)
);
CREATE INDEX attempt_holds_of_lease ON attempt_holds (organisation_id, lease_id);
CREATE INDEX attempt_holds_of_period ON attempt_holds (period_id);
"""

LEDGER = """
CREATE TABLE transfers (
    sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    idempotency_key uuid NOT NULL UNIQUE,
    organisation_id uuid NOT NULL,
    budget_id uuid NOT NULL,
    period_id uuid NOT NULL REFERENCES budget_periods,
    kind text NOT NULL CHECK (kind IN ('lease', 'post', 'return', 'suspense', 'release', 'reconcile', 'adjust')),
    source text NOT NULL CHECK (source IN ('limit', 'available', 'leased', 'settled', 'suspense', 'excess')),
    target text NOT NULL CHECK (target IN ('limit', 'available', 'leased', 'settled', 'suspense', 'excess')),
    amount_nano bigint NOT NULL CHECK (amount_nano > 0),
    lease_id uuid,
    attempt_id uuid,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (source <> target)
);
CREATE INDEX transfers_of_period ON transfers (period_id, sequence);
CREATE INDEX transfers_of_organisation ON transfers (organisation_id, sequence DESC);
CREATE INDEX transfers_of_attempt ON transfers (attempt_id) WHERE attempt_id IS NOT NULL;
CREATE TABLE ledger_checkpoints (
    period_id uuid PRIMARY KEY REFERENCES budget_periods,
    organisation_id uuid NOT NULL,
    sequence bigint NOT NULL,
    version bigint NOT NULL,
    limit_nano bigint NOT NULL,
    available_nano bigint NOT NULL,
    leased_nano bigint NOT NULL,
    settled_nano bigint NOT NULL,
    suspense_nano bigint NOT NULL,
    excess_nano bigint NOT NULL
);
"""

USAGE = """
CREATE TABLE usage_records (
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempt_id uuid NOT NULL,
    organisation_id uuid NOT NULL,
    completion_id uuid NOT NULL,
    project_id uuid,
    bot_id uuid,
    api_key_id uuid,
    model text NOT NULL,
    deployment text NOT NULL,
    provider text NOT NULL,
    outcome text NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cost_nano bigint NOT NULL,
    price_version text NOT NULL,
    status integer NOT NULL,
    streaming boolean NOT NULL,
    latency_ms integer NOT NULL,
    time_to_first_token_ms integer,
    started_at timestamptz NOT NULL,
    PRIMARY KEY (attempt_id, recorded_at)
) PARTITION BY RANGE (recorded_at);
CREATE TABLE spend_hours (
    organisation_id uuid NOT NULL,
    hour timestamptz NOT NULL,
    model text NOT NULL,
    bot_id uuid,
    project_id uuid,
    cost_nano bigint NOT NULL,
    attempts bigint NOT NULL,
    unknown_attempts bigint NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    UNIQUE NULLS NOT DISTINCT (organisation_id, hour, model, bot_id, project_id)
) WITH (fillfactor = 70);
"""

USAGE_KEPT_DAYS = 400


def upgrade() -> None:
    create_messaging_tables(op)
    for script in (BUDGETS, PERIODS, GUARD, LEASES, ATTEMPTS, LEDGER, USAGE):
        op.execute(script)
    partition_by_day(op, "usage_records", column="recorded_at", keep_days=USAGE_KEPT_DAYS)
    append_only(op, "transfers")
    append_only(op, "usage_records")
    for table in (
        "budgets",
        "budget_periods",
        "leases",
        "lease_allocations",
        "attempts",
        "attempt_holds",
        "transfers",
        "ledger_checkpoints",
        "usage_records",
        "spend_hours",
    ):
        enable_tenant_scope(op, table)
