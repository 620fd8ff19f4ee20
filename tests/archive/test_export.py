"""Export: follow-up files for late rows, the same bytes again, and a manifest that tells the truth."""

import hashlib
import io
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import psycopg
import pyarrow.parquet as pq
import pytest

from kalshibook.archive.describing import describe_events, describe_markets, describe_series
from kalshibook.archive.export import Exporter, Manifest, check
from kalshibook.archive.migrate import migrate, migrations_of
from kalshibook.archive.parquet import HOUR_US, LAYOUTS
from kalshibook.archive.rows import Row, SnapshotRow, TickerRow
from kalshibook.archive.targets import Folder, Target, open_target, put
from kalshibook.errors import ArchiveError
from kalshibook.wire import GapRecord
from tests.archive.conftest import unavailable
from tests.archive.gathered import NOW_US, Stage, change, delta, everything, store_gaps, trade
from tests.archive.object_store import ObjectStore, why_no_object_store

pytestmark = pytest.mark.postgres

LATER_US = NOW_US + 10**10
EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "parquet_with_duckdb.py"


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """An S3 server of this run."""
    reason = why_no_object_store()
    if reason is not None:
        unavailable(reason)
    with ObjectStore(tmp_path_factory.mktemp("objects")) as store:
        yield store


@pytest.fixture
def merged(new_database: Callable[[], str]) -> Stage:
    """Production with something in it, on PostgreSQL."""

    def make(variant: Any) -> str:
        dsn = new_database()
        with psycopg.connect(dsn) as connection:
            migrate(connection, variant)
        return dsn

    stage = Stage(make)
    rows: list[Row] = [
        SnapshotRow(*("a", "a.c1", 1, 1, NOW_US, NOW_US, "KXA-1", 1, 2, (4_000, 4_100), (100, 200), (), ())),
        SnapshotRow(*("b", "b.c1", 1, 1, NOW_US, None, "KXA-1", 1, 2, (), (), (1, 9_999), (1, 2**62))),
        TickerRow(*("a", "a.c1", 4, -5, NOW_US, NOW_US, "KXA-1", 4_000, None, 2**62, 0, -7, None)),
    ]
    stage.store(*rows, *everything(11))
    stage.merge()
    describe(stage, status="active")
    return stage


def describe(stage: Stage, at_us: int = NOW_US, **market: Any) -> None:
    """Let the exchange describe a series, an event and a market."""
    series = {"ticker": "KXA", "title": 'A "title",\n{of} two lines', "category": "", "frequency": None}
    event = {"event_ticker": "KXA-26", "series_ticker": "KXA", "sub_title": "NULL"}
    ours = {
        "ticker": "KXA-1",
        "event_ticker": "KXA-26",
        "close_time": "2026-09-21T15:00:00Z",
        "settlement_value_dollars": "0.4001",
        "rules_primary": "\u00e9\U0001f600 'quoted' \\",
    }
    with psycopg.connect(stage.production, autocommit=True) as connection:
        describe_series(connection, [series], clock_us=lambda: at_us)
        describe_events(connection, [event], clock_us=lambda: at_us)
        describe_markets(connection, [ours | market], clock_us=lambda: at_us)


def export(stage: Stage, target: Target, **options: Any) -> list[Manifest]:
    """Export all that is there."""
    return Exporter(stage.production, target, settle_s=0, clock_us=lambda: LATER_US, **options).run()


def stored(stage: Stage, table: str) -> list[tuple[Any, ...]]:
    """Return the rows of production as the files have them."""
    names = [*LAYOUTS[table].columns]
    computed = LAYOUTS[table].computed
    with psycopg.connect(stage.production) as connection:
        columns = ", ".join(
            computed.get(name, f"t.{name}") + ("::text" if name == "body" else "") for name in names
        )
        rows = connection.execute(f"SELECT {columns} FROM {table} AS t").fetchall()
    return sorted((_plain(row) for row in rows), key=repr)


