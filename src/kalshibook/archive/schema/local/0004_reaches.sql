-- How far in time a gatherer's records of each partition are stored. Its markets are spread over all of them, and other
-- writers read the others: what it received was stored up to the partition that is furthest behind, and no further.

CREATE TABLE reaches (
    reader text NOT NULL,
    subject text NOT NULL,
    source_id smallint NOT NULL,
    received_us bigint NOT NULL,
    ingest bigint NOT NULL DEFAULT nextval('ingest_order'),
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    PRIMARY KEY (reader, subject, source_id)
);
CREATE INDEX reaches_order ON reaches (xid);
COMMENT ON TABLE reaches IS 'Of sources that tell every partition that they are at work; of others nothing is known.';
COMMENT ON COLUMN reaches.subject IS 'A partition of Kafka, such as market-data-all/3.';
COMMENT ON COLUMN reaches.received_us IS 'When the last notice that was read of it was published.';

-- Several groups may read one topic, and a topic may have been another one before: the furthest of them counts.
CREATE VIEW source_reaches AS
    SELECT source_id, max(reach_us) AS reach_us
    FROM (
        SELECT source_id, min(received_us) AS reach_us
        FROM reaches GROUP BY source_id, reader, regexp_replace(subject, '/[0-9]+$', '')
    ) AS of_topics
    GROUP BY source_id;
