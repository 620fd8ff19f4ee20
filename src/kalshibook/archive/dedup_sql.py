"""
The statements of the deduplicator, table by table: what is read of a source, and how it is merged.

They do what `kalshibook.archive.merging` says; `tests/archive/test_dedup.py` holds them to it. Rows go from
one database to the other as COPY's binary blocks and are never decoded on the way.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

__all__ = ["FIND_STREAMS", "MERGES", "NAME_CONNECTIONS", "NAME_SOURCES", "SETUP", "Cursor", "Merge"]


class Merge(NamedTuple):
    """One table."""

    table: str
    columns: Mapping[str, str]
    """Read of the source, after the number of the source and before `xid` and `ingest`: name to type."""
    statement: str
    """Merges what is staged; returns how many rows are new, to how many something was added, and more."""
    moment: str | None
    """By what production is partitioned, in terms of the staged columns; None where it is not."""
    computed: Mapping[str, str] = MappingProxyType({})
    """Columns that the source computes."""
    tidying: str | None = None
    """Done after it where its third number is not 0."""

    @property
    def staged(self) -> str:
        """The temporary table in which rows arrive."""
        return f"staged_{self.table}"

    @property
    def staging(self) -> str:
        """The statement that makes it."""
        columns = ", ".join(f"{name} {kind}" for name, kind in self.columns.items())
        return (
            f"CREATE TEMPORARY TABLE {self.staged}"
            f" (origin smallint, {columns}, xid xid8, ingest bigint) ON COMMIT DELETE ROWS"
        )

    def reading(self, origin: int, cursor: "Cursor", limit: int, horizon: int) -> str:
        """
        Return the query of a source's next rows, of transactions before the horizon.

        A row whose transaction is older than every one still running cannot be followed by another
        one before it in this order, so that a late commit is never skipped. COPY takes no
        parameters; all that is put in are integers.
        """
        columns = ", ".join(self.computed.get(name, f"t.{name}") for name in self.columns)
        return (
            f"SELECT {int(origin)}::smallint, {columns}, t.xid, t.ingest FROM {self.table} AS t"
            f" WHERE t.xid < '{int(horizon)}'::xid8"
            f" AND (t.xid, t.ingest) > ('{int(cursor.transaction_id)}'::xid8, {int(cursor.position)})"
            f" ORDER BY t.xid, t.ingest LIMIT {int(limit)}"
        )

    @property
    def ensuring(self) -> str | None:
        """The statement that makes missing partitions."""
        if self.moment is None:
            return None
        return f"""
            SELECT count(archive_ensure_chunk('{self.table}', moments.moment))
            FROM (
                SELECT DISTINCT
                    date_bin(make_interval(secs => least(t.chunk_s, 3600)), {self.moment}, 'epoch') AS moment
                FROM {self.staged} AS s, time_series AS t WHERE t.name = '{self.table}'
            ) AS moments
        """


class Cursor(NamedTuple):
    """How far a table of a source has been read, by commit order."""

    transaction_id: int = 0
    position: int = 0


SETUP: Final = (
    """
    CREATE TEMPORARY TABLE origins (
        origin smallint, connection_id integer, source text, name text, PRIMARY KEY (origin, connection_id)
    )
    """,
    """
    CREATE TEMPORARY TABLE origin_sources (
        origin smallint, local_id smallint, name text, PRIMARY KEY (origin, local_id)
    )
    """,
    """
    CREATE TEMPORARY TABLE stream_map (
        origin smallint, connection_id integer, sid integer, stream_id integer,
        production_connection integer, source_id smallint
    ) ON COMMIT DELETE ROWS
    """,
    """
    CREATE TEMPORARY TABLE misplaced_trades (trade_id text, exchange_at timestamptz) ON COMMIT DELETE ROWS
    """,
)

# A number of a source is drawn only when it is needed: bits of `sources` are few.
NAME_SOURCES: Final = """
    INSERT INTO sources (name)
    SELECT DISTINCT name FROM origin_sources AS o
    WHERE NOT EXISTS (SELECT FROM sources AS s WHERE s.name = o.name)
