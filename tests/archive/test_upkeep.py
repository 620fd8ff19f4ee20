import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import msgspec
import psycopg
import pytest

from kalshibook.archive.database import Connection, connect
from kalshibook.archive.migrate import Variant
from kalshibook.archive.options import ArchiveOptions
from kalshibook.archive.storing import BatchStore
from kalshibook.archive.upkeep import (
    Edition,
    apply_settings,
    edition_of,
    keep_house,
    prepare,
    status_of,
)
from kalshibook.errors import ArchiveError
from tests.archive.entries import DELTA, GAP, TRADE, entry, query
from tests.archive.postgres import PostgresServer

DAY_US = 86_400_000_000
OTHERS: list[tuple[str, Variant]] = [("timescale", "local"), ("apache", "production"), ("apache", "local")]
"""Editions and variants that are not told of what only the full edition can."""


@pytest.fixture
def dsn(any_server: PostgresServer) -> str:
    return any_server.create_database()


@pytest.fixture
def connection(dsn: str) -> Iterator[Connection]:
    with connect(dsn) as opened:
        yield opened


def store_days_ago(dsn: str, *days: int) -> None:
    now_us = time.time_ns() // 1_000
    entries = []
    for number, ago in enumerate(days, 1):
        us = now_us - ago * DAY_US
        entries.append(entry(DELTA._replace(sequence=number, received_us=us, exchange_us=us)))
        entries.append(entry(TRADE._replace(trade_id=f"t{number}", received_us=us, exchange_us=us)))
        entries.append(entry(GAP._replace(gap_id=f"g{number}", detected_us=us)))
    store = BatchStore(dsn)
    store.store(entries)
    store.close()


def left(dsn: str, table: str, column: str) -> list[object]:
    return [row[0] for row in query(dsn, f"SELECT {column} FROM {table} ORDER BY 1")]


class TestRetention:
    def test_what_is_too_old_goes(self, dsn: str, connection: Connection) -> None:
        """A gatherer's database keeps deltas 7 days and trades 30, and drops whole chunks."""
        prepare(connection, ArchiveOptions(dsn=dsn))
        store_days_ago(dsn, 0, 5, 9, 40)

        dropped = keep_house(connection)

        assert [1, 2] == left(dsn, "orderbook_deltas", "sequence")
        assert ["t1", "t2", "t3"] == left(dsn, "trades", "trade_id")
        assert ["g1", "g2", "g3"] == left(dsn, "gaps", "gap_id")
        assert 3 == len(dropped)
        assert [] == keep_house(connection)

    def test_keep_days_is_how_long_rows_are_kept(self, dsn: str, connection: Connection) -> None:
        """Per table; 0 is for ever."""
        days = {"orderbook_deltas": 0, "trades": 3, "gaps": 3}
        prepare(connection, ArchiveOptions(dsn=dsn, keep_days=days))
        store_days_ago(dsn, 0, 5, 400)

        keep_house(connection)

        assert [1, 2, 3] == left(dsn, "orderbook_deltas", "sequence")
        assert ["t1"] == left(dsn, "trades", "trade_id")
        assert ["g1"] == left(dsn, "gaps", "gap_id")

    def test_production_keeps_all(self, dsn: str, connection: Connection) -> None:
        """Unless it is told otherwise nothing is dropped there."""
        prepare(connection, ArchiveOptions(dsn=dsn), "production")

        assert [] == query(dsn, "SELECT name FROM time_series WHERE keep_s IS NOT NULL")
        assert {None} == {one.keep_days for one in status_of(connection).series}

    def test_late_rows_after_a_drop(self, dsn: str, connection: Connection) -> None:
        """What comes late makes its chunk anew, and goes with it the next time."""
        prepare(connection, ArchiveOptions(dsn=dsn))
        store_days_ago(dsn, 9)
        keep_house(connection)
        store_days_ago(dsn, 9)

        assert [1] == left(dsn, "orderbook_deltas", "sequence")
        keep_house(connection)
        assert [] == left(dsn, "orderbook_deltas", "sequence")


