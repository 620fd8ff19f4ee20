-- Series, events and markets as the exchange describes them, with their history: what changes gets a new row, and the
-- row before it ends where the new one begins.

CREATE TABLE series (
    ticker text NOT NULL,
    valid_from_us bigint NOT NULL,
    valid_to_us bigint,
    title text,
    category text,
    frequency text,
    body jsonb NOT NULL,
    PRIMARY KEY (ticker, valid_from_us),
    CHECK (valid_from_us < valid_to_us)
);
CREATE UNIQUE INDEX series_current ON series (ticker) WHERE valid_to_us IS NULL;

CREATE TABLE events (
    ticker text NOT NULL,
    valid_from_us bigint NOT NULL,
    valid_to_us bigint,
    series_ticker text,
    title text,
    sub_title text,
    body jsonb NOT NULL,
    PRIMARY KEY (ticker, valid_from_us),
    CHECK (valid_from_us < valid_to_us)
);
CREATE UNIQUE INDEX events_current ON events (ticker) WHERE valid_to_us IS NULL;
CREATE INDEX events_series ON events (series_ticker) WHERE valid_to_us IS NULL;

CREATE TABLE markets (
    ticker text NOT NULL,
    valid_from_us bigint NOT NULL,
    valid_to_us bigint,
    event_ticker text,
    title text,
    status text,
    open_us bigint,
    close_us bigint,
    result text,
    settlement_value integer,
    price_level_structure text,
    body jsonb NOT NULL,
    PRIMARY KEY (ticker, valid_from_us),
    CHECK (valid_from_us < valid_to_us)
);
CREATE UNIQUE INDEX markets_current ON markets (ticker) WHERE valid_to_us IS NULL;
CREATE INDEX markets_event ON markets (event_ticker) WHERE valid_to_us IS NULL;

COMMENT ON COLUMN series.valid_to_us IS 'NULL while it is so.';
COMMENT ON COLUMN events.valid_to_us IS 'NULL while it is so.';
COMMENT ON COLUMN markets.valid_to_us IS 'NULL while it is so.';
COMMENT ON COLUMN markets.body IS 'All that the exchange says, without what changes with every trade.';
COMMENT ON COLUMN markets.settlement_value IS '$0.0001.';
