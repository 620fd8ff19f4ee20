-- What every archive has, be it a gatherer's own or the production database: lookups, sources, cursors,
-- dead letters, and the functions that make a time series of native partitions or of a hypertable.
--
-- Prices are integers of $0.0001, sizes integers of 0.01 contract, times integers of microseconds since the
-- epoch (`_us`), beside a timestamptz (`_at`) by which rows are partitioned. What is absent is NULL.

-- Enumerations are smallint with a lookup: two bytes a row instead of an enum's four, the same in Parquet, and
-- a new value is an INSERT that any transaction may do, where ALTER TYPE cannot be used in its own.
CREATE TABLE sides (id smallint PRIMARY KEY, name text NOT NULL UNIQUE);
INSERT INTO sides VALUES (1, 'yes'), (2, 'no');

CREATE TABLE conditions (id smallint PRIMARY KEY, name text NOT NULL UNIQUE);
INSERT INTO conditions VALUES (1, 'awaiting'), (2, 'live'), (3, 'stale'), (4, 'closed');

CREATE TABLE snapshot_kinds (id smallint PRIMARY KEY, name text NOT NULL UNIQUE, meaning text NOT NULL);
INSERT INTO snapshot_kinds VALUES
    (1, 'exchange', 'a frame of the exchange; deltas after it apply to it'),
    (2, 'minute', 'a live book of ours, as it stood after the frame that is named'),
    (3, 'audit', 'fetched over REST to compare with; it belongs to no subscription');

CREATE TABLE sources (
    source_id smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE
);
COMMENT ON TABLE sources IS 'Gatherers, by the name in their envelopes.';

CREATE TABLE connections (
    connection_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source_id smallint NOT NULL REFERENCES sources,
    name text NOT NULL,
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (source_id, name)
);
COMMENT ON TABLE connections IS
    'Socket epochs: a sid and its numbers mean nothing beyond one. A name that begins with "kafka:" stands for a'
    ' topic whose producer names no connection; sid and sequence are partition and offset then.';

-- How far a reader has come. The position moves in the transaction that stores what was read.
CREATE TABLE cursors (
    reader text NOT NULL,
    subject text NOT NULL,
    position bigint NOT NULL,
    transaction_id bigint,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (reader, subject)
);
COMMENT ON COLUMN cursors.subject IS 'A partition (topic/3) of Kafka, or a table of a source''s database.';
COMMENT ON COLUMN cursors.position IS 'The next offset of a partition; the last `ingest` of a table.';
COMMENT ON COLUMN cursors.transaction_id IS 'With a table: the transaction of that row; NULL for a partition.';

CREATE TABLE dead_letters (
    dead_letter_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    digest bytea NOT NULL UNIQUE,
    place text NOT NULL,
    table_name text,
    reason text NOT NULL,
    payload bytea NOT NULL
);
COMMENT ON TABLE dead_letters IS 'What could not be stored, byte by byte, and why.';
COMMENT ON COLUMN dead_letters.digest IS 'Of place and payload: the same letter is kept once.';
COMMENT ON COLUMN dead_letters.place IS 'Where it came from, such as market-data-all/3@1042.';
COMMENT ON COLUMN dead_letters.table_name IS 'Where it would have gone, or NULL when it could not be read.';

CREATE TABLE time_series (
    name text PRIMARY KEY,
    time_column text NOT NULL,
    chunk_s bigint NOT NULL CHECK (chunk_s > 0),
    keep_s bigint CHECK (keep_s > 0)
);
COMMENT ON TABLE time_series IS 'The partitioned tables; `kalshibook archive migrate` writes the settings here.';
COMMENT ON COLUMN time_series.keep_s IS 'How long rows are kept; NULL is for ever.';

CREATE TABLE archive_settings (name text PRIMARY KEY, value integer);
COMMENT ON TABLE archive_settings IS 'Settings that housekeeping needs and that are of no time series.';