"""
NAME_CONNECTIONS: Final = """
    INSERT INTO connections (source_id, name)
    SELECT DISTINCT s.source_id, o.name
    FROM origins AS o JOIN sources AS s ON s.name = o.source
    WHERE NOT EXISTS (SELECT FROM connections AS c WHERE c.source_id = s.source_id AND c.name = o.name)
"""
# One pass over what is staged; then both statements are about a handful of rows.
FIND_STREAMS: Final = """
    WITH staged AS (
        SELECT origin, connection_id, sid, min(received_us) AS first_us, max(received_us) AS last_us
        FROM {staged} WHERE connection_id IS NOT NULL GROUP BY origin, connection_id, sid
    ), named AS MATERIALIZED (
        SELECT g.*, c.connection_id AS production_connection, s.source_id
        FROM staged AS g
        JOIN origins AS o USING (origin, connection_id)
        JOIN sources AS s ON s.name = o.source
        JOIN connections AS c ON c.source_id = s.source_id AND c.name = o.name
    ), added AS (
        INSERT INTO streams (connection_id, sid, first_us, last_us)
        SELECT production_connection, sid, min(first_us), max(last_us) FROM named AS n
        WHERE NOT EXISTS (
            SELECT FROM streams AS t WHERE t.connection_id = n.production_connection AND t.sid = n.sid
        )
        GROUP BY production_connection, sid
        RETURNING stream_id, connection_id, sid
    ), extended AS (
        UPDATE streams AS t
        SET first_us = least(t.first_us, n.first_us), last_us = greatest(t.last_us, n.last_us)
        FROM (
            SELECT production_connection, sid, min(first_us) AS first_us, max(last_us) AS last_us
            FROM named GROUP BY production_connection, sid
        ) AS n
        WHERE t.connection_id = n.production_connection AND t.sid = n.sid
        RETURNING t.stream_id, t.connection_id, t.sid
    )
    INSERT INTO stream_map
    SELECT n.origin, n.connection_id, n.sid, t.stream_id, n.production_connection, n.source_id
    FROM named AS n
    JOIN (SELECT * FROM added UNION ALL SELECT * FROM extended) AS t
        ON t.connection_id = n.production_connection AND t.sid = n.sid
"""


def _at(microseconds: str) -> str:
    # Not to_timestamp(), which goes by way of a float of seconds and would round.
    return f"(timestamptz 'epoch' + {microseconds} * interval '1 microsecond')"


_EXCHANGE_AT: Final = _at("coalesce(s.exchange_us, s.received_us)")
_BIT: Final = "bit_or(1::bigint << (source_id - 1))"

# The window has sorted by the key already, so that arrays are built in order without sorting each.
_DELTAS: Final = f"""
    WITH sightings AS (
        SELECT
            s.ticker, {_EXCHANGE_AT} AS exchange_at, s.side, s.price, s.change, m.stream_id, s.sequence,
            m.source_id, min(s.exchange_us) AS exchange_us, min(s.received_us) AS received_us
        FROM staged_orderbook_deltas AS s JOIN stream_map AS m USING (origin, connection_id, sid)
        GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
    ), numbered AS (
        SELECT *, row_number() OVER (
            PARTITION BY ticker, exchange_at, side, price, change, stream_id ORDER BY sequence
        ) AS nth
        FROM sightings
    ), fresh AS (
        SELECT
            ticker, exchange_at, side, price, change, {_BIT} AS sources, max(nth)::integer AS count,
            min(exchange_us) AS exchange_us, min(received_us) AS received_us,
            array_agg(stream_id) AS streams, array_agg(sequence) AS sequences
        FROM numbered
        GROUP BY ticker, exchange_at, side, price, change
    ), done AS (
        INSERT INTO orderbook_deltas AS known
            (exchange_at, exchange_us, received_us, change, sources, price, count, side, ticker, streams,
             sequences)
        SELECT
            exchange_at, exchange_us, received_us, change, sources, price, count, side, ticker, streams,
            sequences
        FROM fresh
        ON CONFLICT (ticker, exchange_at, side, price, change) DO UPDATE SET
            (streams, sequences, count) = (
                SELECT m.streams, m.sequences, m.count
                FROM archive_merged(known.streams, known.sequences, excluded.streams, excluded.sequences) AS m
            ),
            sources = known.sources | excluded.sources,
            received_us = least(known.received_us, excluded.received_us),
            ingest = nextval('ingest_order'),
            xid = pg_current_xact_id()
        WHERE EXISTS (
            SELECT * FROM unnest(excluded.streams, excluded.sequences)
            EXCEPT SELECT * FROM unnest(known.streams, known.sequences)
        )
        RETURNING ticker, exchange_at, side, price, change, cardinality(streams) AS sightings
    )
    SELECT
        count(*) FILTER (WHERE done.sightings = cardinality(fresh.streams)),
        count(*) FILTER (WHERE done.sightings <> cardinality(fresh.streams))
    FROM done JOIN fresh USING (ticker, exchange_at, side, price, change)
