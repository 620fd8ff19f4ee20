-- Candles of trades, as views: open, high, low and close of the YES price ($0.0001), contracts (0.01) and prints. Off-book
-- trades have prices of their own and are left out. What is asked of one market and a stretch of time reads only that.

CREATE FUNCTION archive_trade_candles(width interval, from_at timestamptz, until_at timestamptz, its_ticker text DEFAULT NULL)
RETURNS TABLE (
    ticker text, at timestamptz, open integer, high integer, low integer, close integer, volume bigint, trades bigint
) LANGUAGE sql STABLE AS $$
    SELECT
        t.ticker,
        date_bin(width, t.exchange_at, timestamptz 'epoch') AS at,
        (array_agg(t.yes_price ORDER BY t.exchange_us, t.trade_id))[1],
        max(t.yes_price),
        min(t.yes_price),
        (array_agg(t.yes_price ORDER BY t.exchange_us DESC, t.trade_id DESC))[1],
        sum(t.size)::bigint,
        count(*)
    FROM trades AS t
    WHERE NOT t.is_block_trade AND t.exchange_at >= from_at AND t.exchange_at < until_at
        AND (its_ticker IS NULL OR t.ticker = its_ticker)
    GROUP BY t.ticker, date_bin(width, t.exchange_at, timestamptz 'epoch')
$$;

CREATE VIEW trade_candles_1s AS
    SELECT * FROM archive_trade_candles('1 second', '-infinity', 'infinity');
CREATE VIEW trade_candles_1m AS
    SELECT * FROM archive_trade_candles('1 minute', '-infinity', 'infinity');
CREATE VIEW trade_candles_1h AS
    SELECT * FROM archive_trade_candles('1 hour', '-infinity', 'infinity');

-- Of the mid, from the books that were stored whole. Twice the mid, in $0.0001, so that it stays an integer; exact
-- candles, from every change, are made by `kalshibook archive candles --of mid`.
CREATE FUNCTION archive_mid_candles(width interval, from_at timestamptz, until_at timestamptz, its_ticker text DEFAULT NULL)
RETURNS TABLE (
    ticker text, at timestamptz, open integer, high integer, low integer, close integer, books bigint
) LANGUAGE sql STABLE AS $$
    SELECT
        b.ticker,
        date_bin(width, b.moment, timestamptz 'epoch'),
        (array_agg(b.mid_twice ORDER BY b.moment, b.sequence))[1],
        max(b.mid_twice),
        min(b.mid_twice),
        (array_agg(b.mid_twice ORDER BY b.moment DESC, b.sequence DESC))[1],
        count(*)
    FROM (
        SELECT
            s.ticker, s.sequence,
            timestamptz 'epoch' + coalesce(s.exchange_us, s.received_us) * interval '1 microsecond' AS moment,
            s.yes_prices[cardinality(s.yes_prices)] + 10000 - s.no_prices[cardinality(s.no_prices)] AS mid_twice
        FROM orderbook_snapshots AS s
        WHERE s.kind <> 3 AND s.condition = 2 AND cardinality(s.yes_prices) > 0 AND cardinality(s.no_prices) > 0
            AND (its_ticker IS NULL OR s.ticker = its_ticker)
            AND s.received_at >= from_at AND s.received_at < until_at + interval '1 hour'
    ) AS b
    WHERE b.moment >= from_at AND b.moment < until_at
    GROUP BY b.ticker, date_bin(width, b.moment, timestamptz 'epoch')
$$;

CREATE VIEW mid_candles_1s AS
    SELECT * FROM archive_mid_candles('1 second', '-infinity', 'infinity');
CREATE VIEW mid_candles_1m AS
    SELECT * FROM archive_mid_candles('1 minute', '-infinity', 'infinity');
CREATE VIEW mid_candles_1h AS
    SELECT * FROM archive_mid_candles('1 hour', '-infinity', 'infinity');
