-- Series, events and markets in commit order, so that an export finds what was begun and what was ended since its last.
-- Whoever ends a row draws a new place for it. Rows that are there already all get one, in this transaction.

ALTER TABLE series
    ADD COLUMN ingest bigint NOT NULL DEFAULT nextval('ingest_order'),
    ADD COLUMN xid xid8 NOT NULL DEFAULT pg_current_xact_id();
CREATE INDEX series_order ON series (xid);

ALTER TABLE events
    ADD COLUMN ingest bigint NOT NULL DEFAULT nextval('ingest_order'),
    ADD COLUMN xid xid8 NOT NULL DEFAULT pg_current_xact_id();
CREATE INDEX events_order ON events (xid);

ALTER TABLE markets
    ADD COLUMN ingest bigint NOT NULL DEFAULT nextval('ingest_order'),
    ADD COLUMN xid xid8 NOT NULL DEFAULT pg_current_xact_id();
CREATE INDEX markets_order ON markets (xid);
