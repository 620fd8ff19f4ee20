-- Which frames an event was seen in. Merging is the union of these sets, so it can be repeated and reordered at
-- will; `count` and `sources` follow from them; and a rebuilt book knows exactly which changes a snapshot contains.

CREATE TABLE streams (
    stream_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    connection_id integer NOT NULL REFERENCES connections,
    sid integer NOT NULL,
    first_us bigint NOT NULL,
    last_us bigint NOT NULL,
    UNIQUE (connection_id, sid)
);
COMMENT ON TABLE streams IS 'Where numbers count: one subscription of one connection of one source.';
COMMENT ON COLUMN streams.first_us IS 'Receipt of the first frame seen of it.';
COMMENT ON COLUMN streams.last_us IS 'Receipt of the last frame seen of it.';

ALTER TABLE orderbook_deltas
    ADD COLUMN streams integer[] NOT NULL DEFAULT '{}',
    ADD COLUMN sequences bigint[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN orderbook_deltas.streams IS 'Of each sighting, ascending; the numbers stand in the same places.';
COMMENT ON COLUMN orderbook_deltas.count IS 'How often it happened: the most sightings that one stream has.';

ALTER TABLE lifecycles
    ADD COLUMN streams integer[] NOT NULL DEFAULT '{}',
    ADD COLUMN sequences bigint[] NOT NULL DEFAULT '{}',
    ADD COLUMN count integer NOT NULL DEFAULT 1,
    ADD COLUMN last_us bigint;
COMMENT ON COLUMN lifecycles.last_us IS 'Exchange time of the latest sighting; exchange_at is that of the earliest.';

ALTER TABLE gaps ADD COLUMN since_us bigint;
COMMENT ON COLUMN gaps.since_us IS 'Receipt of the last frame before what is missing; NULL where none is known.';

-- How many streams saw the same event how often: the greatest number of equal entries.
CREATE FUNCTION archive_merged(
    old_streams integer[], old_sequences bigint[], new_streams integer[], new_sequences bigint[],
    OUT streams integer[], OUT sequences bigint[], OUT count integer
) LANGUAGE sql IMMUTABLE AS $$
    SELECT array_agg(s ORDER BY s, q), array_agg(q ORDER BY s, q), max(nth)::integer
    FROM (
        SELECT s, q, row_number() OVER (PARTITION BY s ORDER BY q) AS nth
        FROM (
            SELECT * FROM unnest(old_streams, old_sequences) AS old (s, q)
            UNION
            SELECT * FROM unnest(new_streams, new_sequences) AS new (s, q)
        ) AS sightings
    ) AS numbered
$$;

-- One sighting of a lifecycle message. They carry no time that is the same on every connection, so sightings of the
-- same words are one event when no more than ten seconds lie between neighbours; one in the middle may join two.
CREATE FUNCTION archive_told(
    its_ticker text, its_channel text, its_kind text, its_body jsonb, its_exchange_us bigint, its_received_us bigint,
    its_stream integer, its_sequence bigint, its_source_id smallint
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    within_us CONSTANT bigint := 10000000;
    its_at_us CONSTANT bigint := coalesce(its_exchange_us, its_received_us);
    its_digest CONSTANT bigint := ('x' || left(md5(its_channel || ' ' || its_body::text), 16))::bit(64)::bigint;
    near record;
    found_rows integer := 0;
    first_us bigint := its_at_us;
    until_us bigint := its_at_us;
    received bigint := its_received_us;
    exchange bigint := its_exchange_us;
    seen_by bigint := 1::bigint << (its_source_id - 1);
    its_streams integer[] := ARRAY[its_stream];
    its_sequences bigint[] := ARRAY[its_sequence];
    its_count integer := 1;
BEGIN
    FOR near IN
        SELECT l.* FROM lifecycles AS l
        WHERE l.ticker = its_ticker AND l.kind = its_kind AND l.digest = its_digest
            AND l.exchange_at <= timestamptz 'epoch' + (its_at_us + within_us) * interval '1 microsecond'
            AND l.last_us >= its_at_us - within_us
        ORDER BY l.exchange_at
    LOOP
        IF EXISTS (
            SELECT FROM unnest(near.streams, near.sequences) AS u (s, q) WHERE s = its_stream AND q = its_sequence
        ) THEN
            RETURN 'known';
        END IF;
        found_rows := found_rows + 1;
        first_us := least(first_us, coalesce(near.exchange_us, near.received_us));
        until_us := greatest(until_us, near.last_us);
        received := least(received, near.received_us);
        exchange := least(exchange, near.exchange_us);
        seen_by := seen_by | near.sources;
        SELECT m.streams, m.sequences, m.count INTO its_streams, its_sequences, its_count
        FROM archive_merged(near.streams, near.sequences, its_streams, its_sequences) AS m;
        DELETE FROM lifecycles AS l
        WHERE l.ticker = its_ticker AND l.kind = its_kind AND l.digest = its_digest
            AND l.exchange_at = near.exchange_at;
    END LOOP;
    INSERT INTO lifecycles
        (exchange_at, exchange_us, received_us, digest, sources, ticker, channel, kind, body, streams, sequences,
         count, last_us)
    VALUES
        (timestamptz 'epoch' + first_us * interval '1 microsecond', exchange, received, its_digest, seen_by,
         its_ticker, its_channel, its_kind, its_body, its_streams, its_sequences, its_count, until_us);
    RETURN CASE found_rows WHEN 0 THEN 'new' ELSE 'grown' END;
END $$;
