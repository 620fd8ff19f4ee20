"""
Candles of trades that the server keeps ready, where its edition has continuous aggregates.

Who asks `trade_candles_1m` or `trade_candles_1h` notices nothing: the names stay those of views, and only
what stands behind them changes, so that grants and what others have built on them stay as well.

Candles of a second stay computed: they would be nearly as many rows as the trades. So do those of the
mid: they go by the exchange's time, books are partitioned by receipt, and a continuous aggregate can go
by nothing but the partitions' own time.
"""

from typing import Final

from kalshibook.archive.database import Connection, run

__all__ = ["WIDTHS", "aggregates_of", "make_aggregates"]

WIDTHS: Final = {"trade_candles_1m": "1 minute", "trade_candles_1h": "1 hour"}
"""View to the width of its candles."""

# The expressions are those of `archive_trade_candles`; `first` and `last` know no second key for equal times.
_AGGREGATE: Final = """
    CREATE MATERIALIZED VIEW {name}_continuous
        WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
    SELECT
        t.ticker,
        time_bucket(interval '{width}', t.exchange_at) AS at,
        (array_agg(t.yes_price ORDER BY t.exchange_us, t.trade_id))[1] AS open,
        max(t.yes_price) AS high,
        min(t.yes_price) AS low,
        (array_agg(t.yes_price ORDER BY t.exchange_us DESC, t.trade_id DESC))[1] AS close,
        sum(t.size)::bigint AS volume,
        count(*) AS trades
    FROM trades AS t
    WHERE NOT t.is_block_trade
    GROUP BY t.ticker, time_bucket(interval '{width}', t.exchange_at)
    WITH NO DATA
"""
# The last hour is computed when it is asked for: sources that lag change nothing that is kept. A trade that
# comes later, however old, marks its candle, and the next run makes it anew; hence no start.
_POLICY: Final = """
    SELECT add_continuous_aggregate_policy(
        '{name}_continuous', start_offset => NULL, end_offset => interval '1 hour',
        schedule_interval => interval '10 minutes'
    )
"""
_VIEW: Final = "CREATE OR REPLACE VIEW {name} AS SELECT * FROM {name}_continuous"


def make_aggregates(connection: Connection) -> list[str]:
    """
    Put what is missing behind the views, and return their names; what is there is left as it is.

    Nothing is filled in here: until the server's first run the candles are computed as before.
    """
    there = aggregates_of(connection)
    missing = [name for name in WIDTHS if name not in there]
    for name in missing:
        with connection.transaction():
            for statement in (_AGGREGATE, _POLICY, _VIEW):
                run(connection, statement.format(name=name, width=WIDTHS[name]))
    return missing


def aggregates_of(connection: Connection) -> list[str]:
    """Return the views that a continuous aggregate stands behind."""
    found = run(
        connection,
        "SELECT name FROM unnest(%s::text[]) AS view (name)"
        " WHERE to_regclass(name || '_continuous') IS NOT NULL",
        [[*WIDTHS]],
    )
    return [name for (name,) in found.fetchall()]
