import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from kalshibook.archive.entries import Counts
from kalshibook.archive.journal import Journal
from kalshibook.archive.migrate import migrate
from kalshibook.archive.options import ArchiveOptions
from kalshibook.archive.writer import ArchiveWriter
from tests.archive.entries import ENTRIES, count, deltas, query
from tests.archive.postgres import PostgresServer

pytestmark = pytest.mark.postgres


@pytest.fixture
def dsn(own_server: PostgresServer) -> str:
    found = own_server.create_database()
    with psycopg.connect(found) as connection:
        migrate(connection, "local")
    return found


@pytest.fixture
def options(dsn: str, tmp_path: Path) -> ArchiveOptions:
    return ArchiveOptions(dsn=dsn, batch_rows=50, batch_ms=20, spill_folder=str(tmp_path / "spill"))


def wait_for(condition: Callable[[], bool], timeout: float = 30.0) -> None:
    """Wait until something holds that no event tells."""
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it does not come true"
        pause.wait(0.01)


def test_all_that_is_offered_is_stored(options: ArchiveOptions, dsn: str) -> None:
    """By the time it has stopped every row is in the database, once, and counted."""
    with ArchiveWriter(options, ENTRIES) as writer:
        for entry in [*deltas(500), *deltas(10)]:
            writer.offer(entry)

    found = writer.statistics()
    assert (510, 510, 0, 0) == (found.offered, found.processed, found.dropped, found.waiting)
    assert Counts(510, 500, 10, 0) == found.rows
    assert 500 == count(dsn, "orderbook_deltas")


def test_batch_rows_bounds_a_transaction(options: ArchiveOptions, dsn: str) -> None:
    """No transaction holds more rows than the setting says."""
    with ArchiveWriter(options, ENTRIES) as writer:
        for entry in deltas(500):
            writer.offer(entry)

    largest = query(
        dsn, "SELECT max(rows) FROM (SELECT count(*) AS rows FROM orderbook_deltas GROUP BY xid) x"
    )
    assert [(50,)] == largest


def test_batch_ms_is_how_long_a_row_waits(options: ArchiveOptions, tmp_path: Path) -> None:
    """A single row is stored when its time has come, long before a batch is full."""
    import msgspec

    patient = msgspec.structs.replace(options, batch_ms=3_600_000, spill_folder=str(tmp_path / "other"))
    with ArchiveWriter(options, ENTRIES) as hasty, ArchiveWriter(patient, ENTRIES) as waiting:
        hasty.offer(deltas(1)[0])
        waiting.offer(deltas(1, 2)[0])
        wait_for(lambda: hasty.statistics().rows.taken == 1)
        wait_for(lambda: waiting.statistics().processed == 1)

        assert 0 == waiting.statistics().rows.taken


def test_a_killed_database_costs_nothing(
    options: ArchiveOptions, dsn: str, own_server: PostgresServer
) -> None:
    """What comes while it is down goes to the disk, and into the database in its order when it is back."""
    with ArchiveWriter(options, ENTRIES) as writer:
        for entry in deltas(100):
            writer.offer(entry)
        wait_for(lambda: writer.statistics().rows.taken == 100)
        own_server.kill()
        for entry in deltas(1_000, 101):
            writer.offer(entry)
        wait_for(lambda: writer.statistics().down is not None)
        wait_for(lambda: writer.statistics().processed == 1_100)
        waiting = writer.statistics()
        own_server.start()
        for entry in deltas(100, 1_101):
            writer.offer(entry)
        wait_for(lambda: writer.statistics().rows.taken >= 1_200)

    assert waiting.journal_bytes > 0
    assert Counts(1_200, 1_200, 0, 0) == writer.statistics().rows
    assert list(range(1, 1_201)) == [
        row[0] for row in query(dsn, "SELECT sequence FROM orderbook_deltas ORDER BY xid, ingest")
    ]
    assert 0 == writer.statistics().journal_bytes


def test_what_is_journaled_survives_a_stop(
    options: ArchiveOptions, dsn: str, own_server: PostgresServer
) -> None:
    """The next writer begins with what the one before could not store."""
    own_server.kill()
    with ArchiveWriter(options, ENTRIES) as writer:
        for entry in deltas(300):
            writer.offer(entry)
    assert 300 == writer.statistics().processed
    own_server.start()

    with ArchiveWriter(options, ENTRIES) as again:
        wait_for(lambda: again.statistics().rows.taken == 300)

    assert 300 == count(dsn, "orderbook_deltas")