"""

# Each snapshot was made for one connection, so its identity is its frame's.
_SNAPSHOTS: Final = f"""
    WITH done AS (
        INSERT INTO orderbook_snapshots
            (received_at, received_us, exchange_us, sequence, connection_id, sid, source_id, kind, condition,
             ticker, yes_prices, yes_sizes, no_prices, no_sizes)
        SELECT
            {_at("s.received_us")}, s.received_us, s.exchange_us, s.sequence, m.production_connection, s.sid,
            m.source_id, s.kind, s.condition, s.ticker, s.yes_prices, s.yes_sizes, s.no_prices, s.no_sizes
        FROM staged_orderbook_snapshots AS s JOIN stream_map AS m USING (origin, connection_id, sid)
        ON CONFLICT DO NOTHING
        RETURNING 1
    )
    SELECT count(*), 0 FROM done
"""

_SOURCES: Final = (
    "JOIN origin_sources AS o ON o.origin = s.origin AND o.local_id = s.source_id"
    " JOIN sources AS p ON p.name = o.name"
)

# REST rounds the time of a trade otherwise than the socket does, and a source may give none, so that its
# receipt stands in: the id alone says which trade it is. It is looked for a day around, which keeps old
# partitions out of it. Once a time is known the row moves there, whoever was merged first.
_TRADES: Final = f"""
    WITH known_before AS MATERIALIZED (
        -- Asked once for all: a look for each row would choose among all partitions each time.
        SELECT * FROM trades
        WHERE trade_id = ANY (ARRAY(SELECT trade_id FROM staged_trades))
            AND exchange_at >= (SELECT min(exchange_at) - interval '1 day' FROM staged_trades)
            AND exchange_at <= (SELECT max(exchange_at) + interval '1 day' FROM staged_trades)
    ), seen AS (
        SELECT
            trade_id, exchange_at, exchange_us, received_us, sources, size, ticker, yes_price, taker_side,
            is_block_trade, consistent, true AS is_known
        FROM known_before
        UNION ALL
        SELECT
            s.trade_id, s.exchange_at, s.exchange_us, s.received_us, 1::bigint << (p.source_id - 1), s.size,
            s.ticker, s.yes_price, s.taker_side, s.is_block_trade, s.consistent, false
        FROM staged_trades AS s {_SOURCES}
    ), placed AS MATERIALIZED (
        SELECT *, coalesce(
            min(exchange_at) FILTER (WHERE is_known AND exchange_us IS NOT NULL) OVER same,
            min(exchange_at) FILTER (WHERE exchange_us IS NOT NULL) OVER same,
            min(exchange_at) FILTER (WHERE is_known) OVER same,
            min(exchange_at) OVER same
        ) AS placed_at
        FROM seen WINDOW same AS (PARTITION BY trade_id)
    ), misplaced AS MATERIALIZED (
        SELECT trade_id, exchange_at FROM placed WHERE is_known AND exchange_at <> placed_at
    ), noted AS (
        INSERT INTO misplaced_trades SELECT trade_id, exchange_at FROM misplaced
    ), fresh AS (
        SELECT
            trade_id, placed_at AS exchange_at,
            max(exchange_us) AS exchange_us, min(received_us) AS received_us, bit_or(sources) AS sources,
            min(size) AS size, min(ticker) AS ticker, min(yes_price) AS yes_price,
            min(taker_side) AS taker_side,
            bool_or(is_block_trade) AS is_block_trade, bool_and(consistent) AS consistent,
            bool_or(is_known) AS is_known
        FROM placed
        GROUP BY trade_id, placed_at
    ), done AS (
        INSERT INTO trades AS known
            (exchange_at, exchange_us, received_us, size, sources, yes_price, taker_side, is_block_trade,
             consistent, trade_id, ticker)
        SELECT
            exchange_at, exchange_us, received_us, size, sources, yes_price, taker_side, is_block_trade,
            consistent, trade_id, ticker
        FROM fresh
        ON CONFLICT (trade_id, exchange_at) DO UPDATE SET
            sources = known.sources | excluded.sources,
            -- REST knows it to the microsecond; of nothing and something, something is the greater.
            exchange_us = greatest(known.exchange_us, excluded.exchange_us),
            received_us = least(known.received_us, excluded.received_us),
            ingest = nextval('ingest_order'),
            xid = pg_current_xact_id()
        WHERE known.sources | excluded.sources <> known.sources
            OR excluded.exchange_us > coalesce(known.exchange_us, 0)
            OR excluded.received_us < known.received_us
        RETURNING trade_id, exchange_at, sources
    )
    SELECT
        count(*) FILTER (WHERE NOT fresh.is_known),
        count(*) FILTER (WHERE fresh.is_known),
        (SELECT count(*) FROM misplaced)
    FROM done JOIN fresh USING (trade_id, exchange_at)
