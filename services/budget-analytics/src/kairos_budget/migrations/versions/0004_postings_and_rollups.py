"""Aggregated posts, usage with every dimension, rollups by minute, hour and day, forecasts, adjustments, rates."""

from alembic import op

from kairos_persistence.schema import append_only, enable_tenant_scope

revision = "0004"
down_revision = "0003"

# One posting moves what several settled attempts of one lease cost together. Its attempts name it, its transfers
# name it, and the header says what both must add up to, so that each attempt is provably charged once.
POSTINGS = """
CREATE TABLE postings (
    id uuid PRIMARY KEY,
    sequence bigint GENERATED ALWAYS AS IDENTITY,
    organisation_id uuid NOT NULL,
    lease_id uuid,
    period_ids uuid[] NOT NULL,
    attempts integer NOT NULL CHECK (attempts > 0),
    cost_nano bigint NOT NULL CHECK (cost_nano > 0),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX postings_in_order ON postings (sequence);
ALTER TABLE attempts ADD COLUMN posting_id uuid, ADD COLUMN series_id uuid;
CREATE INDEX attempts_of_posting ON attempts (posting_id) WHERE posting_id IS NOT NULL;
ALTER TABLE transfers ADD COLUMN posting_id uuid, ADD COLUMN adjustment_id uuid;
CREATE INDEX transfers_of_posting ON transfers (posting_id) WHERE posting_id IS NOT NULL;
CREATE INDEX transfers_of_adjustment ON transfers (adjustment_id) WHERE adjustment_id IS NOT NULL;
ALTER TABLE transfers DROP CONSTRAINT transfers_kind_check;
ALTER TABLE transfers ADD CONSTRAINT transfers_kind_check CHECK (kind IN
    ('lease', 'post', 'return', 'suspense', 'release', 'reconcile', 'adjust', 'expire', 'correction', 'reversal'));
"""

# Attempts are unique by themselves; the unique index of usage rows cost more than the rows.
USAGE = """
ALTER TABLE usage_records DROP CONSTRAINT usage_records_pkey;
ALTER TABLE usage_records
    ADD COLUMN IF NOT EXISTS team_id uuid,
    ADD COLUMN IF NOT EXISTS contact_id uuid,
    ADD COLUMN IF NOT EXISTS lease_id uuid,
    ADD COLUMN IF NOT EXISTS route text,
    ADD COLUMN IF NOT EXISTS operation text NOT NULL DEFAULT 'chat',
    ADD COLUMN IF NOT EXISTS priority text NOT NULL DEFAULT 'normal',
    ADD COLUMN IF NOT EXISTS hold_nano bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS cached_input_tokens bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS cache_write_tokens bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS reasoning_tokens bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS audio_input_tokens bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS audio_output_tokens bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS estimated boolean NOT NULL DEFAULT false,
    ADD COLUMN IF NOT EXISTS cache text,
    ADD COLUMN IF NOT EXISTS error text;
CREATE INDEX usage_records_newest ON usage_records (organisation_id, recorded_at DESC, attempt_id DESC);
"""

# Who and what a rollup row is about. The id is a hash of the rest, so that writers need not ask for it.
SERIES = """
CREATE TABLE usage_series (
    id uuid PRIMARY KEY,
    organisation_id uuid NOT NULL,
    model text NOT NULL,
    deployment text NOT NULL,
    provider text NOT NULL,
    bot_id uuid,
    project_id uuid,
    api_key_id uuid,
    team_id uuid
);
CREATE INDEX usage_series_of_organisation ON usage_series (organisation_id, id);
"""

