"""
What it costs to make one archive of three: merging, export, and a book in the middle of a long day.

The server is a PostgreSQL of this run, with fsync on. What is merged is what three gatherers saw of the
same changes, each on a subscription of its own; what it is compared with is the copy of one of them into
a table of the same columns and keys.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg
from tests.archive.postgres import DatabaseUnavailable, PostgresServer

from kalshibook.archive.dedup import Deduplicator
from kalshibook.archive.export import Exporter
from kalshibook.archive.migrate import Variant, migrate
from kalshibook.archive.reading_database import DatabaseArchive
from kalshibook.archive.reading_parquet import ParquetArchive
from kalshibook.archive.rebuild import book_from
from kalshibook.archive.targets import Folder
from kalshibook.store import Condition
from perf.context import Context
from perf.result import Check, Goal, Measurement, ScenarioResult, Table

__all__ = ["run"]

_SOURCES: Final = ("a", "b", "c")
_START_US: Final = 1_790_000_000_000_000
_SPACING_US: Final = 166
_MARKETS: Final = 1_000
_DAY_US: Final = 86_400_000_000
_DAY_DELTAS: Final = 200_000
_TICKER: Final = "KXPERF-26NOV26-T0"
_ROUNDS: Final = 2

# Sizes are such that a level is added to and taken from in turn and never falls below 0.
_CHANGES: Final = """
    INSERT INTO orderbook_deltas
        (received_at, received_us, exchange_us, sequence, change, connection_id, sid, price, source_id, side,
         ticker)
    SELECT
        timestamptz 'epoch' + received_us * interval '1 microsecond', received_us, exchange_us, sequence,
        CASE (i / 198) %% 2 WHEN 0 THEN 500 + i %% 7 ELSE -500 - (i - 198) %% 7 END,
        1, 1, 100 * (1 + i %% 99), 1, 1 + i / 99 %% 2, ticker
    FROM (
        SELECT
            i, %(start)s + i * %(spacing)s + 3000 + %(number)s AS received_us,
            (%(start)s + i * %(spacing)s) / 1000 * 1000 AS exchange_us, i + 1 + %(number)s * 1000 AS sequence,
            CASE WHEN %(markets)s = 1 THEN %(ticker)s ELSE 'KXPERF-26NOV26-T' || (i * 7919 %% %(markets)s) END
                AS ticker
        FROM generate_series(0::bigint, %(count)s - 1) AS i
    ) AS made