"""
# On its own: a deletion would open all partitions each time, and there is nearly never one to do.
_MISPLACED: Final = """
    DELETE FROM trades AS t
    WHERE t.trade_id = ANY (ARRAY(SELECT trade_id FROM misplaced_trades))
        AND t.exchange_at >= (SELECT min(exchange_at) FROM misplaced_trades)
        AND t.exchange_at <= (SELECT max(exchange_at) FROM misplaced_trades)
        AND (t.trade_id, t.exchange_at) IN (SELECT trade_id, exchange_at FROM misplaced_trades)
"""

_TICKERS: Final = f"""
    WITH fresh AS (
        SELECT
            s.ticker, {_EXCHANGE_AT} AS exchange_at, s.digest,
            min(s.exchange_us) AS exchange_us, min(s.received_us) AS received_us,
            {_BIT.replace("source_id", "p.source_id")} AS sources,
            min(s.last_price) AS last_price, min(s.last_size) AS last_size, min(s.volume) AS volume,
            min(s.open_interest) AS open_interest, min(s.dollar_volume) AS dollar_volume,
            min(s.dollar_open_interest) AS dollar_open_interest
        FROM staged_tickers AS s {_SOURCES}
        GROUP BY 1, 2, 3
    ), done AS (
        INSERT INTO tickers AS known
            (exchange_at, exchange_us, received_us, digest, last_size, volume, open_interest, dollar_volume,
             dollar_open_interest, sources, last_price, ticker)
        SELECT
            exchange_at, exchange_us, received_us, digest, last_size, volume, open_interest, dollar_volume,
            dollar_open_interest, sources, last_price, ticker
        FROM fresh
        ON CONFLICT (ticker, exchange_at, digest) DO UPDATE SET
            sources = known.sources | excluded.sources,
            received_us = least(known.received_us, excluded.received_us),
            ingest = nextval('ingest_order'),
            xid = pg_current_xact_id()
        WHERE known.sources | excluded.sources <> known.sources OR excluded.received_us < known.received_us
        RETURNING ticker, exchange_at, digest, sources
    )
    SELECT
        count(*) FILTER (WHERE done.sources = fresh.sources),
        count(*) FILTER (WHERE done.sources <> fresh.sources)
    FROM done JOIN fresh USING (ticker, exchange_at, digest)