# Histograms are sparse: one bigint per bucket that is not empty, bucket * 2^40 + count. Sums may be merged from
# any rows, so are the histograms.
ROLLUP = """
CREATE TABLE {table} (
    organisation_id uuid NOT NULL,
    starts_at timestamptz NOT NULL,
    series_id uuid NOT NULL,
    attempts bigint NOT NULL,
    unknown_attempts bigint NOT NULL,
    errors bigint NOT NULL,
    cache_hits bigint NOT NULL,
    cost_nano bigint NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    cached_input_tokens bigint NOT NULL,
    cache_write_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    audio_input_tokens bigint NOT NULL,
    audio_output_tokens bigint NOT NULL,
    latency bigint[] NOT NULL DEFAULT '{{}}',
    first_token bigint[] NOT NULL DEFAULT '{{}}',
    PRIMARY KEY (organisation_id, starts_at, series_id)
) PARTITION BY RANGE (starts_at);
CREATE TABLE {table}_default PARTITION OF {table} DEFAULT;
SELECT hide_partition('{table}_default');
"""
ERRORS = """
CREATE TABLE usage_errors (
    organisation_id uuid NOT NULL,
    starts_at timestamptz NOT NULL,
    series_id uuid NOT NULL,
    error text NOT NULL,
    status integer NOT NULL,
    attempts bigint NOT NULL,
    PRIMARY KEY (organisation_id, starts_at, series_id, error, status)
) PARTITION BY RANGE (starts_at);
CREATE TABLE usage_errors_default PARTITION OF usage_errors DEFAULT;
SELECT hide_partition('usage_errors_default');
"""

# Partitions of rollups: minutes by day, hours and errors by month, days by year. Rows that came before their
# partition sit in the default one and move when it is made. The runtime role may call keep_rollups only.
PARTITIONS = """
CREATE FUNCTION create_span(parent text, first timestamptz, last timestamptz) RETURNS boolean
LANGUAGE plpgsql SET search_path FROM CURRENT SET timezone = 'UTC' AS $$
DECLARE
    partition text = format('%s_%s', parent, to_char(first, 'YYYYMMDD'));
BEGIN
    IF to_regclass(quote_ident(partition)) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', parent || '_default');
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL) WITH (fillfactor = 70)', partition, parent);
    PERFORM hide_partition(partition);
    EXECUTE format(
        'WITH moved AS (DELETE FROM %I WHERE starts_at >= %L AND starts_at < %L RETURNING *) INSERT INTO %I SELECT * FROM moved',
        parent || '_default', first, last, partition
    );
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, partition, first, last);
    RETURN true;
END $$;
CREATE FUNCTION keep_spans(parent text, unit text, keep_days integer, ahead interval) RETURNS integer
LANGUAGE plpgsql SET search_path FROM CURRENT SET timezone = 'UTC' AS $$
DECLARE
    step interval = ('1 ' || unit)::interval;
    oldest timestamptz = date_trunc('day', now()) - make_interval(days => keep_days);
    first timestamptz = date_trunc(unit, oldest);
    partition text;
    changed integer = 0;
BEGIN
    FOR partition IN
        SELECT child.relname::text FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
        WHERE inhparent = to_regclass(quote_ident(parent)) AND child.relname ~ '_[0-9]{8}$'
            AND to_date(right(child.relname, 8), 'YYYYMMDD')::timestamptz + step <= oldest
    LOOP
        EXECUTE format('DROP TABLE %I', partition);
        changed = changed + 1;
    END LOOP;
    EXECUTE format('DELETE FROM %I WHERE starts_at < %L', parent || '_default', oldest);
    WHILE first < now() + ahead LOOP
        changed = changed + create_span(parent, first, first + step)::integer;
        first = first + step;
    END LOOP;
    RETURN changed;
END $$;
CREATE FUNCTION keep_rollups(minutes_days integer, hours_days integer, days_days integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET timezone = 'UTC' SET lock_timeout = '3s' AS $$
BEGIN
    IF minutes_days NOT BETWEEN 1 AND 60 OR hours_days NOT BETWEEN 1 AND 800 OR days_days NOT BETWEEN 1 AND 4000 THEN
        RAISE EXCEPTION 'minutes are kept 1 to 60 days, hours 1 to 800, days 1 to 4000' USING ERRCODE = '22023';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('keep_rollups', current_schema()::regnamespace::bigint));
    RETURN keep_spans('usage_minutes', 'day', minutes_days, interval '3 days')
        + keep_spans('usage_hours', 'month', hours_days, interval '10 days')
        + keep_spans('usage_errors', 'month', hours_days, interval '10 days')
        + keep_spans('usage_days', 'year', days_days, interval '30 days');
END $$;
DO $$
DECLARE
    runtime text = 'kairos_' || current_schema();
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = runtime) THEN
        EXECUTE format('REVOKE EXECUTE ON FUNCTION create_span(text, timestamptz, timestamptz),'
            ' keep_spans(text, text, integer, interval) FROM PUBLIC, %I', runtime);
        EXECUTE format('GRANT EXECUTE ON FUNCTION keep_rollups(integer, integer, integer) TO %I', runtime);
    END IF;
END $$;
SELECT keep_rollups(7, 100, 1095);
"""

