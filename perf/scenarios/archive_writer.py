"""
What it costs to keep everything: the archive's writer against bare COPY of the same rows.

Frames are stored with and without the journal that they pass through in a gatherer. The server is a
PostgreSQL of this run, with its promises kept: fsync on, every batch committed.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Final

import msgspec
import psycopg
from tests.archive.postgres import DatabaseUnavailable, PostgresServer

from kalshibook.archive.database import Connection, connect
from kalshibook.archive.entries import Entry
from kalshibook.archive.options import ArchiveOptions
from kalshibook.archive.rows import DeltaRow, Identity, rows_of_event
from kalshibook.archive.sink import ArchiveSink
from kalshibook.archive.storing import BatchStore
from kalshibook.archive.tables import COPY_END, COPY_START, TABLES, Numbers
from kalshibook.archive.upkeep import prepare
from kalshibook.gather.records import Received, SinkCounts
from kalshibook.numbers import format_price, format_size
from kalshibook.wire import decode_frame, read_frame
from perf.context import Context
from perf.measures import percentiles
from perf.result import Check, Goal, Measurement, ScenarioResult, Table

__all__ = ["run"]

_BATCH: Final = 1_000
_RATE: Final = 6_000
_MARKETS: Final = 5_000
_ROUNDS: Final = 2
_DELTAS: Final = TABLES["orderbook_deltas"]


def run(context: Context) -> ScenarioResult:
    """Measure the writer, or say why there is no database to measure it on."""
    title = "An archive's writer on PostgreSQL: rows a second, and how far behind it runs."
    try:
        # On the disk, where an archive would be.
        folder = Path(mkdtemp(prefix="kalshibook-postgres-"))
        server = PostgresServer(folder, fsync="on", shared_buffers="256MB", max_wal_size="4GB")
    except DatabaseUnavailable as missing:
        return ScenarioResult(name="archive-writer", title=title, notes=(f"Not measured: {missing}",))
    count, seconds, rounds = (50_000, 5, 1) if context.quick else (200_000, 12, _ROUNDS)
    with server:
        described = server.described
        entries = _entries(count, context.seed)
        rates: dict[str, list[float]] = {"bare": [], "indexed": [], "writer": []}
        for number in range(rounds):
            # In turn, so that what else the machine does meets all of them.
            context.step("archive-writer: COPY and writer", number / rounds)
            rates["bare"].append(_copied(server, entries, indexed=False))
            rates["indexed"].append(_copied(server, entries, indexed=True))
            rates["writer"].append(_written(server, entries))
        frames = _frames(count // 2, context.seed)
        costs: dict[str, list[tuple[float, float]]] = {"direct": [], "journal": []}
        for number in range(rounds):
            context.step("archive-writer: with and without the journal", number / rounds)
            costs["direct"].append(_direct(server, frames))
            costs["journal"].append(_journaled(server, frames))
        context.step(f"archive-writer: {_RATE} rows a second for {seconds} s")
        lags, windows, stored = _followed(server, _frames(_RATE * seconds, context.seed + 1))
    direct, journal = (tuple(map(min, zip(*costs[name], strict=True))) for name in ("direct", "journal"))
    bare, indexed, writer = (max(rates[name]) for name in ("bare", "indexed", "writer"))
    lag, window = percentiles(lags), percentiles(windows)
    return ScenarioResult(
        name="archive-writer",
        title=title,
        conditions=(
            f"{described}, fsync on, on the machine that writes",
            f"{count:,} deltas of {_MARKETS:,} markets, activity skewed",
            f"{_BATCH:,} rows a transaction, turned into bytes in each case; best of {rounds}",
            "bare: COPY into a table of the same columns without keys and indexes",
            "with keys: COPY into the archive's own partitioned table, and nothing else",
            "writer: names looked up, partitions looked after, duplicates expected, cursors, savepoints",
            "frames: decoded and stored, by a gatherer's sink through its journal, or by the store alone",
        ),
        measurements=(
            Measurement("bare COPY", bare, "rows/s"),
            Measurement("COPY into the table with its keys", indexed, "rows/s"),
            Measurement("writer", writer, "rows/s"),
            Measurement("frames without the journal, CPU of this process", direct[1], "us/frame"),
            Measurement("frames through the journal, CPU of this process", journal[1], "us/frame"),
            Measurement("frames without the journal", 1e6 / direct[0], "frames/s"),
            Measurement("frames through the journal", 1e6 / journal[0], "frames/s"),
            Measurement(
                "what a kill takes, p99",
                window["p99"],
                "ms",
                f"{_RATE:,} frames/s; from the offer to the journal, as the oldest waits",
            ),
            Measurement(
                "lag, p99",
                lag["p99"],
                "ms",
                f"{_RATE:,} rows/s; from the offer to the commit, as the oldest waits",
            ),
        ),
        tables=(
            Table(
                f"lag at {_RATE:,} rows/s, ms",
                tuple(lag),
                (tuple(lag.values()),),
            ),
            Table(
                f"not in the journal yet at {_RATE:,} frames/s, ms",
                tuple(window),
                (tuple(window.values()),),
            ),
        ),
        goals=(
            Goal(
                text="the writer at least half of bare COPY",
                value=writer / bare,
                limit=0.5,
                at_most=False,
                reason="a key against doubles, a commit order and a search by market are three indexes",
            ),
            Goal(
                text="the writer at least 0.8 of COPY into the same table",
                value=writer / indexed,
                limit=0.8,
                at_most=False,
                reason="rows become bytes in Python, names are looked up and cursors kept",
            ),
            Goal(text=f"lag at {_RATE:,} rows/s under 2 s", value=lag["max"], limit=2_000, unit="ms"),
        ),
        checks=(
            Check(
                "every row that was offered is stored, once",
                stored == _RATE * seconds,
                f"{stored} of {_RATE * seconds}",
            ),
        ),
    )


def _entries(count: int, seed: int) -> list[Entry]:
    dice = random.Random(seed)
    start_us = time.time_ns() // 1_000
    tickers = [f"KXHIGHNY-26NOV26-T{number:05d}.5" for number in range(_MARKETS)]
    weights = [1 / (number + 1) for number in range(_MARKETS)]
    chosen = dice.choices(tickers, weights, k=count)
    return [
        Entry(
            "perf",
            b'{"type":"orderbook_delta"}',
            (
                DeltaRow(
                    *(
                        "gatherer-1",
                        f"c{seed}",
                        2,
                        number + 1,
                        start_us + number * 20,
                        start_us + number * 20 - 5_000,
                    ),
                    *(
                        chosen[number],
                        1 + number % 2,
                        dice.randrange(1, 10_000),
                        dice.randrange(-9_999, 9_999),
                    ),
                ),
            ),
        )
        for number in range(count)
    ]


@contextmanager
def _database(server: PostgresServer) -> Iterator[tuple[str, Connection]]:
    dsn = server.create_database()
    with connect(dsn) as connection:
        prepare(connection, ArchiveOptions(dsn=dsn))
        yield dsn, connection
    with psycopg.connect(server.dsn, autocommit=True) as connection_:
        connection_.execute(f"DROP DATABASE {dsn.rpartition('/')[2].partition('?')[0]} WITH (FORCE)".encode())
        # What one leaves to be written shall not be written while the next is measured.
        connection_.execute("CHECKPOINT")


def _copied(server: PostgresServer, entries: list[Entry], *, indexed: bool) -> float:
    with _database(server) as (_, connection):
        name = _DELTAS.name
        if not indexed:
            name = "bare"
            connection.execute(
                f"CREATE TABLE bare AS SELECT {_DELTAS.column_list} FROM {_DELTAS.name}".encode()
            )
        statement = f"COPY {name} ({_DELTAS.column_list}) FROM STDIN (FORMAT BINARY)".encode()
        numbers = Numbers(1, 1)

        def store(batch: list[Entry]) -> None:
            with connection.cursor().copy(statement) as copy:
                rows = [_DELTAS.encode(row, numbers) for entry in batch for row in entry.rows]
                copy.write(COPY_START + b"".join(rows) + COPY_END)

        return _rate(entries, store)


def _written(server: PostgresServer, entries: list[Entry]) -> float:
    with _database(server) as (dsn, _):
        store = BatchStore(dsn)
        # A new connection stages at first: that is how it begins, and not how it goes on.
        for first in range(60):
            (row,) = entries[0].rows
            assert isinstance(row, DeltaRow)
            store.store([Entry("perf", b"", (row._replace(sequence=-1 - first),))])
        rate = _rate(entries, store.store)
        store.close()
        return rate


def _rate(entries: list[Entry], store: Callable[[list[Entry]], object]) -> float:
    started = time.perf_counter()
    for first in range(0, len(entries), _BATCH):
        store(entries[first : first + _BATCH])
    return len(entries) / (time.perf_counter() - started)


def _frames(count: int, seed: int) -> list[Received]:
    return [_frame(row) for entry in _entries(count, seed) for row in entry.rows if isinstance(row, DeltaRow)]


def _frame(row: DeltaRow) -> Received:
    message = {
        "market_ticker": row.ticker,
        "price_dollars": format_price(row.price),
        "delta_fp": format_size(row.change),
        "side": "yes" if row.side == 1 else "no",
        "ts_ms": row.received_us // 1_000,
    }
    frame = {"type": "orderbook_delta", "sid": row.sid, "seq": row.sequence, "msg": message}
    return Received(
        msgspec.json.encode(frame),
        row.connection,
        row.received_us,
        "orderbook_delta",
        row.sid,
        row.sequence,
    )


def _direct(server: PostgresServer, frames: list[Received]) -> tuple[float, float]:
    """Return microseconds a frame, of the wall's clock and of this process's CPU, without a journal."""
    with _database(server) as (dsn, _):
        store = BatchStore(dsn)
        started, worked = time.perf_counter(), time.process_time()
        for first in range(0, len(frames), _BATCH):
            store.store([_entry(frame) for frame in frames[first : first + _BATCH]])
        found = time.perf_counter() - started, time.process_time() - worked
        store.close()
    return found[0] / len(frames) * 1e6, found[1] / len(frames) * 1e6


def _entry(frame: Received) -> Entry:
    identity = Identity("gatherer-1", frame.connection, frame.sid or 0, frame.sequence, frame.received_us)
    return Entry("perf", frame.frame, rows_of_event(read_frame(decode_frame(frame.frame)), identity))


def _journaled(server: PostgresServer, frames: list[Received]) -> tuple[float, float]:
    """Return the same with one."""
    pause = threading.Event()
    with _database(server) as (dsn, _), TemporaryDirectory() as folder:
        sink = ArchiveSink(_options(dsn, folder), "gatherer-1", SinkCounts)
        sink.start()
        started, worked = time.perf_counter(), time.process_time()
        for frame in frames:
            sink.offer(frame)
        while sink.statistics().rows.taken < len(frames):
            pause.wait(0.01)
        found = time.perf_counter() - started, time.process_time() - worked
        sink.stop()
    return found[0] / len(frames) * 1e6, found[1] / len(frames) * 1e6


def _options(dsn: str, folder: str) -> ArchiveOptions:
    return ArchiveOptions(dsn=dsn, batch_rows=_BATCH, spill_folder=folder)


def _followed(server: PostgresServer, frames: list[Received]) -> tuple[list[float], list[float], int]:
    """Offer frames at an even rate, and look how old the oldest is that is not stored, or not journaled."""
    lags: list[float] = []
    windows: list[float] = []
    step = _RATE // 100
    pause = threading.Event()
    with _database(server) as (dsn, _), TemporaryDirectory() as folder:
        sink = ArchiveSink(_options(dsn, folder), "gatherer-1", SinkCounts)
        offered_at: list[float] = []
        sink.start()
        started = time.perf_counter()
        for first in range(0, len(frames), step):
            due = started + first / _RATE
            # In between, so that it is seen how soon the last step was journaled.
            while (now := time.perf_counter()) < due:
                found = sink.statistics()
                for ages, done in ((lags, found.rows.taken), (windows, found.processed)):
                    if done < len(offered_at):
                        ages.append((now - offered_at[done]) * 1_000)
                pause.wait(0.002)
            for frame in frames[first : first + step]:
                offered_at.append(now)
                sink.offer(frame)
        sink.stop()
        return sorted(lags), sorted(windows), sink.statistics().rows.stored