"""

_LIFECYCLES: Final = """
    WITH told AS (
        SELECT archive_told(
            s.ticker, s.channel, s.kind, s.body, s.exchange_us, s.received_us, m.stream_id, s.sequence,
            m.source_id
        ) AS outcome
        FROM staged_lifecycles AS s JOIN stream_map AS m USING (origin, connection_id, sid)
    )
    SELECT count(*) FILTER (WHERE outcome = 'new'), count(*) FILTER (WHERE outcome = 'grown') FROM told
"""

_GAPS: Final = f"""
    WITH done AS (
        INSERT INTO gaps AS known
            (gap_id, detected_at, detected_us, healed_us, from_sequence, to_sequence, connection_id, sid,
             markets, source_id, channel, cause, how, tickers, since_us)
        SELECT DISTINCT ON (s.gap_id)
            s.gap_id, {_at("s.received_us")}, s.received_us, s.healed_us, s.from_sequence, s.to_sequence,
            c.connection_id, s.sid, s.markets, p.source_id, s.channel, s.cause, s.how, s.tickers,
            s.since_us
        FROM staged_gaps AS s {_SOURCES}
        LEFT JOIN origins AS n ON n.origin = s.origin AND n.connection_id = s.connection_id
        LEFT JOIN connections AS c ON c.source_id = p.source_id AND c.name = n.name
        ORDER BY s.gap_id, s.xid DESC, s.ingest DESC
        ON CONFLICT (gap_id) DO UPDATE SET
            healed_us = coalesce(excluded.healed_us, known.healed_us),
            how = coalesce(excluded.how, known.how),
            since_us = coalesce(known.since_us, excluded.since_us),
            markets = excluded.markets,
            tickers = excluded.tickers,
            ingest = nextval('ingest_order'),
            xid = pg_current_xact_id()
        WHERE (excluded.healed_us, excluded.how, excluded.markets, excluded.tickers)
            IS DISTINCT FROM (known.healed_us, known.how, known.markets, known.tickers)
            -- Of a ledger that several databases have read, only its own gatherer's knows the last frame.
            OR (known.since_us IS NULL AND excluded.since_us IS NOT NULL)
        RETURNING 1
    )
    SELECT count(*), 0 FROM done
"""

_REACHES: Final = f"""
    WITH done AS (
        INSERT INTO reaches AS known (reader, subject, source_id, received_us)
        SELECT s.reader, s.subject, p.source_id, max(s.received_us)
        FROM staged_reaches AS s {_SOURCES}
        GROUP BY s.reader, s.subject, p.source_id
        ON CONFLICT (reader, subject, source_id) DO UPDATE SET
            received_us = excluded.received_us, ingest = nextval('ingest_order'), xid = pg_current_xact_id()
        WHERE known.received_us < excluded.received_us
        RETURNING 1
    )
    SELECT count(*), 0 FROM done
