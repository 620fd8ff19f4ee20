"""Rows of gatherers, put into their databases as a writer does, and what production holds, read back."""

import random
from collections.abc import Callable, Iterable
from typing import Any

import psycopg

from kalshibook.archive.dedup import Deduplicator
from kalshibook.archive.merging import (
    TOLD_WITHIN_US,
    Event,
    Merged,
    Place,
    Sighting,
    Stream,
    change_key,
    told_key,
    trade_key,
)
from kalshibook.archive.migrate import Variant
from kalshibook.archive.rows import DeltaRow, LifecycleRow, Row, SnapshotRow, TickerRow, TradeRow
from kalshibook.wire import GapRecord

__all__ = [
    "NOW_US",
    "SOURCES",
    "Facts",
    "MakeArchive",
    "Stage",
    "change",
    "delta",
    "everything",
    "expected",
    "held",
    "store",
    "store_gaps",
    "told",
    "trade",
]

MakeArchive = Callable[[Variant], str]

SOURCES = ("a", "b", "c")
NOW_US = 1_790_000_000_000_000

Facts = set[tuple[Any, ...]]

_AT = "timestamptz 'epoch' + %s * interval '1 microsecond'"


def delta(source: str, number: int, what: DeltaRow, connection: str = "c1", sid: int = 1) -> DeltaRow:
    """Return a change as one more source saw it."""
    return what._replace(
        source=source,
        connection=f"{source}.{connection}",
        sid=sid,
        sequence=number,
        received_us=NOW_US + number,
    )


def change(
    price: int, size: int, at_us: int | None = NOW_US, *, side: int = 1, ticker: str = "KXA-1"
) -> DeltaRow:
    """Return a change that nobody has seen yet."""
    return DeltaRow("", "", 1, 0, 0, at_us, ticker, side, price, size)


def trade(source: str, number: int, trade_id: str, at_us: int | None = NOW_US) -> TradeRow:
    """Return a trade as a source saw it."""
    connection, received_us = f"{source}.c1", NOW_US + number
    return TradeRow(
        source, connection, 2, number, received_us, at_us, "KXA-1", trade_id, 4_000, 100, 1, False, True
    )


def told(source: str, number: int, kind: str, at_us: int) -> LifecycleRow:
    """Return a lifecycle message as a source saw it."""
    body = f'{{"market_ticker":"KXA-1","event_type":"{kind}"}}'
    channel = "market_lifecycle_v2"
    return LifecycleRow(source, f"{source}.c1", 3, number, at_us + 1_000, at_us, "KXA-1", channel, kind, body)


def store(dsn: str, rows: Iterable[Row], connection: psycopg.Connection[Any] | None = None) -> None:
    """Insert rows in one transaction; those that are there already are left alone."""
    if connection is None:
        with psycopg.connect(dsn) as own:
            store(dsn, rows, own)
        return
    for row in rows:
        source_id = _source(connection, row.source)
        connection_id = None if row.connection is None else _connection(connection, source_id, row.connection)
        _insert(connection, row, source_id, connection_id)


def store_gaps(dsn: str, gaps: Iterable[GapRecord]) -> None:
    """Write gap records as they come from their topic."""
    with psycopg.connect(dsn) as connection:
        for gap in gaps:
            source_id = _source(connection, gap.source)
            connection.execute(
                "INSERT INTO gaps (gap_id, detected_at, detected_us, healed_us, from_sequence, to_sequence,"
                " connection_id, sid, markets, source_id, channel, cause, how, tickers)"
                f" VALUES (%s, {_AT}, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
                " ON CONFLICT (gap_id) DO UPDATE SET healed_us = excluded.healed_us, how = excluded.how,"
                " ingest = nextval('ingest_order'), xid = pg_current_xact_id()",
                [
                    *(gap.id, gap.detected_us, gap.detected_us, gap.healed_us, gap.from_sequence),
                    *(gap.to_sequence, _connection(connection, source_id, gap.connection), gap.sid),
                    *(gap.markets, source_id, gap.channel, gap.cause, gap.how, list(gap.tickers)),
                ],
            )


def expected(rows: Iterable[Row]) -> Facts:
    """Return what production must hold of these rows, by the pure rule."""
    merged = Merged()
    merged.add(sighting for row in rows if (sighting := _sighting(row)) is not None)
    return {(event.key, event.count, event.sources, _places(event)) for event in merged}


def held(dsn: str) -> Facts:
    """Return the changes, trades and lifecycle messages of production in the same terms."""
    found: Facts = set()
    with psycopg.connect(dsn) as connection:
        names: dict[int, str] = dict(connection.execute("SELECT source_id, name FROM sources").fetchall())
        streams = {
            number: (source, name, sid)
            for number, source, name, sid in connection.execute(
                "SELECT stream_id, s.name, c.name, sid FROM streams"
                " JOIN connections AS c USING (connection_id) JOIN sources AS s USING (source_id)"
            )
        }
        for *key, count, bits, numbers, sequences in connection.execute(
            "SELECT ticker, coalesce(exchange_us, received_us), side, price, change, count, sources, streams,"
            " sequences FROM orderbook_deltas"
        ):
            places = _of(streams, numbers, sequences)
            found.add((change_key(*key), count, _who(names, bits), places))
        for trade_id, bits in connection.execute("SELECT trade_id, sources FROM trades"):
            found.add((trade_key(trade_id), 1, _who(names, bits), None))
        for ticker, kind, count, bits, numbers, sequences in connection.execute(
            "SELECT ticker, kind, count, sources, streams, sequences FROM lifecycles"
        ):
            places = _of(streams, numbers, sequences)
            found.add((told_key(ticker, kind), count, _who(names, bits), places))
    return found


