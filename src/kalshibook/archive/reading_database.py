"""A database to read from: a gatherer's own, or production."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, Final, Self, cast, final

import psycopg

from kalshibook.archive.database import parsed
from kalshibook.archive.describing import DescribedTable, Description
from kalshibook.archive.gaps import Coverage, Gap, Seen, coverage_of
from kalshibook.archive.rebuild import (
    NEAR_US,
    SIDES,
    KnownChange,
    KnownSnapshot,
    KnownTrade,
    Sum,
    added_up,
    latest_first,
    sums,
)
from kalshibook.errors import ArchiveError

__all__ = ["PRODUCTION_STREAMS", "DatabaseArchive"]

_CANDIDATES: Final = 64


@final
class DatabaseArchive:
    """
    A gatherer's database, or production; one thread uses it.

    Args:
        dsn: its address.
    """

    def __init__(self, dsn: str) -> None:
        self._connection: psycopg.Connection[tuple[Any, ...]] = psycopg.connect(parsed(dsn), autocommit=True)
        row = self._connection.execute(
            "SELECT to_regclass('orderbook_deltas') IS NOT NULL, to_regclass('streams') IS NOT NULL"
        ).fetchone()
        assert row is not None
        if not row[0]:
            self._connection.close()
            raise ArchiveError("the database holds no archive; `kalshibook archive migrate` makes one")
        self.is_production: Final = bool(row[1])
        self._queries: Final = _PRODUCTION if self.is_production else _LOCAL

    def __enter__(self) -> Self:
        """Use it."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database."""
        self._connection.close()

    def snapshots_before(self, ticker: str, at_us: int) -> Sequence[KnownSnapshot]:
        """Return the last snapshots up to a time, the latest first."""
        rows = self._connection.execute(
            self._queries["snapshots"], {"ticker": ticker, "at": at_us, "near": NEAR_US, "most": _CANDIDATES}
        ).fetchall()
        found = [
            KnownSnapshot(
                ticker,
                int(time_us),
                ((_stream(connection, sid), int(sequence)),),
                tuple(zip(yes_prices, yes_sizes, strict=True)),
                tuple(zip(no_prices, no_sizes, strict=True)),
            )
            for time_us, connection, sid, sequence, yes_prices, yes_sizes, no_prices, no_sizes in rows
        ]
        return latest_first(found)

    def sums_after(self, snapshot: KnownSnapshot, at_us: int) -> Sequence[Sum]:
        """Return what was added since a snapshot, up to and including a time."""
        edge_us = min(at_us, snapshot.at_us + NEAR_US)
        arguments = {
            "ticker": snapshot.ticker,
            "from": snapshot.at_us - NEAR_US,
            "edge": edge_us,
            "at": at_us,
        }
        near = self._near(arguments)
        far = [
            Sum(SIDES[side], price, int(change), int(last_us))
            for side, price, change, last_us in (
                self._connection.execute(self._queries["far"], arguments) if edge_us < at_us else ()
            )
        ]
        return added_up(sums(snapshot, near, at_us), far)

    def coverage(self, ticker: str, from_us: int, until_us: int) -> Coverage:
        """Return who watched a market in a stretch of time."""
        arguments = {"ticker": ticker, "from": from_us, "until": until_us}
        execute = self._connection.execute
        streams: dict[Hashable, tuple[str, int]] = {
            (connection, sid): (str(source), int(last_us))
            for connection, sid, source, last_us in execute(self._queries["streams"], arguments)
        }
        snapshots = [
            Seen((connection, sid), at_us, received_us)
            for connection, sid, at_us, received_us in execute(self._queries["seen"], arguments)
        ]
        by_connection: dict[int, list[tuple[int, int]]] = {}
        for seen in snapshots:
            connection, sid = cast(tuple[int, int], seen.stream)
            by_connection.setdefault(connection, []).append((connection, sid))
        gaps = [
            Gap(
                gap_id,
                tuple({stream for stream in by_connection.get(connection, ()) if sid in {None, stream[1]}}),
                since_us,
                detected_us,
            )
            for gap_id, connection, sid, since_us, detected_us in execute(self._queries["gaps"], arguments)
        ]
        return coverage_of(snapshots, streams, gaps)

    def tickers(self, from_us: int, until_us: int) -> list[str]:
        """Return the markets of which anything is stored in a stretch of time, sorted."""
        arguments = {"from": from_us, "at": until_us}
        return [ticker for (ticker,) in self._connection.execute(self._queries["tickers"], arguments)]

    def changes(self, ticker: str, from_us: int, until_us: int) -> list[KnownChange]:
        """Return a market's changes of a stretch of time, its end exclusive, in no order."""
        arguments = {"ticker": ticker, "from": from_us, "edge": until_us - 1, "at": until_us}
        return [*self._near(arguments)]

    def trades(self, ticker: str, from_us: int, until_us: int) -> list[KnownTrade]:
        """Return a market's trades on the book, of a stretch of time, its end exclusive, in no order."""
        arguments = {"ticker": ticker, "from": from_us, "until": until_us}
        rows = self._connection.execute(_TRADES, arguments)
        return [
            KnownTrade(at_us, trade_id, price, size, None if side is None else SIDES[side])
            for at_us, trade_id, price, size, side in rows
        ]

    def description(self, table: DescribedTable, ticker: str, at_us: int) -> Description | None:
        """Return what a series, an event or a market was at a time; None if it was not described yet."""
        row = self._connection.execute(
            f"SELECT valid_from_us, valid_to_us, body FROM {table} WHERE ticker = %(ticker)s"
            " AND valid_from_us <= %(at)s AND (%(at)s < valid_to_us OR valid_to_us IS NULL)".encode(),
            {"ticker": ticker, "at": at_us},
        ).fetchone()
        return None if row is None else Description(ticker, *row)

    def _near(self, arguments: dict[str, Any]) -> Iterable[KnownChange]:
        rows = self._connection.execute(self._queries["near"], arguments)
        if self.is_production:
            return [
                KnownChange(
                    at_us, SIDES[side], price, change, count, tuple(zip(streams, numbers, strict=True))
                )
                for at_us, side, price, change, count, streams, numbers in _named(rows)
            ]
        # One market on two connections of a gatherer, as while it moves, is told twice.
        places: dict[tuple[int, int, int, int], list[tuple[Hashable, int]]] = {}
        for at_us, side, price, change, connection, sid, sequence in rows:
            places.setdefault((at_us, side, price, change), []).append((_stream(connection, sid), sequence))
        return [
            KnownChange(at_us, SIDES[side], price, change, _most(seen), tuple(seen))
            for (at_us, side, price, change), seen in places.items()
        ]


