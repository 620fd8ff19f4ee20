-- What one gatherer saw, frame by frame.
--
-- Keys are of the source: who received it (connection, which implies the source), and the number that the exchange
-- gave it there (sid, sequence). The time of receipt is part of every key because a partitioned table cannot do
-- without it; it does not weaken the key, for it is stamped once, before anything can be delivered twice.

SELECT archive_make_series('orderbook_deltas', 'received_at', 21600, $$
    received_at timestamptz NOT NULL,
    received_us bigint NOT NULL,
    exchange_us bigint,
    ingest bigint NOT NULL DEFAULT nextval('ingest_order'),
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    sequence bigint NOT NULL,
    change bigint NOT NULL,
    connection_id integer NOT NULL,
    sid integer NOT NULL,
    price integer NOT NULL,
    source_id smallint NOT NULL,
    side smallint NOT NULL CHECK (side IN (1, 2)),
    ticker text NOT NULL
$$);
CREATE UNIQUE INDEX orderbook_deltas_key ON orderbook_deltas (connection_id, sid, sequence, received_at);
CREATE INDEX orderbook_deltas_order ON orderbook_deltas (xid);
CREATE INDEX orderbook_deltas_ticker ON orderbook_deltas (ticker);
CREATE INDEX orderbook_deltas_time ON orderbook_deltas USING brin (received_at);
COMMENT ON COLUMN orderbook_deltas.price IS 'On the scale of its side: a NO level at a NO price.';
COMMENT ON COLUMN orderbook_deltas.change IS 'What is added to the resting size; negative takes away.';

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
COMMENT ON COLUMN orderbook_snapshots.sequence IS
    'The last frame that is in it. An audit belongs to no subscription: sid is 0, and this is the time of receipt.';
COMMENT ON COLUMN orderbook_snapshots.yes_prices IS 'Ascending; the sizes stand in the same places.';
COMMENT ON COLUMN orderbook_snapshots.no_prices IS 'Ascending, on the NO scale.';

-- A trade has an id of its own, so it is one row however often and by whomever it was seen; it is partitioned by the
-- exchange's time, which every copy of it shares. In whole milliseconds: REST gives microseconds for the same trade.
SELECT archive_make_series('trades', 'exchange_at', 86400, $$
    exchange_at timestamptz NOT NULL,
    exchange_us bigint,
    received_us bigint NOT NULL,
    ingest bigint NOT NULL DEFAULT nextval('ingest_order'),
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    sequence bigint,
    size bigint NOT NULL,
    connection_id integer,
    sid integer,
    yes_price integer NOT NULL,
    source_id smallint NOT NULL,
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
COMMENT ON COLUMN trades.exchange_at IS
    'Of exchange_us, in whole milliseconds; of received_us for a trade without a time.';
COMMENT ON COLUMN trades.connection_id IS 'NULL for a trade fetched over REST.';
COMMENT ON COLUMN trades.taker_side IS 'The outcome that the taker ends up long.';
COMMENT ON COLUMN trades.consistent IS 'Whether YES and NO price sum to one dollar on the wire.';

-- Tickers carry no number, so a digest of their content takes its place in the key.
SELECT archive_make_series('tickers', 'received_at', 21600, $$
    received_at timestamptz NOT NULL,
    received_us bigint NOT NULL,
    exchange_us bigint,
    ingest bigint NOT NULL DEFAULT nextval('ingest_order'),
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    digest bigint NOT NULL,
    last_size bigint,
    volume bigint,
    open_interest bigint,
    dollar_volume bigint,
    dollar_open_interest bigint,
    connection_id integer NOT NULL,
    sid integer NOT NULL,
    last_price integer,
    source_id smallint NOT NULL,
    ticker text NOT NULL
$$);
CREATE UNIQUE INDEX tickers_key ON tickers (connection_id, sid, digest, received_at);
CREATE INDEX tickers_order ON tickers (xid);
CREATE INDEX tickers_ticker ON tickers (ticker);
CREATE INDEX tickers_time ON tickers USING brin (received_at);
COMMENT ON COLUMN tickers.dollar_volume IS 'Whole dollars.';
COMMENT ON COLUMN tickers.dollar_open_interest IS 'Whole dollars.';

-- Steps in the lives of markets and events, as they came.
SELECT archive_make_series('lifecycles', 'received_at', 86400, $$
    received_at timestamptz NOT NULL,
    received_us bigint NOT NULL,
    exchange_us bigint,
    ingest bigint NOT NULL DEFAULT nextval('ingest_order'),
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    sequence bigint NOT NULL,
    connection_id integer NOT NULL,
    sid integer NOT NULL,
    source_id smallint NOT NULL,
    ticker text NOT NULL,
    channel text NOT NULL,
    kind text NOT NULL,
    body jsonb NOT NULL
$$);
CREATE UNIQUE INDEX lifecycles_key ON lifecycles (connection_id, sid, sequence, received_at);
CREATE INDEX lifecycles_order ON lifecycles (xid);
CREATE INDEX lifecycles_ticker ON lifecycles (ticker, received_at);
COMMENT ON COLUMN lifecycles.ticker IS 'The market''s, or the event''s where the frame is about an event.';
COMMENT ON COLUMN lifecycles.kind IS 'Such as determined; for a frame about an event, its type.';
COMMENT ON COLUMN lifecycles.body IS 'The frame''s msg.';

-- Few, and written twice: when found and when healed. The second writing draws a new place in the commit order.
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
COMMENT ON COLUMN gaps.tickers IS 'Empty where it is every market of the exchange.';
COMMENT ON COLUMN gaps.healed_us IS 'NULL while it is open.';
