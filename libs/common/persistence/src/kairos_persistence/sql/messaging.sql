-- One order over all partitions; an identity column can't be had on a partitioned table before 17.
CREATE SEQUENCE outbox_sequence AS bigint
--
CREATE TABLE outbox (
    id uuid NOT NULL,
    sequence bigint NOT NULL DEFAULT nextval('outbox_sequence'),
    aggregate text NOT NULL,
    type text NOT NULL,
    organisation_id uuid,
    headers jsonb NOT NULL,
    body bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    claimed_until timestamptz,
    claim_token uuid,
    published_at timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at)
--
CREATE INDEX outbox_pending ON outbox (sequence) WHERE published_at IS NULL
--
CREATE INDEX outbox_pending_of_aggregate ON outbox (aggregate, sequence) WHERE published_at IS NULL
--
CREATE TABLE inbox (
    consumer text NOT NULL,
    message_id uuid NOT NULL,
    handled_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (message_id, consumer, handled_at)
) PARTITION BY RANGE (handled_at)
--
-- True the first time a consumer names a message. A unique index of a partitioned table must contain
-- the day, so it can't see yesterday's row: the lock makes the look and the insert one step instead.
CREATE FUNCTION inbox_first_time(consumer_name text, message uuid) RETURNS boolean
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(consumer_name || '/' || message::text, 7));
    IF EXISTS (SELECT FROM inbox WHERE message_id = message AND consumer = consumer_name) THEN
        RETURN false;
    END IF;
    INSERT INTO inbox (consumer, message_id) VALUES (consumer_name, message);
    RETURN true;
END $$