-- Native partitions only: hypertables keep such a list of their own.
CREATE TABLE chunks (
    name text PRIMARY KEY,
    series text NOT NULL REFERENCES time_series,
    from_at timestamptz NOT NULL,
    to_at timestamptz NOT NULL,
    UNIQUE (series, from_at),
    CHECK (from_at < to_at)
);

CREATE FUNCTION archive_has_timescale() RETURNS boolean LANGUAGE sql STABLE AS
$$ SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb') $$;

CREATE FUNCTION archive_make_series(series text, time_column text, chunk_s bigint, columns text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO time_series VALUES (series, time_column, chunk_s);
    IF archive_has_timescale() THEN
        EXECUTE format('CREATE TABLE %I (%s)', series, columns);
        PERFORM create_hypertable(
            series::regclass,
            time_column::name,
            chunk_time_interval => make_interval(secs => chunk_s),
            create_default_indexes => false
        );
    ELSE
        EXECUTE format('CREATE TABLE %I (%s) PARTITION BY RANGE (%I)', series, columns, time_column);
    END IF;
END $$;

-- Make the partition that holds a moment, if it is missing, and return its range. Ranges are aligned to the chunk
-- size, and cut where a partition of another size lies already. A hypertable looks after itself: all time is its range.
CREATE FUNCTION archive_ensure_chunk(which text, moment timestamptz, OUT from_us bigint, OUT to_us bigint)
LANGUAGE plpgsql AS $$
DECLARE
    size bigint;
    lower_at timestamptz;
    upper_at timestamptz;
    chunk text;
BEGIN
    -- Asked of the table, because the extension may have come after it.
    IF (SELECT relkind FROM pg_class WHERE oid = which::regclass) <> 'p' THEN
        from_us := -9223372036854775808;
        to_us := 9223372036854775807;
        RETURN;
    END IF;
    SELECT c.from_at, c.to_at INTO lower_at, upper_at FROM chunks c
        WHERE c.series = which AND c.from_at <= moment AND moment < c.to_at;
    IF NOT FOUND THEN
        -- Two writers that need the same partition make it one after the other; the second finds it.
        SELECT s.chunk_s INTO STRICT size FROM time_series s WHERE s.name = which FOR UPDATE;
        SELECT c.from_at, c.to_at INTO lower_at, upper_at FROM chunks c
            WHERE c.series = which AND c.from_at <= moment AND moment < c.to_at;
    END IF;
    IF NOT FOUND THEN
        lower_at := to_timestamp(floor(extract(epoch FROM moment) / size) * size);
        upper_at := lower_at + make_interval(secs => size);
        lower_at := greatest(
            lower_at, (SELECT max(c.to_at) FROM chunks c WHERE c.series = which AND c.to_at <= moment)
        );
        upper_at := least(
            upper_at, (SELECT min(c.from_at) FROM chunks c WHERE c.series = which AND c.from_at > moment)
        );
        chunk := which || to_char(lower_at AT TIME ZONE 'UTC', '_YYYYMMDD_HH24MISS');
        -- Attached afterwards, because CREATE TABLE ... PARTITION OF waits for every reader of the whole series,
        -- and lets nobody else in meanwhile.
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', chunk, which);
        EXECUTE format(
            'ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', which, chunk, lower_at, upper_at
        );
        INSERT INTO chunks VALUES (chunk, which, lower_at, upper_at);
    END IF;
    from_us := (extract(epoch FROM lower_at) * 1000000)::bigint;
    to_us := (extract(epoch FROM upper_at) * 1000000)::bigint;
END $$;

-- Commit order. A sequence alone does not give it: a number drawn early may be committed late. A reader takes only
-- rows whose transaction is older than every one still running, in the order of (xid, ingest), and a row that it has
-- not seen cannot appear before its cursor any more:
--     WHERE xid < pg_snapshot_xmin(pg_current_snapshot()) AND (xid, ingest) > (…, …) ORDER BY xid, ingest
CREATE SEQUENCE ingest_order AS bigint CACHE 1;
