"""The deduplicator on real databases: what the rule says, by commit order, across crashes and outages."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from kalshibook.archive.dedup import Deduplicator
from kalshibook.archive.migrate import Variant, migrate
from kalshibook.archive.rows import SnapshotRow, TickerRow
from kalshibook.errors import ArchiveError
from tests.archive.gathered import (
    NOW_US,
    SOURCES,
    MakeArchive,
    Stage,
    change,
    delta,
    everything,
    expected,
    held,
    store,
    trade,
)
from tests.archive.postgres import PostgresServer
from tests.archive.rebuilding import gathered
from tests.archive.scenario import Scenario


@pytest.mark.parametrize("batch_rows", [3, 20_000])
def test_production_is_the_union(stage: Stage, batch_rows: int) -> None:
    """Whatever the batches cut apart, production holds what the rule says, with who saw it."""
    stage.store(*everything(1))

    stage.merge(batch_rows=batch_rows)

    stage.check()


def test_late_rows_raise_what_is_there(stage: Stage) -> None:
    """Merging in pieces, in any order of sources, equals merging everything at once."""
    rows = everything(2)
    for start in range(0, len(rows), 25):
        stage.store(*rows[start : start + 25])

        stage.merge(batch_rows=7)

        stage.check()


def test_reading_everything_again_changes_nothing(stage: Stage) -> None:
    """A lost cursor costs time and nothing else."""
    stage.store(*everything(3))
    stage.merge()
    before = held(stage.production)
    with psycopg.connect(stage.production) as connection:
        numbers = connection.execute("SELECT max(ingest) FROM orderbook_deltas").fetchone()
        connection.execute("DELETE FROM cursors")

    stage.merge(batch_rows=11)

    assert before == held(stage.production)
    with psycopg.connect(stage.production) as connection:
        assert numbers == connection.execute("SELECT max(ingest) FROM orderbook_deltas").fetchone()


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6), cuts=st.lists(st.integers(0, 80), max_size=3), batch_rows=st.integers(5, 60)
)
def test_any_interleaving_equals_the_rule(stage: Stage, seed: int, cuts: list[int], batch_rows: int) -> None:
    """Any losses, any pieces and any batches end in what the pure rule says of all rows at once."""
    stage.clear()
    rows = everything(seed, 15)
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    for start, end in pairwise(edges):
        stage.store(*rows[start:end])
        stage.merge(batch_rows=batch_rows)

    stage.check()


def test_a_late_commit_is_not_skipped(stage: Stage) -> None:
    """A row whose number was drawn early and committed late is merged all the same."""
    stage.store(delta("a", 9, change(4_000, 900)))
    with psycopg.connect(stage.sources["a"]) as early:
        late = delta("a", 1, change(4_000, 100))
        store("", [late], early)
        stage.store(*(delta("a", number, change(4_000, 100 * number)) for number in range(2, 6)))
        stage.merge()
        assert expected(stage.rows[:1]) == held(stage.production), "nothing behind an open one is taken"
    stage.rows.append(late)

    stage.merge()

    stage.check()


def test_a_source_that_is_down_holds_up_nobody(
    stage: Stage, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The others go on while one database is away; when it is back, what only it saw is added."""
    seconds = [0.0]
    with PostgresServer() as other:
        dsn = other.create_database()
        stage.sources["a"] = dsn
        migrated(dsn)
        stage.store(*everything(5))
        other.kill()
        with Deduplicator(stage.sources, stage.production, clock_s=lambda: seconds[0]) as dedup:
            dedup.drain()
            assert expected(row for row in stage.rows if row.source != "a") == held(stage.production)
            assert ([False, True, True]) == [dedup.states[name].reachable for name in SOURCES]
            other.start()
            seconds[0] += 60
            dedup.drain()

    stage.check()


def migrated(dsn: str) -> None:
    """Bring a new database of a gatherer up to date."""
    with psycopg.connect(dsn) as connection:
        migrate(connection, "local")