def _named(rows: Iterable[tuple[Any, ...]]) -> Iterable[tuple[Any, ...]]:
    for at_us, side, price, change, count, connections, sids, sequences in rows:
        streams = [_stream(connection, sid) for connection, sid in zip(connections, sids, strict=True)]
        yield at_us, side, price, change, count, streams, sequences


def _stream(connection: object, sid: object) -> tuple[int, int]:
    return int(str(connection)), int(str(sid))


def _most(places: Iterable[tuple[Hashable, int]]) -> int:
    return max(Counter(stream for stream, _ in places).values())


_MOMENT: Final = "timestamptz 'epoch' + {} * interval '1 microsecond'"
_AT: Final = "coalesce(t.exchange_us, t.received_us)"
_SNAPSHOTS: Final = f"""
    SELECT {_AT}, t.connection_id, t.sid, t.sequence, t.yes_prices, t.yes_sizes, t.no_prices, t.no_sizes
    FROM orderbook_snapshots AS t
    WHERE t.ticker = %(ticker)s AND t.kind <> 3 AND t.condition = 2 AND {_AT} <= %(at)s
        AND t.received_at <= {_MOMENT.format("(%(at)s::bigint + %(near)s)")}
    ORDER BY t.received_at DESC LIMIT %(most)s
"""
_TRADES: Final = f"""
    SELECT {_AT}, t.trade_id, t.yes_price, t.size, t.taker_side FROM trades AS t
    WHERE t.ticker = %(ticker)s AND t.exchange_at >= {_MOMENT.format("(%(from)s::bigint - 1001000)")}
        AND {_AT} >= %(from)s AND {_AT} < %(until)s AND NOT t.is_block_trade
"""
_SEEN: Final = f"""
    SELECT t.connection_id, t.sid, {_AT}, t.received_us FROM orderbook_snapshots AS t
    WHERE t.ticker = %(ticker)s AND t.kind = 1
        AND t.received_at >= {_MOMENT.format("(%(from)s::bigint - 172800000000)")}
        AND t.received_at <= {_MOMENT.format("(%(until)s::bigint + 3600000000)")}
"""
_OVERLAPPING: Final = """
    (t.tickers = '{}' OR %(ticker)s = ANY (t.tickers)) AND t.channel IN ('orderbook_delta', '')
    AND t.detected_us >= %(from)s - 172800000000 AND t.connection_id IS NOT NULL
"""
PRODUCTION_STREAMS: Final = """
    SELECT t.connection_id, t.sid, s.name,
        least(max(t.last_us) OVER (PARTITION BY t.connection_id), r.reach_us)
    FROM streams AS t JOIN connections AS c USING (connection_id) JOIN sources AS s USING (source_id)
    LEFT JOIN source_reaches AS r USING (source_id)
"""
"""Every subscription, its source, and until when its connection was watched."""
_PRODUCTION: Final = {
    "tickers": f"""
        SELECT DISTINCT ticker FROM orderbook_deltas AS t
        WHERE t.exchange_at >= {_MOMENT.format("%(from)s::bigint")}
            AND t.exchange_at <= {_MOMENT.format("%(at)s::bigint")}
        UNION SELECT DISTINCT ticker FROM orderbook_snapshots AS t
        WHERE t.received_at >= {_MOMENT.format("%(from)s::bigint")}
            AND t.received_at <= {_MOMENT.format("%(at)s::bigint")}
        ORDER BY 1
    """,
    "snapshots": _SNAPSHOTS,
    "seen": _SEEN,
    "near": f"""
        SELECT {_AT}, t.side, t.price, t.change, t.count,
            ARRAY(SELECT s.connection_id FROM unnest(t.streams) WITH ORDINALITY AS u (id, n)
                JOIN streams AS s ON s.stream_id = u.id ORDER BY n),
            ARRAY(SELECT s.sid FROM unnest(t.streams) WITH ORDINALITY AS u (id, n)
                JOIN streams AS s ON s.stream_id = u.id ORDER BY n),
            t.sequences
        FROM orderbook_deltas AS t
        WHERE t.ticker = %(ticker)s AND t.exchange_at >= {_MOMENT.format("%(from)s::bigint")}
            AND t.exchange_at <= {_MOMENT.format("%(edge)s::bigint")}
    """,
    "far": f"""
        SELECT t.side, t.price, sum(t.change * t.count), max({_AT}) FROM orderbook_deltas AS t
        WHERE t.ticker = %(ticker)s AND t.exchange_at > {_MOMENT.format("%(edge)s::bigint")}
            AND t.exchange_at <= {_MOMENT.format("%(at)s::bigint")}
        GROUP BY t.side, t.price
    """,
    "streams": PRODUCTION_STREAMS,
    "gaps": f"""
        SELECT t.gap_id, t.connection_id, t.sid, t.since_us, t.detected_us FROM gaps AS t
        WHERE {_OVERLAPPING} AND coalesce(t.since_us, t.detected_us) <= %(until)s + 120000000
    """,
}
# A gatherer's own rows are partitioned by receipt; an hour on either side covers any delay.
_RECEIVED: Final = f"""
    t.received_at BETWEEN {_MOMENT.format("(%(from)s::bigint - 3600000000)")}
    AND {_MOMENT.format("(%(at)s::bigint + 3600000000)")}
"""
_LOCAL: Final = {
    "tickers": f"""
        SELECT DISTINCT ticker FROM orderbook_deltas AS t WHERE {_RECEIVED}
        UNION SELECT DISTINCT ticker FROM orderbook_snapshots AS t WHERE {_RECEIVED}
        ORDER BY 1
    """,
    "snapshots": _SNAPSHOTS,
    "seen": _SEEN,
    "near": f"""
        SELECT {_AT}, t.side, t.price, t.change, t.connection_id, t.sid, t.sequence FROM orderbook_deltas AS t
        WHERE t.ticker = %(ticker)s AND {_RECEIVED} AND {_AT} >= %(from)s AND {_AT} <= %(edge)s
    """,
    "far": f"""
        SELECT side, price, sum(change * count), max(at) FROM (
            SELECT side, price, change, at, max(count) AS count FROM (
                SELECT t.side, t.price, t.change, {_AT} AS at, t.connection_id, t.sid, count(*) AS count
                FROM orderbook_deltas AS t
                WHERE t.ticker = %(ticker)s AND {_RECEIVED} AND {_AT} > %(edge)s AND {_AT} <= %(at)s
                GROUP BY 1, 2, 3, 4, 5, 6
            ) AS by_stream
            GROUP BY side, price, change, at
        ) AS events
        GROUP BY side, price
    """,
    "streams": """
        SELECT f.connection_id, f.sid, s.name,
            least(max(f.last_us) OVER (PARTITION BY f.connection_id), r.reach_us)
        FROM (
            SELECT connection_id, sid, max(received_us) AS last_us
            FROM (
                SELECT connection_id, sid, received_us, received_at FROM orderbook_deltas
                UNION ALL SELECT connection_id, sid, received_us, received_at FROM orderbook_snapshots
                UNION ALL SELECT connection_id, sid, received_us, received_at FROM tickers
            ) AS frames
            WHERE received_at >=
                timestamptz 'epoch' + (%(from)s::bigint - 86400000000) * interval '1 microsecond'
            GROUP BY connection_id, sid
        ) AS f JOIN connections AS c USING (connection_id) JOIN sources AS s USING (source_id)
        LEFT JOIN source_reaches AS r USING (source_id)
    """,
    "gaps": f"""
        SELECT t.gap_id, t.connection_id, t.sid, NULL::bigint, t.detected_us FROM gaps AS t
        WHERE {_OVERLAPPING} AND t.detected_us <= %(until)s + 120000000
    """,
}
