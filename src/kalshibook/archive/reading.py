"""Archives that books are rebuilt from: a database, a gatherer's own or production, and Parquet files."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from types import TracebackType
from typing import Any, Final, Self, cast, final

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pafs

from kalshibook.archive.database import parsed
from kalshibook.archive.gaps import Coverage, Gap, Seen, coverage_of
from kalshibook.archive.rebuild import KnownChange, KnownSnapshot, KnownTrade, Sum, sums
from kalshibook.errors import ArchiveError
from kalshibook.wire import Side

__all__ = ["DatabaseArchive", "ParquetArchive", "open_archive"]

_NEAR_US: Final = 60_000_000
"""How far from a snapshot a change is judged by its numbers; farther away its time is beyond doubt."""

_SIDES: Final[dict[int, Side]] = {1: "yes", 2: "no"}
_CANDIDATES: Final = 64


def open_archive(address: str, options: dict[str, str] | None = None) -> "DatabaseArchive | ParquetArchive":
    """
    Return the archive at an address: ``postgresql://…``, a folder, or ``s3://bucket/prefix``.

    Raises:
        ArchiveError: there is none.
    """
    if address.startswith(("postgresql://", "postgres://")):
        return DatabaseArchive(address)
    return ParquetArchive(address, options)


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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database."""
        self._connection.close()

    def snapshots_before(self, ticker: str, at_us: int) -> Sequence[KnownSnapshot]:
        """Return the last snapshots up to a time, the latest first."""
        rows = self._connection.execute(
            self._queries["snapshots"], {"ticker": ticker, "at": at_us, "near": _NEAR_US, "most": _CANDIDATES}
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
        return sorted(found, key=_when, reverse=True)

    def sums_after(self, snapshot: KnownSnapshot, at_us: int) -> Sequence[Sum]:
        """Return what was added since a snapshot, up to and including a time."""
        edge_us = min(at_us, snapshot.at_us + _NEAR_US)
        arguments = {
            "ticker": snapshot.ticker,
            "from": snapshot.at_us - _NEAR_US,
            "edge": edge_us,
            "at": at_us,
        }
        near = self._near(arguments)
        far = [
            Sum(_SIDES[side], price, int(change), int(last_us))
            for side, price, change, last_us in (
                self._connection.execute(self._queries["far"], arguments) if edge_us < at_us else ()
            )
        ]
        return _added(sums(snapshot, near, at_us), far)

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
            KnownTrade(at_us, trade_id, price, size, None if side is None else _SIDES[side])
            for at_us, trade_id, price, size, side in rows
        ]

    def _near(self, arguments: dict[str, Any]) -> Iterable[KnownChange]:
        rows = self._connection.execute(self._queries["near"], arguments)
        if self.is_production:
            return [
                KnownChange(
                    at_us, _SIDES[side], price, change, count, tuple(zip(streams, numbers, strict=True))
                )
                for at_us, side, price, change, count, streams, numbers in _named(rows)
            ]
        # One market on two connections of a gatherer, as while it moves, is told twice.
        places: dict[tuple[int, int, int, int], list[tuple[Hashable, int]]] = {}
        for at_us, side, price, change, connection, sid, sequence in rows:
            places.setdefault((at_us, side, price, change), []).append((_stream(connection, sid), sequence))
        return [
            KnownChange(at_us, _SIDES[side], price, change, _most(seen), tuple(seen))
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


def _when(snapshot: KnownSnapshot) -> tuple[int, int]:
    return snapshot.at_us, max((number for _, number in snapshot.places), default=0)


def _added(*parts: Iterable[Sum]) -> list[Sum]:
    levels: dict[tuple[Side, int], Sum] = {}
    for part in parts:
        for one in part:
            key = (one.side, one.price)
            held = levels.get(key, Sum(one.side, one.price, 0, 0))
            levels[key] = Sum(*key, held.change + one.change, max(held.last_us, one.last_us))
    return list(levels.values())


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
    "streams": """
        SELECT t.connection_id, t.sid, s.name, max(t.last_us) OVER (PARTITION BY t.connection_id)
        FROM streams AS t JOIN connections AS c USING (connection_id) JOIN sources AS s USING (source_id)
    """,
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
        SELECT f.connection_id, f.sid, s.name, max(f.last_us) OVER (PARTITION BY f.connection_id)
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
    """,
    "gaps": f"""
        SELECT t.gap_id, t.connection_id, t.sid, NULL::bigint, t.detected_us FROM gaps AS t
        WHERE {_OVERLAPPING} AND t.detected_us <= %(until)s + 120000000
    """,
}


@final
class ParquetArchive:
    """
    Files that `kalshibook archive export` has written, in a folder or a bucket.

    Args:
        url: a folder, or ``s3://bucket/prefix``.
        options: of the bucket, as `open_target` takes them.
    """

    def __init__(self, url: str, options: dict[str, str] | None = None) -> None:
        self._files, self._root = _file_system(url, options or {})
        if not self._exists("manifests"):
            raise ArchiveError(f"there is no export at {url}: no folder manifests")

    def __enter__(self) -> Self:
        """Use it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is held open."""

    def snapshots_before(self, ticker: str, at_us: int) -> Sequence[KnownSnapshot]:
        """Return the last snapshots up to a time, the latest first."""
        for hours in (2, 26, 24 * 367):
            found = [
                KnownSnapshot(
                    ticker,
                    time_us,
                    ((row["stream_id"], row["sequence"]),),
                    tuple(zip(row["yes_prices"], row["yes_sizes"], strict=True)),
                    tuple(zip(row["no_prices"], row["no_sizes"], strict=True)),
                )
                for row in self._rows(
                    "orderbook_snapshots", ticker, at_us - hours * 3_600_000_000, at_us + _NEAR_US
                )
                if row["kind"] != _AUDIT and row["condition"] == _LIVE and (time_us := _at_us(row)) <= at_us
            ]
            if found:
                return sorted(found, key=_when, reverse=True)
        return []

    def sums_after(self, snapshot: KnownSnapshot, at_us: int) -> Sequence[Sum]:
        """Return what was added since a snapshot, up to and including a time."""
        rows = self._table("orderbook_deltas", snapshot.ticker, snapshot.at_us - _NEAR_US, at_us)
        if rows is None:
            return []
        time = pc.coalesce(rows["exchange_us"], rows["received_us"])
        edge_us = min(at_us, snapshot.at_us + _NEAR_US)
        near = rows.filter(pc.and_(pc.less_equal(time, edge_us), pc.less_equal(time, at_us)))
        far = rows.filter(pc.and_(pc.greater(time, edge_us), pc.less_equal(time, at_us)))
        changes = [_change(row) for row in near.to_pylist()]
        return _added(sums(snapshot, changes, at_us), _summed(far))

    def coverage(self, ticker: str, from_us: int, until_us: int) -> Coverage:
        """Return who watched a market in a stretch of time."""
        rows = (
            ds.dataset(f"{self._root}/lookups/streams.parquet", filesystem=self._files).to_table().to_pylist()
        )
        last: dict[int, int] = {}
        for row in rows:
            last[row["connection_id"]] = max(row["last_us"], last.get(row["connection_id"], 0))
        streams: dict[Hashable, tuple[str, int]] = {
            row["stream_id"]: (row["source"], last[row["connection_id"]]) for row in rows
        }
        snapshots = [
            Seen(row["stream_id"], _at_us(row), row["received_us"])
            for row in self._rows("orderbook_snapshots", ticker, from_us - _WATCHED_US, until_us + _DELAY_US)
            if row["kind"] == _EXCHANGE
        ]
        gaps = [
            Gap(
                gap["gap_id"],
                tuple(
                    row["stream_id"]
                    for row in rows
                    if row["connection_id"] == gap["connection_id"] and gap["sid"] in {None, row["sid"]}
                ),
                gap["since_us"],
                gap["detected_us"],
            )
            for gap in self._rows("gaps", None, from_us - _WATCHED_US, until_us + _DELAY_US)
            if gap["channel"] in {"orderbook_delta", ""} and (not gap["tickers"] or ticker in gap["tickers"])
        ]
        return coverage_of(snapshots, streams, gaps)

    def tickers(self, from_us: int, until_us: int) -> list[str]:
        """Return the markets of which anything is stored in a stretch of time, sorted."""
        found: set[str] = set()
        for table in ("orderbook_deltas", "orderbook_snapshots", "trades"):
            rows = self._table(table, None, from_us, until_us)
            if rows is not None:
                found.update(pc.unique(rows["ticker"]).to_pylist())
        return sorted(found)

    def changes(self, ticker: str, from_us: int, until_us: int) -> list[KnownChange]:
        """Return a market's changes of a stretch of time, its end exclusive, in no order."""
        rows = self._rows("orderbook_deltas", ticker, from_us, until_us)
        return [_change(row) for row in rows if from_us <= _at_us(row) < until_us]

    def trades(self, ticker: str, from_us: int, until_us: int) -> list[KnownTrade]:
        """Return a market's trades on the book, of a stretch of time, its end exclusive, in no order."""
        return [
            KnownTrade(
                at_us,
                row["trade_id"],
                row["yes_price"],
                row["size"],
                None if row["taker_side"] is None else _SIDES[row["taker_side"]],
            )
            for row in self._rows("trades", ticker, from_us, until_us)
            if from_us <= (at_us := _at_us(row)) < until_us and not row["is_block_trade"]
        ]

    def _rows(self, table: str, ticker: str | None, from_us: int, until_us: int) -> list[dict[str, Any]]:
        found = self._table(table, ticker, from_us, until_us)
        return [] if found is None else [*found.to_pylist()]

    def _table(self, table: str, ticker: str | None, from_us: int, until_us: int) -> pa.Table | None:
        """Read the hours of a stretch; of rows with one key the one that was exported last."""
        if not self._exists(table):
            return None
        paths = [
            info.path
            for info in self._files.get_file_info(pafs.FileSelector(f"{self._root}/{table}", recursive=True))
            if info.path.endswith(".parquet") and _hour_overlaps(info.path, from_us, until_us)
        ]
        if not paths:
            return None
        dataset = ds.dataset(sorted(paths), filesystem=self._files, format="parquet")
        rows = dataset.to_table(filter=None if ticker is None else pc.field("ticker") == ticker)
        return _last_of_each(rows, _KEYS[table])

    def _exists(self, path: str) -> bool:
        return bool(self._files.get_file_info(f"{self._root}/{path}").type != pafs.FileType.NotFound)


_WATCHED_US: Final = 2 * 86_400_000_000
"""How far back the snapshot that begins a watch is looked for: gatherers take one every half hour."""
_DELAY_US: Final = 3_600_000_000
"""Between the exchange's time and the receipt, at most."""
_AUDIT: Final = 3
_EXCHANGE: Final = 1
_LIVE: Final = 2
_KEYS: Final = {
    "orderbook_deltas": ["ticker", "exchange_us", "side", "price", "change"],
    "orderbook_snapshots": ["ticker", "stream_id", "sequence", "kind"],
    "trades": ["trade_id"],
    "gaps": ["gap_id"],
}


def _at_us(row: dict[str, Any]) -> int:
    return int(row["received_us"] if row["exchange_us"] is None else row["exchange_us"])


def _change(row: dict[str, Any]) -> KnownChange:
    return KnownChange(
        _at_us(row),
        _SIDES[row["side"]],
        row["price"],
        row["change"],
        row["count"],
        tuple(zip(row["streams"], row["sequences"], strict=True)),
    )


def _summed(rows: pa.Table) -> list[Sum]:
    time = pc.coalesce(rows["exchange_us"], rows["received_us"])
    total = pc.multiply(rows["change"], rows["count"].cast(pa.int64()))
    table = pa.table({"side": rows["side"], "price": rows["price"], "change": total, "at": time})
    grouped = table.group_by(["side", "price"]).aggregate([("change", "sum"), ("at", "max")])
    return [
        Sum(_SIDES[row["side"]], row["price"], row["change_sum"], row["at_max"])
        for row in grouped.to_pylist()
    ]


def _last_of_each(rows: pa.Table, keys: list[str]) -> pa.Table:
    keyed = rows
    if "exchange_us" in keys:
        # Where the exchange's time is missing the first receipt stands in, as in production's own key.
        at_us = pc.coalesce(rows["exchange_us"], rows["received_us"])
        keyed = rows.set_column(rows.schema.get_field_index("exchange_us"), "exchange_us", at_us)
    last = keyed.select([*keys, "ingest"]).group_by(keys).aggregate([("ingest", "max")])
    if last.num_rows == rows.num_rows:
        return rows
    return rows.filter(pc.is_in(rows["ingest"], value_set=last["ingest_max"].combine_chunks()))


def _hour_overlaps(path: str, from_us: int, until_us: int) -> bool:
    from datetime import UTC, datetime  # noqa: PLC0415

    parts = dict(part.split("=", 1) for part in path.split("/") if "=" in part)
    start = datetime.fromisoformat(f"{parts['date']}T{parts['hour']}:00:00").replace(tzinfo=UTC)
    start_us = int(start.timestamp()) * 1_000_000
    return start_us <= until_us and from_us < start_us + 3_600_000_000


def _file_system(url: str, options: dict[str, str]) -> tuple[pafs.FileSystem, str]:
    if not url.startswith("s3://"):
        return pafs.LocalFileSystem(), url.rstrip("/")
    endpoint = options.get("endpoint", "")
    files = pafs.S3FileSystem(
        access_key=options.get("access_key_id"),
        secret_key=options.get("secret_access_key"),
        region=options.get("region"),
        endpoint_override=endpoint.removeprefix("http://").removeprefix("https://") or None,
        scheme="http" if endpoint.startswith("http://") else "https",
    )
    return files, url.removeprefix("s3://").rstrip("/")
