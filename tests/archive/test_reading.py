"""Every archive rebuilds the same books: a gatherer's database, production, Parquet files."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import psycopg
import pytest

from kalshibook.archive.describing import Description, describe_markets
from kalshibook.archive.export import Exporter
from kalshibook.archive.gaps import SLACK_US
from kalshibook.archive.migrate import migrate
from kalshibook.archive.parquet import HOUR_US
from kalshibook.archive.reading import open_archive
from kalshibook.archive.reading_database import DatabaseArchive
from kalshibook.archive.reading_parquet import ParquetArchive
from kalshibook.archive.rebuild import book_from
from kalshibook.archive.rows import SnapshotRow
from kalshibook.archive.targets import Folder
from kalshibook.errors import ArchiveError
from kalshibook.store import Condition
from tests.archive.gathered import NOW_US, MakeArchive, Stage, change, delta
from tests.archive.rebuilding import InMemory, compared, gathered, moments_of
from tests.archive.scenario import START_US, Scenario


def test_a_row_that_grew_counts_once_beside_one_without_a_time(
    new_archive: MakeArchive, tmp_path: Path
) -> None:
    """In the files it stands twice, with another first receipt; what has no time changes nothing in that."""
    stage = Stage(new_archive)
    stage.store(delta("a", 9, change(4_000, 100)), delta("a", 10, change(4_000, 300, None)))
    for late in (None, delta("b", 2, change(4_000, 100))):
        stage.store(*([late] if late else []))
        stage.merge()
        Exporter(stage.production, Folder(tmp_path), settle_s=0).run()

    found = []
    for address in (stage.production, str(tmp_path)):
        with open_archive(address) as archive:
            changes = archive.changes("KXA-1", NOW_US, NOW_US + 1_000)
        found.append(sorted((one.at_us, one.price, one.change, one.count) for one in changes))

    assert [(NOW_US, 4_000, 100, 1), (NOW_US + 10, 4_000, 300, 1)] == found[0] == found[1]


def test_a_partition_that_lags_bounds_what_was_watched(new_archive: MakeArchive, tmp_path: Path) -> None:
    """Rows of the other partitions do not say that its markets were stored so far; it is made good."""
    stage = Stage(new_archive)
    book = SnapshotRow(*("a", "a.c1", 1, 1, NOW_US, NOW_US, "KXA-1", 1, 2), (4_000,), (100,), (), ())
    last = delta("a", 2, change(4_000, 100, NOW_US + 60_000_000, ticker="KXB-1"))
    stage.store(book, last._replace(received_us=NOW_US + 60_000_000))

    def ends(seconds: int) -> list[int]:
        """Let the second partition come so far, and return where the watch of KXA-1 ends, by archive."""
        with psycopg.connect(stage.sources["a"]) as connection:
            for partition, reach_us in ((0, NOW_US + 61_000_000), (1, NOW_US + seconds * 1_000_000)):
                connection.execute(
                    "INSERT INTO reaches (reader, subject, source_id, received_us)"
                    " SELECT 'kafka:g', %s, source_id, %s FROM sources"
                    " ON CONFLICT (reader, subject, source_id) DO UPDATE SET"
                    " received_us = excluded.received_us, xid = pg_current_xact_id(),"
                    " ingest = nextval('ingest_order')",
                    [f"t/{partition}", reach_us],
                )
        stage.merge()
        Exporter(stage.production, Folder(tmp_path), settle_s=0).run()
        found = []
        for address in (stage.sources["a"], stage.production, str(tmp_path)):
            with open_archive(address) as archive:
                (watch,) = archive.coverage("KXA-1", NOW_US, NOW_US + 60_000_000).watches
            found.append(watch.until_us - NOW_US)
        return found

    assert [10_000_000 - SLACK_US] * 3 == ends(10)
    assert [60_000_000 - SLACK_US] * 3 == ends(61)


def test_from_databases_and_files(new_archive: MakeArchive, tmp_path: Path) -> None:
    """Production, a gatherer's own database and Parquet rebuild the same true books."""
    scenario = Scenario(5, frames=900, loss=0.01)
    sources, production = gathered(scenario, new_archive)
    Exporter(production, Folder(tmp_path), settle_s=0).run()
    moments = moments_of(scenario, 30)
    memory = InMemory(scenario.rows, scenario.gaps)

    expected, total = compared(memory, scenario, moments)
    with DatabaseArchive(production) as archive, DatabaseArchive(sources["a"]) as one:
        assert (expected, total) == compared(archive, scenario, moments)
        live_alone, _ = compared(one, scenario, moments)
    with ParquetArchive(str(tmp_path)) as files:
        assert (expected, total) == compared(files, scenario, moments)

    assert 0 < live_alone < expected
    for at_us in moments[:5]:
        for ticker in scenario.tickers:
            with open_archive(production) as archive, open_archive(str(tmp_path)) as files:
                assert book_from(archive, ticker, at_us) == book_from(files, ticker, at_us)


def test_far_from_a_snapshot(new_archive: MakeArchive, tmp_path: Path) -> None:
    """Minutes after the last snapshot the database adds up, and the book is still the exchange's."""
    scenario = Scenario(9, frames=600, loss=0, cuts=0, refreshes=0, rate=1.5)
    sources, production = gathered(scenario, new_archive)
    Exporter(production, Folder(tmp_path), settle_s=0).run()
    length_us = scenario.end_us - START_US
    moments = [START_US + length_us * part // 4_000 * 1_000 for part in (2, 3)]

    for address in (production, sources["b"], str(tmp_path)):
        with open_archive(address) as archive:
            assert (6, 6) == compared(archive, scenario, moments)
    assert scenario.end_us - START_US > 200_000_000


def test_what_a_market_was_at_a_time(new_archive: MakeArchive, tmp_path: Path) -> None:
    """Production and files say the same, also of a row whose end became known after its export."""
    production = new_archive("production")
    states = ("active", "closed", "determined")
    bodies = [{"ticker": "KXA-1", "status": status, "strike": 0.1, "note": None} for status in states]
    for hour, body in enumerate(bodies):
        with psycopg.connect(production, autocommit=True) as connection:
            describe_markets(connection, [body], clock_us=partial(int, NOW_US + hour * HOUR_US))
        Exporter(production, Folder(tmp_path), settle_s=0).run()

    for address in (production, str(tmp_path)):
        with open_archive(address) as archive:
            times = [NOW_US - 1, NOW_US, NOW_US + HOUR_US - 1, NOW_US + HOUR_US, NOW_US + 9 * HOUR_US]
            found = [archive.description("markets", "KXA-1", at_us) for at_us in times]
            assert archive.description("series", "KXA", NOW_US) is None

        assert [None, bodies[0], bodies[0], bodies[1], bodies[2]] == [one and one.body for one in found]
        assert Description("KXA-1", NOW_US + 2 * HOUR_US, None, bodies[2]) == found[-1]


@pytest.mark.postgres
def test_what_is_no_archive_is_refused(new_database: Callable[[], str], tmp_path: Path) -> None:
    """An empty database and an empty folder are named as such; a market nobody knows is awaited."""
    with pytest.raises(ArchiveError, match="holds no archive"):
        open_archive(new_database())
    with pytest.raises(ArchiveError, match="no export"):
        open_archive(str(tmp_path))
    dsn = new_database()
    with psycopg.connect(dsn) as connection:
        migrate(connection, "production")
    with open_archive(dsn) as archive:
        assert Condition.AWAITING is book_from(archive, "KXNOBODY", START_US).condition
