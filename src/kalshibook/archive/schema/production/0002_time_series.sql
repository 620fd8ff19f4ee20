-- What all gatherers saw together: one row for each thing that happened, whoever saw it.
--
-- `sources` is a set of bits: bit n - 1 stands for source_id n. `count` says how many truly equal deltas there were:
-- the most that any one source saw. Both only grow, and a row that grows draws a new place in the commit order.

SELECT archive_make_series('orderbook_deltas', 'exchange_at', 86400, $$
    exchange_at timestamptz NOT NULL,
    exchange_us bigint,
    received_us bigint NOT NULL,
    ingest bigint NOT NULL DEFAULT nextval('ingest_order'),
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    change bigint NOT NULL,
    sources bigint NOT NULL,
    price integer NOT NULL,
    count integer NOT NULL CHECK (count > 0),
    side smallint NOT NULL CHECK (side IN (1, 2)),
    ticker text NOT NULL
$$);
CREATE UNIQUE INDEX orderbook_deltas_key ON orderbook_deltas (ticker, exchange_at, side, price, change);
CREATE INDEX orderbook_deltas_order ON orderbook_deltas (xid);
CREATE INDEX orderbook_deltas_time ON orderbook_deltas USING brin (exchange_at);
COMMENT ON COLUMN orderbook_deltas.received_us IS 'When the first source received it.';

SELECT archive_make_series('orderbook_snapshots', 'received_at', 86400, $$
    received_at timestamptz NOT NULL,
    received_us bigint NOT NULL,
    exchange_us bigint,
    ingest bigint NOT NULL DEFAULT nextval('ingest_order'),
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    sequence bigint NOT NULL,
    connection_id integer NOT NULL,
    sid integer NOT NULL,
    source_id smallint NOT NULL,
    kind smallint NOT NULL CHECK (kind IN (1, 2, 3)),
    condition smallint NOT NULL CHECK (condition IN (1, 2, 3, 4)),
    ticker text NOT NULL,
    yes_prices integer[] NOT NULL,
    yes_sizes bigint[] NOT NULL,
    no_prices integer[] NOT NULL,
    no_sizes bigint[] NOT NULL,
    CHECK (cardinality(yes_prices) = cardinality(yes_sizes) AND cardinality(no_prices) = cardinality(no_sizes))
$$);
CREATE UNIQUE INDEX orderbook_snapshots_key
    ON orderbook_snapshots (connection_id, sid, sequence, kind, ticker, received_at);
CREATE INDEX orderbook_snapshots_order ON orderbook_snapshots (xid);
CREATE INDEX orderbook_snapshots_ticker ON orderbook_snapshots (ticker, received_at);
CREATE INDEX orderbook_snapshots_time ON orderbook_snapshots USING brin (received_at);

SELECT archive_make_series('trades', 'exchange_at', 86400, $$
    exchange_at timestamptz NOT NULL,
    exchange_us bigint,
    received_us bigint NOT NULL,
    ingest bigint NOT NULL DEFAULT nextval('ingest_order'),
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    size bigint NOT NULL,
    sources bigint NOT NULL,
    yes_price integer NOT NULL,
    taker_side smallint CHECK (taker_side IN (1, 2)),
    is_block_trade boolean NOT NULL,
    consistent boolean NOT NULL,
    trade_id text NOT NULL,
    ticker text NOT NULL
$$);
CREATE UNIQUE INDEX trades_key ON trades (trade_id, exchange_at);
CREATE INDEX trades_order ON trades (xid);
CREATE INDEX trades_ticker ON trades (ticker, exchange_at);
CREATE INDEX trades_time ON trades USING brin (exchange_at);

SELECT archive_make_series('tickers', 'exchange_at', 86400, $$
    exchange_at timestamptz NOT NULL,
    exchange_us bigint,
    received_us bigint NOT NULL,
    ingest bigint NOT NULL DEFAULT nextval('ingest_order'),
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    digest bigint NOT NULL,
    last_size bigint,
    volume bigint,
    open_interest bigint,
    dollar_volume bigint,
    dollar_open_interest bigint,
    sources bigint NOT NULL,
    last_price integer,
    ticker text NOT NULL
$$);
CREATE UNIQUE INDEX tickers_key ON tickers (ticker, exchange_at, digest);
CREATE INDEX tickers_order ON tickers (xid);
CREATE INDEX tickers_time ON tickers USING brin (exchange_at);

SELECT archive_make_series('lifecycles', 'exchange_at', 86400, $$
    exchange_at timestamptz NOT NULL,
    exchange_us bigint,
    received_us bigint NOT NULL,
    ingest bigint NOT NULL DEFAULT nextval('ingest_order'),
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    digest bigint NOT NULL,
    sources bigint NOT NULL,
    ticker text NOT NULL,
    channel text NOT NULL,
    kind text NOT NULL,
    body jsonb NOT NULL
$$);
CREATE UNIQUE INDEX lifecycles_key ON lifecycles (ticker, exchange_at, kind, digest);
CREATE INDEX lifecycles_order ON lifecycles (xid);

CREATE TABLE gaps (
    gap_id text PRIMARY KEY,
    detected_at timestamptz NOT NULL,
    detected_us bigint NOT NULL,
    healed_us bigint,
    ingest bigint NOT NULL DEFAULT nextval('ingest_order'),
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    from_sequence bigint,
    to_sequence bigint,
    connection_id integer,
    sid integer,
    markets integer NOT NULL,
    source_id smallint NOT NULL,
    channel text NOT NULL,
    cause text NOT NULL,
    how text,
    tickers text[] NOT NULL
);
CREATE INDEX gaps_order ON gaps (xid);
CREATE INDEX gaps_time ON gaps (detected_at);