def test_a_journal_that_cannot_be_read_just_then_is_read_again(
    options: ArchiveOptions, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of the disk while draining ends neither the writing nor the draining."""
    journal = Journal(options.spill_folder, options.spill_bytes, ENTRIES.decode)
    journal.append(ENTRIES.encode(deltas(20)))
    journal.close()
    writer = ArchiveWriter(options, ENTRIES)
    read, failures = Path.read_bytes, [OSError(errno.EIO, "Input/output error")]

    def read_bytes(path: Path) -> bytes:
        if failures:
            raise failures.pop()
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with writer:
        wait_for(lambda: count(dsn, "orderbook_deltas") == 20)

    assert not failures
    assert 0 == writer.statistics().journal_bytes


def test_a_full_journal_pushes_back(options: ArchiveOptions, dsn: str, own_server: PostgresServer) -> None:
    """When neither takes anything the queue fills and says so; nothing is dropped."""
    import msgspec

    small = msgspec.structs.replace(options, spill_bytes=20_000, queue_rows=200)
    own_server.kill()
    entries = iter(deltas(5_000))
    offered = 0
    with ArchiveWriter(small, ENTRIES) as writer:
        while offered < 5_000:
            if writer.is_full:
                if own_server.running:
                    wait_for(lambda: not writer.is_full)
                    continue
                assert writer.statistics().journal_bytes <= 20_000
                own_server.start()
                continue
            writer.offer(next(entries))
            offered += 1

    assert 0 == writer.statistics().dropped
    with ArchiveWriter(small, ENTRIES) as again:
        wait_for(lambda: again.statistics().journal_bytes == 0)
    assert 5_000 == count(dsn, "orderbook_deltas")


def test_a_stop_waits_for_room_while_the_database_answers(options: ArchiveOptions, dsn: str) -> None:
    """A journal at its bound is no reason to drop anything that the database will take in a moment."""
    import msgspec

    writer = ArchiveWriter(msgspec.structs.replace(options, spill_bytes=20_000), ENTRIES)
    stopping = threading.Thread(target=writer.stop)
    with psycopg.connect(dsn) as connection:
        connection.execute("LOCK TABLE orderbook_deltas")
        writer.start()
        for entry in deltas(1_000):
            writer.offer(entry)
        wait_for(lambda: bool(query(dsn, _WAITING)))
        wait_for(lambda: 0 < writer.statistics().waiting < 1_000)
        stopping.start()
        wait_for(writer._stopping.is_set)
    stopping.join()

    assert 0 == writer.statistics().dropped
    assert 1_000 == count(dsn, "orderbook_deltas")


def test_a_missing_table_is_waited_for(options: ArchiveOptions, dsn: str) -> None:
    """A database that nobody has migrated is no reason to lose anything, nor to blame rows."""
    with psycopg.connect(dsn) as connection:
        connection.execute("ALTER TABLE orderbook_deltas RENAME TO elsewhere")
    with ArchiveWriter(options, ENTRIES) as writer:
        for entry in deltas(100):
            writer.offer(entry)
        wait_for(lambda: writer.statistics().down is not None)
        with psycopg.connect(dsn) as connection:
            connection.execute("ALTER TABLE elsewhere RENAME TO orderbook_deltas")
        wait_for(lambda: writer.statistics().rows.stored == 100)

    assert 0 == count(dsn, "dead_letters")


def test_a_full_disk_is_passed_by(options: ArchiveOptions, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk takes nothing and the database does, rows go straight there, behind the journal."""
    write, is_full = os.write, threading.Event()

    def limited(output: int, data: bytes) -> int:
        if is_full.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(output, data)

    monkeypatch.setattr(os, "write", limited)
    with ArchiveWriter(options, ENTRIES) as writer:
        for entry in deltas(100):
            writer.offer(entry)
        wait_for(lambda: writer.statistics().processed == 100)
        is_full.set()
        for entry in deltas(200, 101):
            writer.offer(entry)
        wait_for(lambda: writer.statistics().processed == 300)
        is_full.clear()
        for entry in deltas(100, 301):
            writer.offer(entry)

    assert Counts(400, 400, 0, 0) == writer.statistics().rows
    assert list(range(1, 401)) == [
        row[0] for row in query(dsn, "SELECT sequence FROM orderbook_deltas ORDER BY xid, ingest")
    ]


def test_what_comes_during_a_transaction_is_journaled(options: ArchiveOptions, dsn: str) -> None:
    """A database that takes its time does not keep messages in memory, where a kill would take them."""
    with ArchiveWriter(options, ENTRIES) as writer, psycopg.connect(dsn) as connection:
        connection.execute("LOCK TABLE orderbook_deltas")
        for entry in deltas(100):
            writer.offer(entry)
        wait_for(lambda: bool(query(dsn, _WAITING)))
        for entry in deltas(900, 101):
            writer.offer(entry)
        wait_for(lambda: writer.statistics().processed == 1_000)
        assert 0 == writer.statistics().rows.taken

    assert 1_000 == count(dsn, "orderbook_deltas")


_WAITING = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"


def test_an_outage_has_the_disk_keep_what_waits(
    options: ArchiveOptions, own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the database is down the journal is synced at each attempt; a power cut then takes seconds."""
    synced = threading.Event()
    sync = Journal.sync

    def watched(journal: Journal[object]) -> None:
        sync(journal)
        if journal.size:
            synced.set()

    monkeypatch.setattr(Journal, "sync", watched)
    own_server.kill()
    with ArchiveWriter(options, ENTRIES) as writer:
        writer.offer(deltas(1)[0])

        assert synced.wait(30)