def test_production_that_goes_away_loses_nothing(
    new_archive: MakeArchive, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Killed in the middle of a transaction, production is found again by the same deduplicator."""
    stage = Stage(new_archive)
    stage.store(*everything(6))
    with PostgresServer() as other:
        stage.production = other.create_database()
        with psycopg.connect(stage.production) as connection:
            migrate(connection, "production")

        def kill_once(step: str) -> None:
            if step == "orderbook_deltas: merged" and not killed.is_set():
                killed.set()
                other.kill()

        killed = threading.Event()
        with Deduplicator(stage.sources, stage.production, batch_rows=9, on_step=kill_once) as dedup:
            with pytest.raises(psycopg.OperationalError):
                dedup.drain()
            other.start()
            dedup.drain()

        stage.check()


KILLED = """
import os, signal, sys
from kalshibook.archive.dedup import Deduplicator
steps = int(sys.argv[1])
sources = dict(argument.split("=", 1) for argument in sys.argv[3:])
def step(name):
    global steps
    steps -= 1
    if not steps:
        os.kill(os.getpid(), signal.SIGKILL)
with Deduplicator(sources, sys.argv[2], batch_rows=6, on_step=step) as dedup:
    dedup.drain()
"""


def test_a_kill_at_any_step_loses_and_repeats_nothing(stage: Stage) -> None:
    """Killed -9 again and again at any point, it ends where one that never died ends."""
    stage.store(*everything(7))
    sources = [f"{name}={dsn}" for name, dsn in stage.sources.items()]
    chance = random.Random(7)
    kills = 0
    ended = None
    while ended != 0:
        command = [sys.executable, "-c", KILLED, str(chance.randrange(2, 30)), stage.production, *sources]
        run = subprocess.run(command, check=False, capture_output=True, text=True)
        ended = run.returncode
        assert ended in {0, -signal.SIGKILL}, run.stderr
        kills += ended != 0

    assert kills >= 10
    stage.check()


def test_two_deduplicators_do_not_share_a_production(stage: Stage) -> None:
    """The second is refused, in words that say why."""
    with (
        Deduplicator(stage.sources, stage.production),
        pytest.raises(ArchiveError, match="another deduplicator"),
        Deduplicator(stage.sources, stage.production, patience_s=0.1),
    ):
        pass


def test_a_new_database_under_an_old_name_is_read_from_its_beginning(
    stage: Stage, new_archive: MakeArchive
) -> None:
    """A database made anew counts from 1 again, and nothing of it is passed over."""
    stage.store(*everything(8))
    stage.merge()
    stage.sources["a"] = new_archive("local")
    stage.store(*(delta("a", number, change(3_000 + number, 100)) for number in range(1, 4)))

    stage.merge()

    stage.check()


def test_a_source_that_was_put_back_is_read_from_its_beginning(stage: Stage) -> None:
    """Restored from a backup, transactions count from an earlier number, and none is passed over."""
    stage.store(*everything(9))
    stage.merge()
    with psycopg.connect(stage.production) as connection:
        connection.execute(
            "UPDATE cursors SET transaction_id = transaction_id + 1000000 WHERE subject LIKE 'a/%'"
        )
    stage.store(*(delta("a", number, change(3_000 + number, 100)) for number in range(1_000, 1_004)))

    stage.merge()

    stage.check()


def test_a_cold_copy_that_went_on_is_read_from_its_beginning(
    new_database: Callable[[], str], own_server: PostgresServer
) -> None:
    """Its files copied back, it counts beyond the cursor before anybody looks: no row is missed."""

    def make(variant: Variant) -> str:
        dsn = own_server.create_database() if variant == "local" else new_database()
        with psycopg.connect(dsn) as connection:
            migrate(connection, variant)
        return dsn

    stage = Stage(make)
    stage.store(*everything(10))
    stage.merge()
    copy = own_server.folder / "copy"
    own_server.stop()
    shutil.copytree(own_server.folder / "data", copy)
    own_server.start()
    stage.store(*(delta("a", number, change(3_000 + number, 100)) for number in range(1_000, 1_020)))
    stage.merge()
    own_server.stop()
    shutil.rmtree(own_server.folder / "data")
    copy.rename(own_server.folder / "data")
    _give(own_server.folder / "data")
    own_server.start()
    # One transaction each, so that numbers are beyond those that were read, although rows are fewer.
    for number in range(2_000, 2_060):
        stage.store(delta("a", number, change(3_000 + number, 100), "c2"))

    stage.merge()

    stage.check()


def _give(folder: Path) -> None:
    """Let the server own its files again, where this is not its own user."""
    owner = folder.parent.stat()
    for path in (folder, *folder.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)


def test_a_source_that_takes_no_notes_is_read(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """A role that may only read is warned of once; nothing is read twice for want of a note."""
    stage.store(*everything(12))
    with psycopg.connect(stage.sources["a"]) as connection:
        (name,) = connection.execute("SELECT current_database()").fetchone() or ("",)
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
    with Deduplicator(stage.sources, stage.production) as dedup:
        dedup.drain()
        again = dedup.round()

    stage.check()
    assert 0 == again.rows
    assert 1 == sum("may be missed" in record.message for record in caplog.records)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("order", ["ab", "ba"])
def test_a_trade_whose_time_is_rounded_otherwise_is_one(stage: Stage, order: str, together: bool) -> None:
    """An id seen a moment before or after is the same trade, whoever is merged first."""
    for number, source in enumerate(order):
        stage.store(trade(source, number, "t-1", NOW_US + (source == "b") * 1_000))
        if not together:
            stage.merge()
    stage.merge()

    stage.check()
    with psycopg.connect(stage.production) as connection:
        assert [("t-1",)] == connection.execute("SELECT trade_id FROM trades").fetchall()


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("order", ["ab", "ba", "aba", "bab"])
def test_a_trade_without_a_time_is_the_one_of_its_id(stage: Stage, order: str, together: bool) -> None:
    """Source b gives no time, and received it hours later: one row, and it stands at the exchange's time."""
    late_us = 5 * 3_600_000_000
    for number, source in enumerate(order):
        seen = trade(source, number, "t-1", None if source == "b" else NOW_US)
        stage.store(seen._replace(received_us=NOW_US + 40_000 + number + (source == "b") * late_us))
        if not together:
            stage.merge()
    stage.merge()

    stage.check()
    with psycopg.connect(stage.production) as connection:
        connection.execute("SET TIME ZONE 'UTC'")
        (found,) = connection.execute(
            "SELECT trade_id, exchange_us, extract(epoch FROM exchange_at) * 1000000 FROM trades"
        ).fetchall()
    assert ("t-1", NOW_US, NOW_US) == found


def test_a_trade_whose_time_nobody_knows_is_one(stage: Stage) -> None:
    """Without any time it stands at the first receipt that was merged, and is one row."""
    for number, source in enumerate(SOURCES):
        stage.store(trade(source, number * 2_000_000, "t-1", None))
        stage.merge()

    stage.check()


def test_no_table_is_read_beyond_the_changes(stage: Stage) -> None:
    """While changes wait to be merged, no other frame of the connection says that it was watched."""
    last = NOW_US + 60_000_000
    for number in range(1, 41):
        at_us = NOW_US + number * 1_000_000
        seen = delta("a", number, change(4_000, number, at_us))._replace(received_us=at_us)
        values = (4_000, None, number, 0, 0, None)
        stage.store(seen, TickerRow("a", "a.c1", 4, number, at_us, at_us, "KXA-1", *values))
    stage.store(SnapshotRow(*("a", "a.c1", 1, 41, last, last, "KXA-1", 1, 2), (), (), (), ()))
    more = True
    with Deduplicator(stage.sources, stage.production, batch_rows=7) as dedup:
        while more:
            more = dedup.round().more
            assert more == dedup.states["a"].behind
            with psycopg.connect(stage.production) as connection:
                found = connection.execute(
                    "SELECT (SELECT max(last_us) FROM streams), max(received_us) FROM orderbook_deltas"
                ).fetchone()
            assert found is not None
            assert found[0] <= found[1] or not more
    stage.check()


def test_a_database_that_is_not_migrated_is_named(stage: Stage, new_database: Callable[[], str]) -> None:
    """An empty database is not taken for one without rows."""
    with (
        pytest.raises(ArchiveError, match="no production archive"),
        Deduplicator(stage.sources, new_database()),
    ):
        pass
    with Deduplicator({"a": new_database()}, stage.production) as dedup:
        dedup.drain()

        assert "not migrated" in str(dedup.states["a"].error)


def test_changes_without_an_exchange_time_are_not_one(stage: Stage) -> None:
    """Without the exchange's time nothing tells that two sources saw the same, so both are kept."""
    stage.store(*(delta(source, number, change(4_000, 100, None)) for number, source in enumerate(SOURCES)))

    stage.merge()

    stage.check()
    assert 3 == len(held(stage.production))


def test_production_holds_what_happened(new_archive: MakeArchive) -> None:
    """Without a loss common to all, every change is there as often as it happened."""
    scenario = Scenario(4, frames=600, loss=0, cuts=0)
    _, production = gathered(scenario, new_archive)

    with psycopg.connect(production) as connection:
        rows = connection.execute(
            "SELECT ticker, exchange_us, side, price, change, count FROM orderbook_deltas"
        )
        found = sorted(tuple(row[:5]) for row in rows for _ in range(row[5]))

    assert scenario.happened() == found