# What spend_hours told so far; from here on the rollups tell it.
CARRY_OVER = """
INSERT INTO usage_series (id, organisation_id, model, deployment, provider, bot_id, project_id)
SELECT DISTINCT md5(concat_ws('|', organisation_id, model, '', '', coalesce(bot_id::text, ''), coalesce(project_id::text, ''), '', ''))::uuid,
    organisation_id, model, '', '', bot_id, project_id
FROM spend_hours;
"""
CARRY_ROWS = """
INSERT INTO {table} (organisation_id, starts_at, series_id, attempts, unknown_attempts, errors, cache_hits, cost_nano,
    input_tokens, output_tokens, cached_input_tokens, cache_write_tokens, reasoning_tokens, audio_input_tokens, audio_output_tokens)
SELECT organisation_id, date_trunc('{unit}', hour, 'UTC'),
    md5(concat_ws('|', organisation_id, model, '', '', coalesce(bot_id::text, ''), coalesce(project_id::text, ''), '', ''))::uuid,
    sum(attempts), sum(unknown_attempts), 0, 0, sum(cost_nano), sum(input_tokens), sum(output_tokens), 0, 0, 0, 0, 0
FROM spend_hours GROUP BY 1, 2, 3;
"""

# The last forecast of an open period, so that a crossing is told once and not at every wobble around the limit.
FORECASTS = """
CREATE TABLE budget_forecasts (
    period_id uuid PRIMARY KEY REFERENCES budget_periods,
    organisation_id uuid NOT NULL,
    over boolean NOT NULL,
    crossings integer NOT NULL DEFAULT 0,
    exceeds_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""

# A correction of what is settled: its amount is signed, negative gives money back. A reversal takes back one attempt.
ADJUSTMENTS = """
CREATE TABLE adjustments (
    id uuid PRIMARY KEY,
    organisation_id uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN ('correction', 'reversal')),
    attempt_id uuid,
    period_ids uuid[] NOT NULL,
    amount_nano bigint NOT NULL CHECK (amount_nano <> 0),
    reason text NOT NULL,
    actor text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK ((kind = 'reversal') = (attempt_id IS NOT NULL)),
    CHECK (kind <> 'reversal' OR amount_nano < 0)
);
CREATE UNIQUE INDEX adjustments_once_per_attempt ON adjustments (attempt_id) WHERE attempt_id IS NOT NULL;
CREATE INDEX adjustments_newest ON adjustments (organisation_id, created_at DESC, id DESC);
"""

# Units of a currency for one USD, valid from its day until the next one given.
RATES = """
CREATE TABLE fx_rates (
    organisation_id uuid NOT NULL,
    currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$' AND currency <> 'USD'),
    day date NOT NULL,
    per_usd numeric(24, 10) NOT NULL CHECK (per_usd > 0),
    source text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (organisation_id, currency, day)
);
"""


def upgrade() -> None:
    for script in (POSTINGS, USAGE, SERIES):
        op.execute(script)
    for table in ("usage_minutes", "usage_hours", "usage_days"):
        op.execute(ROLLUP.format(table=table))
    for script in (ERRORS, PARTITIONS, CARRY_OVER):
        op.execute(script)
    for table, unit in (("usage_hours", "hour"), ("usage_days", "day")):
        op.execute(CARRY_ROWS.format(table=table, unit=unit))
    for script in (FORECASTS, ADJUSTMENTS, RATES):
        op.execute(script)
    append_only(op, "postings")
    append_only(op, "adjustments")
    for table in (
        "postings",
        "usage_series",
        "usage_minutes",
        "usage_hours",
        "usage_days",
        "usage_errors",
        "budget_forecasts",
        "adjustments",
        "fx_rates",
    ):
        enable_tenant_scope(op, table)