def _sighting(row: Row) -> Sighting | None:
    if isinstance(row, (SnapshotRow, TickerRow)):
        return None
    at_us = row.received_us if row.exchange_us is None else row.exchange_us
    place = Place(Stream(row.source, row.connection or "", row.sid or 0), row.sequence or 0)
    if isinstance(row, DeltaRow):
        key = change_key(row.ticker, at_us, row.side, row.price, row.change)
        return Sighting(key, at_us, place, row.received_us)
    if isinstance(row, TradeRow):
        # Its id is all there is to it: the same id under another number is the same trade.
        return Sighting(trade_key(row.trade_id), at_us, place._replace(number=0), row.received_us)
    return Sighting(told_key(row.ticker, row.kind), at_us, place, row.received_us, told=True)


def _places(event: Event) -> frozenset[tuple[str, str, int, int]] | None:
    # Of a trade only its sources are kept: its id says all that the places would.
    if len(event.key) == 1:
        return None
    return frozenset((*place.stream, place.number) for place in event.places)


def _of(
    streams: dict[int, tuple[str, str, int]], numbers: list[int], sequences: list[int]
) -> frozenset[tuple[str, str, int, int]]:
    found = frozenset(
        (*streams[number], sequence) for number, sequence in zip(numbers, sequences, strict=True)
    )
    assert len(found) == len(numbers), "a sighting stands in a row once"
    return found


def _who(names: dict[int, str], bits: int) -> frozenset[str]:
    return frozenset(name for number, name in names.items() if bits >> (number - 1) & 1)


def _source(connection: psycopg.Connection[Any], name: str) -> int:
    return _named(connection, "sources", "source_id", {"name": name})


def _connection(connection: psycopg.Connection[Any], source_id: int, name: str) -> int:
    return _named(connection, "connections", "connection_id", {"source_id": source_id, "name": name})


def _named(connection: psycopg.Connection[Any], table: str, number: str, values: dict[str, object]) -> int:
    where = " AND ".join(f"{column} = %s" for column in values)
    found = connection.execute(f"SELECT {number} FROM {table} WHERE {where}", [*values.values()]).fetchone()
    if found is None:
        marks = ", ".join(["%s"] * len(values))
        found = connection.execute(
            f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks}) RETURNING {number}",
            [*values.values()],
        ).fetchone()
    assert found is not None
    return int(found[0])


_TABLES = {
    DeltaRow: ("orderbook_deltas", "received_at"),
    SnapshotRow: ("orderbook_snapshots", "received_at"),
    TradeRow: ("trades", "exchange_at"),
    TickerRow: ("tickers", "received_at"),
    LifecycleRow: ("lifecycles", "received_at"),
}


def _insert(connection: psycopg.Connection[Any], row: Row, source_id: int, connection_id: int | None) -> None:
    table, time_column = _TABLES[type(row)]
    values = row._asdict()
    del values["source"], values["connection"]
    values |= {"source_id": source_id, "connection_id": connection_id}
    values = {name: [*value] if isinstance(value, tuple) else value for name, value in values.items()}
    moment_us = row.received_us
    if isinstance(row, TradeRow):
        moment_us = (row.received_us if row.exchange_us is None else row.exchange_us) // 1_000 * 1_000
    connection.execute(f"SELECT archive_ensure_chunk('{table}', {_AT})", [moment_us])
    marks = ", ".join(["%s"] * len(values))
    connection.execute(
        f"INSERT INTO {table} ({time_column}, {', '.join(values)}) VALUES ({_AT}, {marks})"
        " ON CONFLICT DO NOTHING",
        [moment_us, *values.values()],
    )


class Stage:
    """Three gatherers' databases and production."""

    def __init__(self, new_archive: MakeArchive) -> None:
        self.sources = {name: new_archive("local") for name in SOURCES}
        self.production = new_archive("production")
        self.rows: list[Row] = []

    def store(self, *rows: Row) -> None:
        """Let the gatherers see something, each in a transaction of its own."""
        for name in SOURCES:
            mine = [row for row in rows if row.source == name]
            if mine:
                store(self.sources[name], mine)
        self.rows += rows

    def merge(self, **options: Any) -> None:
        """Merge all that is there."""
        with Deduplicator(self.sources, self.production, **options) as dedup:
            dedup.drain()

    def clear(self) -> None:
        """Begin again, in the same databases."""
        self.rows = []
        for dsn in (*self.sources.values(), self.production):
            with psycopg.connect(dsn) as connection:
                connection.execute(
                    "TRUNCATE orderbook_deltas, trades, lifecycles, cursors, connections CASCADE"
                )

    def check(self) -> None:
        """Compare production with what the rule says of all rows ever stored."""
        assert expected(self.rows) == held(self.production)


def everything(seed: int, events: int = 40) -> list[Row]:
    """Return what three gatherers saw, each with losses, twins and connections of its own."""
    chance = random.Random(seed)
    rows: list[Row] = []
    numbers = dict.fromkeys(SOURCES, 0)
    for event in range(events):
        what = change(
            chance.choice([4_000, 4_100]), chance.choice([100, -100]), NOW_US + chance.randrange(3) * 1_000
        )
        for source in SOURCES:
            for _ in range(chance.choice([1, 1, 1, 2])):
                numbers[source] += 1
                if chance.random() < 0.8:
                    rows.append(delta(source, numbers[source], what, f"c{1 + event // 20}"))
            if chance.random() < 0.7:
                rows.append(trade(source, event, f"t-{event % 15}"))
            if chance.random() < 0.4:
                at_us = NOW_US + chance.randrange(8) * TOLD_WITHIN_US * 2 // 5
                rows.append(told(source, event, chance.choice(["deactivated", "activated"]), at_us))
    chance.shuffle(rows)
    return rows
