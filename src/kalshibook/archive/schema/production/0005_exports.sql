-- What goes into Parquet together. A batch is a range of the commit order, written down before anything is read: an
-- export that dies is done again with the same range, and so with the same files.

CREATE TABLE exports (
    export_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    series text NOT NULL,
    from_transaction bigint NOT NULL,
    from_ingest bigint NOT NULL,
    to_transaction bigint NOT NULL,
    to_ingest bigint NOT NULL,
    planned_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    files integer,
    rows bigint,
    bytes bigint
);
CREATE UNIQUE INDEX exports_order ON exports (series, to_transaction, to_ingest);
COMMENT ON COLUMN exports.from_transaction IS 'Exclusive, as is from_ingest.';
COMMENT ON COLUMN exports.to_transaction IS 'Inclusive, as is to_ingest.';
COMMENT ON COLUMN exports.finished_at IS 'NULL until the manifest is written.';