"""


def run(context: Context) -> ScenarioResult:
    """Measure all three, or say why there is no database to measure them on."""
    title = "One archive of three: merging, export to Parquet, and a book in the middle of a long day."
    try:
        server = PostgresServer(fsync="on", shared_buffers="256MB", max_wal_size="4GB")
    except DatabaseUnavailable as missing:
        return ScenarioResult(name="archive-production", title=title, notes=(f"Not measured: {missing}",))
    count = 30_000 if context.quick else 120_000
    rounds = 1 if context.quick else _ROUNDS
    with server, tempfile.TemporaryDirectory() as folder:
        described = server.described
        copies, merges, lates = [], [], []
        complete = True
        for number in range(rounds):
            context.step("archive-production: copy of one, merging of three", number / rounds)
            copy, merge, late, right = _merging(server, count)
            complete = complete and right
            copies.append(copy)
            merges.append(merge)
            lates.append(late)
        context.step("archive-production: export and rebuild")
        day = _day(server, Path(folder))
    copy, merge, late = max(copies), max(merges), max(lates)
    return ScenarioResult(
        name="archive-production",
        title=title,
        conditions=(
            f"{described}, fsync on, all databases and both programs on this machine",
            f"{count:,} changes of {_MARKETS:,} markets, seen by three sources; best of {rounds}",
            "copy: rows of one source into a table with production's columns and keys, in one COPY",
            f"day: one market, {_DAY_DELTAS:,} changes in 24 hours, one snapshot at its begin",
        ),
        measurements=(
            Measurement("copy of one", copy, "rows/s"),
            Measurement("merging of three, rows read", merge, "rows/s"),
            Measurement("events made of them", merge / len(_SOURCES), "/s"),
            Measurement("third source merged an hour later, rows read", late, "rows/s"),
            Measurement("export", day.megabytes_per_second, "MB/s", "of what COPY gives as text"),
            Measurement("Parquet", day.bytes_per_delta, "bytes a change", "one source, with who saw it"),
        ),
        tables=(
            Table(
                f"a book 12 hours after its snapshot, {_DAY_DELTAS // 2:,} changes, ms",
                ("archive", "least of 5"),
                tuple((name, round(milliseconds, 1)) for name, milliseconds in day.rebuilt.items()),
            ),
        ),
        goals=(
            Goal(
                text="rows merged from three sources at least a third of the copy of one",
                value=merge / copy,
                limit=0.33,
                at_most=False,
                reason="each event is looked for by its key, and keeps who saw it under which number",
            ),
        ),
        checks=(
            Check("every change is one event that all three saw", complete),
            Check("the book in the middle of the day adds up", day.right),
        ),
    )


class _Day:
    megabytes_per_second = 0.0
    bytes_per_delta = 0.0
    right = True

    def __init__(self) -> None:
        self.rebuilt: dict[str, float] = {}


@contextmanager
def _databases(server: PostgresServer, *variants: Variant) -> Iterator[list[str]]:
    made = [server.create_database() for _ in variants]
    for dsn, variant in zip(made, variants, strict=True):
        with psycopg.connect(dsn) as connection:
            migrate(connection, variant)
    yield made
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        for dsn in made:
            name = dsn.rpartition("/")[2].partition("?")[0]
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
        # What one leaves to be written shall not be written while the next is measured.
        connection.execute("CHECKPOINT")


def _fill(
    dsn: str, number: int, count: int, *, markets: int = _MARKETS, spacing_us: int = _SPACING_US
) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("INSERT INTO sources (name) VALUES (%s)", [_SOURCES[number]])
        connection.execute("INSERT INTO connections (source_id, name) VALUES (1, 'c1')")
        connection.execute(
            "SELECT archive_ensure_chunk('orderbook_deltas', moment) FROM generate_series("
            "timestamptz 'epoch' + %s * interval '1 microsecond',"
            " timestamptz 'epoch' + %s * interval '1 microsecond', interval '1 hour') AS moment",
            [_START_US, _START_US + count * spacing_us + 7_200_000_000],
        )
        connection.execute(
            _CHANGES,
            {
                "start": _START_US,
                "spacing": spacing_us,
                "number": number,
                "markets": markets,
                "ticker": _TICKER,
                "count": count,
            },
        )


def _merging(server: PostgresServer, count: int) -> tuple[float, float, float, bool]:
    """Return rows a second of the copy, the merging and the late merging, and whether all came out right."""
    with _databases(server, "local", "local", "local", "production", "production", "production") as made:
        *sources, production, late_production, copied = made
        for number, dsn in enumerate(sources):
            _fill(dsn, number, count)
        # Once, so that all are read from memory and their visibility is known.
        for dsn in sources:
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute("VACUUM ANALYZE orderbook_deltas")
        copy = _copied(sources[0], copied, count)
        named = dict(zip(_SOURCES, sources, strict=True))
        merge = _merged(named, production) * len(_SOURCES) * count
        first_two = dict(list(named.items())[:2])
        _merged(first_two, late_production)
        late = _merged({"c": named["c"]}, late_production) * count
        complete = True
        for dsn in (production, late_production):
            with psycopg.connect(dsn) as connection:
                found = connection.execute(
                    "SELECT count(*), count(*) FILTER ("
                    "WHERE sources = 7 AND cardinality(sequences) = 3 * count) FROM orderbook_deltas"
                ).fetchone()
            complete = complete and found is not None and found[0] == found[1] > 0
    return copy, merge, late, complete


def _merged(sources: dict[str, str], production: str) -> float:
    """Return how often a second this could be done."""
    with Deduplicator(sources, production) as dedup:
        started = time.perf_counter()
        dedup.drain()
        return 1 / (time.perf_counter() - started)


def _copied(source: str, target: str, count: int) -> float:
    columns = "exchange_at, exchange_us, received_us, change, sources, price, count, side, ticker"
    query = (
        "COPY (SELECT timestamptz 'epoch' + exchange_us * interval '1 microsecond', exchange_us, received_us,"
        " change, 1::bigint, price, 1, side, ticker, ARRAY[1], ARRAY[sequence] FROM orderbook_deltas)"
        " TO STDOUT (FORMAT BINARY)"
    )
    with psycopg.connect(source) as reading, psycopg.connect(target) as writing:
        writing.execute(
            "SELECT archive_ensure_chunk('orderbook_deltas',"
            " timestamptz 'epoch' + %s * interval '1 microsecond')",
            [_START_US],
        )
        started = time.perf_counter()
        into = f"COPY orderbook_deltas ({columns}, streams, sequences) FROM STDIN (FORMAT BINARY)".encode()
        with reading.cursor().copy(query) as rows, writing.cursor().copy(into) as stored:
            for block in rows:
                stored.write(block)
        writing.commit()
        return count / (time.perf_counter() - started)


def _day(server: PostgresServer, folder: Path) -> _Day:
    day = _Day()
    spacing_us = _DAY_US // _DAY_DELTAS
    with _databases(server, "local", "production") as (local, production):
        _fill(local, 0, _DAY_DELTAS, markets=1, spacing_us=spacing_us)
        with psycopg.connect(local) as connection:
            connection.execute(
                "SELECT archive_ensure_chunk('orderbook_snapshots', timestamptz 'epoch'"
                " + %s * interval '1 microsecond')",
                [_START_US],
            )
            connection.execute(
                "INSERT INTO orderbook_snapshots (received_at, received_us, exchange_us, sequence,"
                " connection_id, sid, source_id, kind, condition, ticker, yes_prices, yes_sizes, no_prices,"
                " no_sizes) VALUES (timestamptz 'epoch' + %s * interval '1 microsecond',"
                " %s, %s, 0, 1, 1, 1, 1, 2, %s, '{}', '{}', '{}', '{}')",
                [_START_US - 1_000, _START_US - 1_000, _START_US - 1_000, _TICKER],
            )
        with Deduplicator({"a": local}, production) as dedup:
            dedup.drain()
        started = time.perf_counter()
        manifests = Exporter(production, Folder(folder), settle_s=0).run()
        seconds = time.perf_counter() - started
        deltas = next(manifest for manifest in manifests if manifest.table == "orderbook_deltas")
        day.bytes_per_delta = deltas.bytes / deltas.rows
        with psycopg.connect(production) as connection:
            found = connection.execute(
                "SELECT sum(length(concat_ws(',', ticker, exchange_us, received_us, ingest, side, price,"
                " change, sources, count, streams, sequences)) + 1) FROM orderbook_deltas"
            ).fetchone()
            assert found is not None
            day.megabytes_per_second = int(found[0]) / 1e6 / seconds
        noon_us = _START_US + _DAY_US // 2
        expected = _levels(spacing_us)
        archives: dict[str, DatabaseArchive | ParquetArchive] = {
            "production": DatabaseArchive(production),
            "a gatherer's database": DatabaseArchive(local),
            "Parquet": ParquetArchive(str(folder)),
        }
        for name, archive in archives.items():
            book = book_from(archive, _TICKER, noon_us)
            times = []
            for _ in range(5):
                started = time.perf_counter()
                book_from(archive, _TICKER, noon_us)
                times.append((time.perf_counter() - started) * 1_000)
            day.rebuilt[name] = min(times)
            held = {("yes", one.price): one.size for one in book.yes} | {
                ("no", one.price): one.size for one in book.no
            }
            day.right = day.right and book.condition is Condition.LIVE and held == expected
            archive.close()
    return day


def _levels(spacing_us: int) -> dict[tuple[str, int], int]:
    """Return the book at noon, added up as plainly as can be."""
    noon_us = _START_US + _DAY_US // 2
    sizes: dict[tuple[str, int], int] = {}
    for i in range(_DAY_DELTAS):
        if (_START_US + i * spacing_us) // 1_000 * 1_000 > noon_us:
            break
        change = 500 + i % 7 if (i // 198) % 2 == 0 else -500 - (i - 198) % 7
        level = ("yes" if i // 99 % 2 == 0 else "no", 100 * (1 + i % 99))
        sizes[level] = sizes.get(level, 0) + change
    return {level: size for level, size in sizes.items() if size}
