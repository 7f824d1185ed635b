-- The tables whose day partitions ensure_partitions() makes and drops.
CREATE TABLE partitioned_tables (
    table_name text PRIMARY KEY,
    column_name text NOT NULL,
    keep_days integer CHECK (keep_days >= 1),
    removable text NOT NULL DEFAULT 'true'
)
--
-- Rows are reached through the parent, where row level security holds; a partition itself has none,
-- so the default privileges of the schema are taken back from it.
CREATE FUNCTION hide_partition(partition text) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    runtime text = 'kairos_' || current_schema();
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = runtime) THEN
        EXECUTE format('REVOKE ALL ON TABLE %I FROM %I', partition, runtime);
    END IF;
END $$
--
CREATE FUNCTION withhold_changes(target text) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    runtime text = 'kairos_' || current_schema();
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = runtime) THEN
        EXECUTE format('REVOKE UPDATE, DELETE, TRUNCATE ON TABLE %I FROM %I', target, runtime);
    END IF;
END $$
--
-- Makes one day. Rows of that day that already sit in the default partition move into it, because a
-- range can't be attached while the default partition holds rows of it.
CREATE FUNCTION create_day(parent text, key_column text, day date) RETURNS boolean
LANGUAGE plpgsql SET search_path FROM CURRENT SET timezone = 'UTC' AS $$
DECLARE
    partition text = format('%s_%s', parent, to_char(day, 'YYYYMMDD'));
    first timestamptz = day::timestamptz;
    last timestamptz = (day + 1)::timestamptz;
BEGIN
    IF to_regclass(quote_ident(partition)) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', parent || '_default');
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', partition, parent);
    PERFORM hide_partition(partition);
    EXECUTE format(
        'WITH moved AS (DELETE FROM %I WHERE %I >= %L AND %I < %L RETURNING *) INSERT INTO %I SELECT * FROM moved',
        parent || '_default', key_column, first, key_column, last, partition
    );
    EXECUTE format(
        'ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, partition, first, last
    );
    RETURN true;
END $$
--
-- Drops one day if every row of it may go; false when it stays.
CREATE FUNCTION drop_day(parent text, partition text, removable text) RETURNS boolean
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    needed boolean;
BEGIN
    EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', parent);
    EXECUTE format('SELECT EXISTS (SELECT FROM %I WHERE (%s) IS NOT TRUE)', partition, removable) INTO needed;
    IF NOT needed THEN
        EXECUTE format('DROP TABLE %I', partition);
    END IF;
    RETURN NOT needed;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END $$
--
CREATE FUNCTION drop_old_days(parent text, key_column text, keep_days integer, removable text) RETURNS integer
LANGUAGE plpgsql SET search_path FROM CURRENT SET timezone = 'UTC' AS $$
DECLARE
    oldest date = current_date - keep_days;
    partition text;
    dropped integer = 0;
BEGIN
    FOR partition IN
        SELECT child.relname::text
        FROM pg_inherits
        JOIN pg_class AS child ON child.oid = inhrelid
        WHERE inhparent = to_regclass(quote_ident(parent)) AND child.relname ~ '_[0-9]{8}$'
            AND to_date(right(child.relname, 8), 'YYYYMMDD') < oldest
    LOOP
        dropped = dropped + drop_day(parent, partition, removable)::integer;
    END LOOP;
    EXECUTE format(
        'DELETE FROM %I WHERE %I < %L AND (%s)', parent || '_default', key_column, oldest::timestamptz, removable
    );
    RETURN dropped;
END $$
--
-- Makes today and the next days of every partitioned table and drops what is old enough; returns how
-- many partitions changed. The runtime role may call it, and nothing else of this file.
CREATE FUNCTION ensure_partitions(days integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET timezone = 'UTC' SET lock_timeout = '3s' AS $$
DECLARE
    managed record;
    changed integer = 0;
BEGIN
    IF days NOT BETWEEN 1 AND 60 THEN
        RAISE EXCEPTION 'days must be between 1 and 60' USING ERRCODE = '22023';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('ensure_partitions', current_schema()::regnamespace::bigint));
    FOR managed IN SELECT * FROM partitioned_tables ORDER BY table_name LOOP
        FOR ahead IN 0..days LOOP
            changed = changed + create_day(managed.table_name, managed.column_name, current_date + ahead)::integer;
        END LOOP;
        IF managed.keep_days IS NOT NULL THEN
            changed = changed
                + drop_old_days(managed.table_name, managed.column_name, managed.keep_days, managed.removable);
        END IF;
    END LOOP;
    RETURN changed;
END $$
--
DO $$
DECLARE
    runtime text = 'kairos_' || current_schema();
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = runtime) THEN
        EXECUTE format('REVOKE ALL ON TABLE partitioned_tables FROM %I', runtime);
        EXECUTE format(
            'REVOKE EXECUTE ON FUNCTION hide_partition(text), withhold_changes(text), create_day(text, text, date),'
            ' drop_day(text, text, text), drop_old_days(text, text, integer, text) FROM %I',
            runtime
        );
    END IF;
END $$