class TestChunks:
    def test_chunk_hours_is_what_a_partition_spans(self, dsn: str, connection: Connection) -> None:
        """A smaller chunk makes more of them; a change later meets what is there already."""
        prepare(connection, ArchiveOptions(dsn=dsn, chunk_hours={"orderbook_deltas": 48}))
        store_days_ago(dsn, 3, 0)
        prepare(connection, ArchiveOptions(dsn=dsn, chunk_hours={"orderbook_deltas": 1}))
        store_days_ago(dsn, 3, 2, 1, 0)
        prepare(connection, ArchiveOptions(dsn=dsn, chunk_hours={"orderbook_deltas": 24}))
        store_days_ago(dsn, 4, 3, 2, 1, 0)

        found = {one.name: one for one in status_of(connection).series}
        assert 24 == found["orderbook_deltas"].chunk_hours
        assert 24 == found["trades"].chunk_hours
        assert 6 == found["tickers"].chunk_hours
        assert found["orderbook_deltas"].chunks >= 3
        assert 1 + 3 + 4 + 4 == len(left(dsn, "orderbook_deltas", "sequence")) + 1

    @pytest.mark.postgres
    def test_a_partition_in_use_is_dropped_next_time(self, new_database: Callable[[], str]) -> None:
        """Housekeeping waits for no reader, and makes none wait."""
        dsn = new_database()
        with connect(dsn) as connection, psycopg.connect(dsn) as reader:
            prepare(connection, ArchiveOptions(dsn=dsn))
            store_days_ago(dsn, 9)
            reader.execute("SELECT * FROM orderbook_deltas")

            assert [] == keep_house(connection)
            reader.rollback()
            assert 1 == len(keep_house(connection))


class TestStatus:
    def test_says_what_the_server_is(self, dsn: str, connection: Connection) -> None:
        """Whether it is a plain one, or which edition of TimescaleDB, and what that means."""
        prepare(connection, ArchiveOptions(dsn=dsn))
        edition = edition_of(connection)

        if edition.timescale is None:
            assert str(edition).endswith("native partitions")
        else:
            assert "apache edition, without compression, policies and continuous aggregates" in str(edition)
        assert not edition.compresses
        assert "with compression" in str(Edition("17.1", "2.20.0", "timescale"))

    def test_timescale_never_makes_native_partitions(self, dsn: str, connection: Connection) -> None:
        """The setting decides also where the extension could be had."""
        prepare(connection, ArchiveOptions(dsn=dsn, timescale="never"))
        store_days_ago(dsn, 0)

        assert edition_of(connection).timescale is None
        assert [("p",)] == query(dsn, "SELECT relkind::text FROM pg_class WHERE relname = 'trades'")

    def test_says_what_is_there(self, dsn: str, connection: Connection) -> None:
        """Sources, chunks, letters and how far the readers are."""
        prepare(connection, ArchiveOptions(dsn=dsn))
        store_days_ago(dsn, 0)
        found = status_of(connection)

        assert ("local", 0, ["gatherer-1"], 0) == (
            found.variant,
            found.missing,
            found.sources,
            found.dead_letters,
        )
        assert {"orderbook_deltas", "orderbook_snapshots", "trades", "tickers", "lifecycles"} == {
            one.name for one in found.series
        }

    def test_an_empty_database_is_told(self, connection: Connection) -> None:
        """What to do is part of the message."""
        with pytest.raises(ArchiveError, match="run `kalshibook archive migrate`"):
            status_of(connection)


class Recording:
    """A connection to a hypertable's database that notes what it is asked."""

    def __init__(self, licence: str) -> None:
        self.licence = licence
        self.statements: list[tuple[str, object]] = []

    def execute(self, statement: bytes, parameters: object = None) -> "Recording":
        self.statements.append((statement.decode(), parameters))
        return self

    def fetchone(self) -> tuple[object, ...]:
        statement = self.statements[-1][0]
        if "relkind" in statement:
            return ("r",)
        return (self.licence if "license" in statement else "17.1",)

    def fetchall(self) -> list[tuple[object, ...]]:
        return []

    def transaction(self) -> AbstractContextManager[None]:
        return nullcontext()


def asked(licence: str, variant: Variant, **options: Any) -> list[tuple[str, object]]:
    recording: Any = Recording(licence)
    apply_settings(recording, msgspec.structs.replace(ArchiveOptions(), **options), variant)
    return [*recording.statements]


def test_compression_follows_the_edition() -> None:
    """The age at which deltas are compressed is told to the editions that can, and to no other."""
    compressed = [
        parameters
        for statement, parameters in asked("timescale", "production", compress_days=3)
        if "add_compression_policy" in statement
    ]

    assert [[3]] == compressed
    for licence, variant in OTHERS:
        assert not any("compress" in statement for statement, _ in asked(licence, variant))


def test_continuous_aggregates_follow_the_edition() -> None:
    """Where it has them production gets them, each with its policy and its view; nobody else does."""
    words = ("CREATE MATERIALIZED VIEW", "add_continuous_aggregate_policy", "CREATE OR REPLACE VIEW")

    made = [word for statement, _ in asked("timescale", "production") for word in words if word in statement]

    assert [*words, *words] == made
    for licence, variant in OTHERS:
        assert not any(word in statement for statement, _ in asked(licence, variant) for word in words)