"""

# The last frame before what is missing, of the same subscription; its own index finds it. What is lost
# with a whole connection began after the last frame of any of its subscriptions.
_SINCE: Final = """(
    SELECT max(f.received_us) FROM (
        (SELECT d.received_us FROM orderbook_deltas AS d
         WHERE d.connection_id = t.connection_id AND d.sid = t.sid AND d.sequence < t.from_sequence
         ORDER BY d.sequence DESC LIMIT 1)
        UNION ALL
        (SELECT d.received_us FROM orderbook_snapshots AS d
         WHERE d.connection_id = t.connection_id AND d.sid = t.sid AND d.sequence < t.from_sequence
         ORDER BY d.sequence DESC LIMIT 1)
        UNION ALL
        (SELECT max(d.received_us) FROM trades AS d
         WHERE d.connection_id = t.connection_id AND d.sid = t.sid AND d.sequence < t.from_sequence
            AND d.exchange_at BETWEEN t.detected_at - interval '10 minutes' AND t.detected_at)
        UNION ALL
        (SELECT max(d.received_us) FROM orderbook_deltas AS d
         WHERE d.connection_id = t.connection_id AND t.from_sequence IS NULL
            AND d.received_us <= t.detected_us
            AND d.received_at BETWEEN t.detected_at - interval '10 minutes' AND t.detected_at)
    ) AS f
)"""

MERGES: Final = (
    Merge(
        "gaps",
        {
            "gap_id": "text",
            "connection_id": "integer",
            "sid": "integer",
            "source_id": "smallint",
            "received_us": "bigint",
            "healed_us": "bigint",
            "from_sequence": "bigint",
            "to_sequence": "bigint",
            "markets": "integer",
            "channel": "text",
            "cause": "text",
            "how": "text",
            "tickers": "text[]",
            "since_us": "bigint",
        },
        _GAPS,
        None,
        {"received_us": "t.detected_us", "since_us": _SINCE},
    ),
    Merge(
        "orderbook_deltas",
        {
            "connection_id": "integer",
            "sid": "integer",
            "sequence": "bigint",
            "received_us": "bigint",
            "exchange_us": "bigint",
            "side": "smallint",
            "price": "integer",
            "change": "bigint",
            "ticker": "text",
        },
        _DELTAS,
        _EXCHANGE_AT,
    ),
    Merge(
        "orderbook_snapshots",
        {
            "connection_id": "integer",
            "sid": "integer",
            "sequence": "bigint",
            "received_us": "bigint",
            "exchange_us": "bigint",
            "kind": "smallint",
            "condition": "smallint",
            "ticker": "text",
            "yes_prices": "integer[]",
            "yes_sizes": "bigint[]",
            "no_prices": "integer[]",
            "no_sizes": "bigint[]",
        },
        _SNAPSHOTS,
        _at("s.received_us"),
    ),
    Merge(
        "trades",
        {
            "connection_id": "integer",
            "sid": "integer",
            "source_id": "smallint",
            "received_us": "bigint",
            "exchange_at": "timestamptz",
            "exchange_us": "bigint",
            "size": "bigint",
            "yes_price": "integer",
            "taker_side": "smallint",
            "is_block_trade": "boolean",
            "consistent": "boolean",
            "trade_id": "text",
            "ticker": "text",
        },
        _TRADES,
        "s.exchange_at",
        tidying=_MISPLACED,
    ),
    Merge(
        "tickers",
        {
            "connection_id": "integer",
            "sid": "integer",
            "source_id": "smallint",
            "received_us": "bigint",
            "exchange_us": "bigint",
            "digest": "bigint",
            "last_price": "integer",
            "last_size": "bigint",
            "volume": "bigint",
            "open_interest": "bigint",
            "dollar_volume": "bigint",
            "dollar_open_interest": "bigint",
            "ticker": "text",
        },
        _TICKERS,
        _EXCHANGE_AT,
    ),
    Merge(
        "lifecycles",
        {
            "connection_id": "integer",
            "sid": "integer",
            "sequence": "bigint",
            "received_us": "bigint",
            "exchange_us": "bigint",
            "ticker": "text",
            "channel": "text",
            "kind": "text",
            "body": "jsonb",
        },
        _LIFECYCLES,
        _EXCHANGE_AT,
    ),
    Merge(
        "reaches",
        {"reader": "text", "subject": "text", "source_id": "smallint", "received_us": "bigint"},
        _REACHES,
        None,
    ),
)
"""
In the order in which they are merged: gaps first, so that no book is called live for want of its gap, and
last how far all that came before it reaches.
"""
