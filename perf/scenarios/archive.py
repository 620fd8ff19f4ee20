"""
What it costs to keep everything: the archive's writer against bare COPY of the same rows.

The server is a PostgreSQL of this run, with its promises kept: fsync on, every batch committed.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Final

import psycopg
from tests.archive.postgres import DatabaseUnavailable, PostgresServer

from kalshibook.archive.database import Connection, connect
from kalshibook.archive.entries import Entry
from kalshibook.archive.options import ArchiveOptions
from kalshibook.archive.rows import DeltaRow
from kalshibook.archive.storing import BatchStore
from kalshibook.archive.tables import COPY_END, COPY_START, TABLES, Numbers
from kalshibook.archive.upkeep import prepare
from kalshibook.archive.writer import ArchiveWriter
from perf.context import Context
from perf.measures import percentiles
from perf.result import Check, Goal, Measurement, ScenarioResult, Table

__all__ = ["run"]

_BATCH: Final = 1_000
_RATE: Final = 6_000
_MARKETS: Final = 5_000
_ROUNDS: Final = 3
_DELTAS: Final = TABLES["orderbook_deltas"]


def run(context: Context) -> ScenarioResult:
    """Measure the writer, or say why there is no database to measure it on."""
    title = "An archive's writer on PostgreSQL: rows a second, and how far behind it runs."
    try:
        # On the disk, where an archive would be.
        folder = Path(mkdtemp(prefix="kalshibook-postgres-"))
        server = PostgresServer(folder, fsync="on", shared_buffers="256MB", max_wal_size="4GB")
    except DatabaseUnavailable as missing:
        return ScenarioResult(name="archive", title=title, notes=(f"Not measured: {missing}",))
    count, seconds = (50_000, 5) if context.quick else (200_000, 30)
    with server:
        described = server.described
        entries = _entries(count, context.seed)
        rates: dict[str, list[float]] = {"bare": [], "indexed": [], "writer": []}
        for number in range(_ROUNDS):
            # In turn, so that what else the machine does meets all of them.
            context.step("archive: COPY and writer", number / _ROUNDS)
            rates["bare"].append(_copied(server, entries, indexed=False))
            rates["indexed"].append(_copied(server, entries, indexed=True))
            rates["writer"].append(_written(server, entries))
        context.step(f"archive: {_RATE} rows a second for {seconds} s")
        lags, stored = _followed(server, _entries(_RATE * seconds, context.seed + 1))
    bare, indexed, writer = (max(rates[name]) for name in ("bare", "indexed", "writer"))
    lag = percentiles(lags)
    return ScenarioResult(
        name="archive",
        title=title,
        conditions=(
            f"{described}, fsync on, on the machine that writes",
            f"{count:,} deltas of {_MARKETS:,} markets, activity skewed",
            f"{_BATCH:,} rows a transaction, turned into bytes in each case; best of {_ROUNDS}",
            "bare: COPY into a table of the same columns without keys and indexes",
            "with keys: COPY into the archive's own partitioned table, and nothing else",
            "writer: names looked up, partitions looked after, duplicates expected, cursors, savepoints",
        ),
        measurements=(
            Measurement("bare COPY", bare, "rows/s"),
            Measurement("COPY into the table with its keys", indexed, "rows/s"),
            Measurement("writer", writer, "rows/s"),
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
                        number,
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


def _followed(server: PostgresServer, entries: list[Entry]) -> tuple[list[float], int]:
    """Offer rows at an even rate, and look how old the oldest that is not stored is."""
    lags: list[float] = []
    step = _RATE // 100
    pause = threading.Event()
    with _database(server) as (dsn, _), TemporaryDirectory() as folder:
        writer = ArchiveWriter(ArchiveOptions(dsn=dsn, batch_rows=_BATCH, spill_folder=folder))
        offered_at: list[float] = []
        with writer:
            started = time.perf_counter()
            for first in range(0, len(entries), step):
                due = started + first / _RATE
                pause.wait(max(due - time.perf_counter(), 0.0))
                now = time.perf_counter()
                for entry in entries[first : first + step]:
                    offered_at.append(now)
                    writer.offer(entry)
                processed = writer.statistics().processed
                if processed < len(offered_at):
                    lags.append((now - offered_at[processed]) * 1_000)
        return sorted(lags), writer.statistics().rows.stored