def _plain(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(tuple(value) if isinstance(value, list) else value for value in values)


def exported(target: Target, table: str) -> list[tuple[Any, ...]]:
    """Return the rows of all files; of rows with one key the last stands."""
    found: dict[Any, tuple[Any, ...]] = {}
    names = [*LAYOUTS[table].columns]
    keys = {
        "orderbook_deltas": ("ticker", "exchange_us", "side", "price", "change"),
        "orderbook_snapshots": ("ticker", "stream_id", "sequence"),
        "trades": ("trade_id",),
        "tickers": ("ticker", "exchange_us", "digest"),
        "lifecycles": ("ticker", "kind", "digest", "last_us"),
        "gaps": ("gap_id",),
        "series": ("ticker", "valid_from_us"),
        "events": ("ticker", "valid_from_us"),
        "markets": ("ticker", "valid_from_us"),
    }[table]
    for path in target.paths(table):
        data = target.read(path)
        assert data is not None
        for row in pq.read_table(io.BytesIO(data)).to_pylist():
            key = tuple(row[name] for name in keys)
            values = _plain(row[name] for name in names)
            if key not in found or found[key][names.index("ingest")] < row["ingest"]:
                found[key] = values
    return sorted(found.values(), key=repr)


@pytest.fixture(params=["folder", "bucket"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Target:
    """A folder and a bucket in turn, empty."""
    if request.param == "folder":
        return Folder(tmp_path / "parquet")
    store: ObjectStore = request.getfixturevalue("object_store")
    return open_target(f"s3://{store.bucket}/{tmp_path.name}", store.options)


@pytest.mark.parametrize("batch_rows", [7, 500_000])
def test_files_hold_what_production_holds(merged: Stage, target: Target, batch_rows: int) -> None:
    """Every integer, text, list and NULL comes back as it is stored, from a folder and from a bucket."""
    manifests = export(merged, target, batch_rows=batch_rows)

    for table in LAYOUTS:
        assert stored(merged, table) == exported(target, table)
    assert [] == check(target)
    assert sum(manifest.rows for manifest in manifests) == sum(
        len(stored(merged, table)) for table in LAYOUTS
    )
    if batch_rows == 7:
        assert len(manifests) > 5


def test_a_rerun_writes_the_same_bytes(merged: Stage, tmp_path: Path) -> None:
    """The same rows in another folder make the same files, and a second run has nothing to do."""
    first, second = Folder(tmp_path / "first"), Folder(tmp_path / "second")
    export(merged, first)
    with psycopg.connect(merged.production) as connection:
        connection.execute("UPDATE exports SET finished_at = NULL")
    export(merged, second)

    assert first.paths() == second.paths()
    assert {path: first.read(path) for path in first.paths()} == {
        path: second.read(path) for path in second.paths()
    }
    assert [] == export(merged, first)


def test_late_rows_come_in_follow_up_files(merged: Stage, tmp_path: Path) -> None:
    """What is merged after an export, even for an old hour, is in the next files, and no file is touched."""
    target = Folder(tmp_path)
    export(merged, target)
    before = {path: target.read(path) for path in target.paths() if not path.startswith("lookups")}
    merged.store(delta("a", 9_001, change(1_234, 5_600)), delta("c", 9_002, change(4_000, 100)))
    merged.merge()

    manifests = export(merged, target)

    assert ["orderbook_deltas"] == [manifest.table for manifest in manifests]
    assert before == {path: data for path, data in before.items() if target.read(path) == data}
    for table in LAYOUTS:
        assert stored(merged, table) == exported(target, table)


def test_what_a_market_was_comes_again_when_it_has_ended(merged: Stage, tmp_path: Path) -> None:
    """Its end and what follows are in the next files, no file is touched; the row exported last stands."""
    target = Folder(tmp_path)
    export(merged, target)
    before = {path: target.read(path) for path in target.paths() if not path.startswith("lookups")}
    describe(merged, NOW_US + HOUR_US, status="closed")

    (manifest,) = export(merged, target)

    assert ("markets", 2) == (manifest.table, manifest.rows)
    assert before == {path: data for path, data in before.items() if target.read(path) == data}
    assert ["markets/date=2026-09-21/hour=15"] == [file.path.rpartition("/")[0] for file in manifest.files]
    assert stored(merged, "markets") == exported(target, "markets")


def test_long_rows_come_in_smaller_batches(merged: Stage, tmp_path: Path) -> None:
    """A batch is held in memory, and what is said of a market is longer than a change of its book."""
    describe(merged, status="closed")
    describe(merged, status="determined")

    manifests = export(merged, Folder(tmp_path), batch_rows=40)

    assert [2, 1] == [manifest.rows for manifest in manifests if manifest.table == "markets"]


def test_what_was_described_before_there_was_an_order_is_exported(
    new_database: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A migration gives rows that are there already their places."""
    dsn = new_database()
    with psycopg.connect(dsn) as connection:
        known = migrations_of("production")
        monkeypatch.setattr("kalshibook.archive.migrate.migrations_of", lambda _: known[:8])
        migrate(connection, "production")
        connection.execute(
            "INSERT INTO markets (ticker, valid_from_us, valid_to_us, body)"
            " VALUES ('KXA-1', 1, 5, '{}'), ('KXA-1', 5, NULL, '{}')"
        )
        connection.commit()
        monkeypatch.undo()
        migrate(connection, "production")

    (manifest,) = Exporter(dsn, Folder(tmp_path), settle_s=0).run()

    assert ("markets", 2) == (manifest.table, manifest.rows)


def test_what_is_young_waits(merged: Stage, tmp_path: Path) -> None:
    """Rows that lagging sources may still see are left for the next time, and so is all behind them."""
    target = Folder(tmp_path)
    early = Exporter(merged.production, target, settle_s=60, clock_us=lambda: NOW_US + 1_000_000)

    assert [] == early.run()
    assert [] != Exporter(merged.production, target, settle_s=60, clock_us=lambda: LATER_US).run()


def test_a_clock_that_is_ahead_holds_up_nobody(merged: Stage, tmp_path: Path) -> None:
    """A row that seems to be received tomorrow is exported, and so is all behind it."""
    values = (4_000, None, 1, 0, 0, None)
    merged.store(TickerRow("a", "a.c1", 4, 1, LATER_US + 86_400_000_000, NOW_US, "KXA-1", *values))
    merged.merge()
    merged.store(TickerRow("a", "a.c1", 4, 2, NOW_US + 1, NOW_US + 1_000, "KXA-1", *values))
    merged.merge()

    Exporter(merged.production, Folder(tmp_path), settle_s=60, clock_us=lambda: LATER_US).run()

    assert 3 == len(exported(Folder(tmp_path), "tickers")) == len(stored(merged, "tickers"))


def test_texts_in_arrays_come_back_as_they_are(merged: Stage, tmp_path: Path) -> None:
    """Whatever stands in a ticker, the list of those that a gap concerns is the same in the files."""
    odd = ("KX,A", 'KX"B', "KX\\C", "NULL", "{D}", "", " \n", "\u00e9\U0001f600", "'; DROP TABLE gaps; --")
    gaps = [
        GapRecord(
            id=f"a/{number}",
            source="a",
            connection="a.c1",
            sid=1,
            channel="orderbook_delta",
            cause="gap",
            from_sequence=1,
            to_sequence=2,
            markets=len(tickers),
            tickers=tickers,
            detected_us=NOW_US,
        )
        for number, tickers in enumerate([odd, (), ("KXA-1",)])
    ]
    store_gaps(merged.sources["a"], gaps)
    merged.merge()

    export(merged, Folder(tmp_path))

    rows = exported(Folder(tmp_path), "gaps")
    place = [*LAYOUTS["gaps"].columns].index("tickers")
    assert [gap.tickers for gap in gaps] == [row[place] for row in rows]


def test_production_from_a_dump_is_not_taken_for_one_without_news(merged: Stage, tmp_path: Path) -> None:
    """Where transactions count from an earlier number, nothing new would ever seem to come; it is said."""
    export(merged, Folder(tmp_path))
    with psycopg.connect(merged.production) as connection:
        connection.execute("UPDATE exports SET to_transaction = to_transaction + 1000000")

    with pytest.raises(ArchiveError, match="dump and restore"):
        export(merged, Folder(tmp_path))


class Crash(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("step", ["planned", "read", "file written", "manifest written", "finished"])
def test_a_crash_at_any_step_is_made_good(merged: Stage, target: Target, step: str) -> None:
    """Between plan, file, manifest and mark: the next run writes the same files and finishes them."""

    def crash(name: str) -> None:
        if name == step:
            raise Crash

    with pytest.raises(Crash):
        export(merged, target, batch_rows=50, on_step=crash)

    export(merged, target, batch_rows=50)

    for table in LAYOUTS:
        assert stored(merged, table) == exported(target, table)
    assert [] == check(target)


def test_rows_that_grow_after_a_crash_leave_no_file_behind(merged: Stage, target: Target) -> None:
    """Their file is emptied, and stands in the manifest: they come in the next batch."""

    def crash(name: str) -> None:
        if name == "file written":
            raise Crash

    with pytest.raises(Crash):
        export(merged, target, on_step=crash)
    with psycopg.connect(merged.production) as connection:
        connection.execute(
            "UPDATE orderbook_deltas SET ingest = nextval('ingest_order'), xid = pg_current_xact_id()"
        )

    export(merged, target)

    assert [] == check(target)
    for table in LAYOUTS:
        assert stored(merged, table) == exported(target, table)


KILLED = """
import os, signal, sys
from kalshibook.archive.export import Exporter
from kalshibook.archive.targets import Folder
from pathlib import Path
steps = int(sys.argv[1])
def step(name):
    global steps
    steps -= 1
    if not steps:
        os.kill(os.getpid(), signal.SIGKILL)
Exporter(sys.argv[2], Folder(Path(sys.argv[3])), batch_rows=20, settle_s=0, on_step=step).run()
"""


def test_a_kill_is_made_good(merged: Stage, tmp_path: Path) -> None:
    """Killed -9 again and again, the export ends complete, with manifests that name every file."""
    steps, kills = 1, 0
    while subprocess.run(
        [sys.executable, "-c", KILLED, str(steps), merged.production, str(tmp_path)], check=False
    ).returncode:
        steps, kills = steps + 2, kills + 1

    target = Folder(tmp_path)
    assert kills > 3
    assert [] == check(target)
    for table in LAYOUTS:
        assert stored(merged, table) == exported(target, table)


def test_a_damaged_file_is_found(merged: Stage, tmp_path: Path) -> None:
    """The check names a file that is not what its manifest says, and one that is gone."""
    target = Folder(tmp_path)
    export(merged, target)
    first, second, *_ = target.paths("orderbook_snapshots") + target.paths("trades")
    (tmp_path / first).write_bytes(b"nonsense")
    (tmp_path / second).unlink()

    assert {first, second} == {line.split()[0] for line in check(target)}


def test_a_manifest_has_counts_ranges_and_checksums(merged: Stage, tmp_path: Path) -> None:
    """Whoever copies the files can check them without the database."""
    target = Folder(tmp_path)
    export(merged, target)

    (path,) = target.paths("manifests/trades")
    manifest = msgspec.json.decode(target.read(path) or b"", type=Manifest)
    (file,) = manifest.files
    data = target.read(file.path)
    assert data is not None
    assert (file.sha256, file.bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    assert (15, (NOW_US, NOW_US), ("KXA-1", "KXA-1")) == (file.rows, file.exchange_us, file.tickers)


def test_duckdb_reads_a_folder_in_place(merged: Stage, tmp_path: Path) -> None:
    """The Hive-style names become columns, and sums are those of production."""
    export(merged, Folder(tmp_path))

    with duckdb.connect() as database:
        found = database.execute(
            f"SELECT count(*), sum(change * count), min(date)::text, min(hour)"
            f" FROM read_parquet('{tmp_path}/orderbook_deltas/*/*/*.parquet', hive_partitioning = true)"
        ).fetchone()

    rows = stored(merged, "orderbook_deltas")
    names = [*LAYOUTS["orderbook_deltas"].columns]
    total = sum(row[names.index("change")] * row[names.index("count")] for row in rows)
    assert (len(rows), total, "2026-09-21", 14) == found


def test_the_documented_program_joins_trades_to_what_markets_were_then(merged: Stage, tmp_path: Path) -> None:
    """Over files in which a row that has ended stands twice, it says what production says."""
    second_us = 1_000_000
    merged.store(*(trade("a", 90 + n, f"then-{n}", NOW_US + n * second_us) for n in range(10)))
    merged.merge()
    with psycopg.connect(merged.production) as connection:
        connection.execute("UPDATE markets SET valid_from_us = %s", [NOW_US + second_us])
    export(merged, Folder(tmp_path))
    with psycopg.connect(merged.production) as connection:
        connection.execute(
            "UPDATE markets SET valid_to_us = %s, ingest = nextval('ingest_order'),"
            " xid = pg_current_xact_id()",
            [NOW_US + 4 * second_us],
        )
        connection.execute(
            "INSERT INTO markets (ticker, valid_from_us, status, body) VALUES ('KXA-1', %s, 'closed', '{}')",
            [NOW_US + 4 * second_us],
        )
    export(merged, Folder(tmp_path))

    said = subprocess.run(
        [sys.executable, str(EXAMPLE), str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout

    assert [
        "KXA-1 while active, in None: 3.00 in 3 trades",
        "KXA-1 while closed, in None: 6.00 in 6 trades",
        "KXA-1 while None, in None: 16.00 in 16 trades",
    ] == [line for line in said.splitlines() if "while" in line]


def test_two_exporters_do_not_share_a_database(merged: Stage, tmp_path: Path) -> None:
    """The second is refused."""
    target = Folder(tmp_path)

    def second(_: str) -> None:
        with pytest.raises(ArchiveError, match="another process exports"):
            export(merged, target, patience_s=0.1)
        raise Crash

    with pytest.raises(Crash):
        export(merged, target, on_step=second)


def test_targets_never_overwrite_unasked(target: Target) -> None:
    """Creating twice keeps the first; putting what is there already writes nothing."""
    assert target.create("a/b.txt", b"one")
    assert not target.create("a/b.txt", b"two")
    assert b"one" == target.read("a/b.txt")
    assert not put(target, "a/b.txt", b"one")
    assert put(target, "a/b.txt", b"three")
    assert b"three" == target.read("a/b.txt")
    assert target.read("a/c.txt") is None
    assert ["a/b.txt"] == target.paths("a")


def files_of(target: Target) -> dict[str, bytes | None]:
    """Return everything that lies in a target."""
    return {path: target.read(path) for path in target.paths()}


@pytest.mark.parametrize("restored", ["before the last batch", "before the first", "to a copy that went on"])
def test_a_production_that_was_put_back_does_not_mix_its_batches(
    merged: Stage, target: Target, restored: str
) -> None:
    """Batches that the database does not know, or not so, stop the export before anything is written."""
    export(merged, target)
    merged.store(*(delta("a", number, change(5_000 + number, 100)) for number in range(2_000, 2_010)))
    merged.merge()
    *_, last = export(merged, target)
    before = files_of(target)
    with psycopg.connect(merged.production) as connection:
        if restored == "to a copy that went on":
            connection.execute(
                "UPDATE exports SET to_ingest = to_ingest + 1 WHERE export_id = %s", [last.batch]
            )
        else:
            first = last.batch if restored == "before the last batch" else 1
            connection.execute("DELETE FROM exports WHERE export_id >= %s", [first])
            connection.execute(f"ALTER TABLE exports ALTER export_id RESTART WITH {first}")
    merged.store(*(delta("a", number, change(6_000 + number, 100)) for number in range(3_000, 3_010)))
    merged.merge()

    for _ in range(3):
        with pytest.raises(
            ArchiveError, match=r"holds manifests/.*put back.*export\.target.*batches from number"
        ):
            export(merged, target)

    assert before == files_of(target)


def test_batches_that_were_taken_away_come_again(merged: Stage, tmp_path: Path) -> None:
    """Doing what the message says ends in files that hold what production holds."""
    target = Folder(tmp_path / "parquet")
    export(merged, target)
    with psycopg.connect(merged.production) as connection:
        connection.execute("DELETE FROM exports")
        connection.execute("ALTER TABLE exports ALTER export_id RESTART WITH 1")
    with pytest.raises(ArchiveError, match="put back"):
        export(merged, target)
    for path in target.paths():
        if path.rpartition("/")[2][:12].isdigit():
            (target.root / path).unlink()

    export(merged, target)

    for table in LAYOUTS:
        assert stored(merged, table) == exported(target, table)
    assert [] == check(target)


def test_a_wrong_secret_is_refused(object_store: ObjectStore) -> None:
    """The server of these tests checks what it is told."""
    options = object_store.options | {"secret_access_key": "another"}

    with pytest.raises(Exception, match=r"Forbidden|privileges"):
        open_target(f"s3://{object_store.bucket}/x", options).create("a", b"")


@pytest.mark.parametrize(
    ("url", "options"), [("ftp://host/x", {}), ("s3://bucket/x", {"no_such_option": "1"})]
)
def test_an_unfit_target_is_refused(url: str, options: dict[str, str]) -> None:
    """A wrong address or option is named before anything is read."""
    with pytest.raises(ArchiveError):
        open_target(url, options)
