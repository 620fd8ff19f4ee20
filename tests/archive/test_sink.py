import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
import trio

from kalshibook.archive.entries import Counts
from kalshibook.archive.migrate import migrate
from kalshibook.archive.options import ArchiveOptions
from kalshibook.archive.rows import gap_row
from kalshibook.archive.sink import ArchiveSink, FrameCodec
from kalshibook.archive.writer import ArchiveWriter
from kalshibook.cli.gather import _archive
from kalshibook.errors import ArchiveError
from kalshibook.feeds import EmbeddedBroker
from kalshibook.gather.gatherer import Gatherer
from kalshibook.gather.options import GatherOptions
from kalshibook.gather.records import Received, Sink, SinkCounts
from kalshibook.settings import Argument, load_settings
from kalshibook.simulator.options import SimulatorOptions
from kalshibook.simulator.server import SimulatedExchange
from kalshibook.wire import GapRecord, decode_frame
from tests.archive.entries import ENTRIES, GAP, START_US, count, deltas, frame, query, received
from tests.archive.test_consumer import Running
from tests.archive.test_writer import wait_for
from tests.gather.gathering import EXCHANGE, GATHERER, TOPICS, kafka_of

pytestmark = pytest.mark.postgres


@pytest.fixture
def new_dsn(new_database: Callable[[], str]) -> Callable[[], str]:
    def make() -> str:
        dsn = new_database()
        with psycopg.connect(dsn) as connection:
            migrate(connection, "local")
        return dsn

    return make


def options(dsn: str, folder: Path, **changes: Any) -> ArchiveOptions:
    return msgspec.structs.replace(
        ArchiveOptions(dsn=dsn, batch_rows=50, batch_ms=20, spill_folder=str(folder)), **changes
    )


def test_frames_become_rows(new_dsn: Callable[[], str], tmp_path: Path) -> None:
    """It fits where a gatherer's sinks go; every frame is a row, a dead letter, or none of its business."""
    dsn = new_dsn()
    sink = ArchiveSink(options(dsn, tmp_path), "gatherer-1", SinkCounts)
    fits: Sink = sink
    sink.start()
    for number in range(1, 201):
        fits.offer(received(number))
    fits.offer(received(201, b'{"type":"orderbook_delta","msg":{}}'))
    fits.offer(Received(b'{"type":"ok"}', "c1", START_US, "ok"))
    assert sink.stop()

    assert SinkCounts(202, 202, 0, 0) == fits.counts()
    assert Counts(201, 200, 0, 1) == sink.statistics().rows
    assert 200 == count(dsn, "orderbook_deltas")
    assert [("gatherer-1/c1", b'{"type":"orderbook_delta","msg":{}}')] == [
        (place, bytes(payload)) for place, payload in query(dsn, "SELECT place, payload FROM dead_letters")
    ]


def test_no_frame_ends_the_writing(
    new_dsn: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame that meets a fault of ours is kept with its bytes, and the next ones are stored."""
    dsn = new_dsn()

    def faulty(frame: bytes) -> object:
        if b'"seq":2,' in frame:
            raise KeyError("a fault")
        return decode_frame(frame)

    monkeypatch.setattr("kalshibook.archive.sink.decode_frame", faulty)
    sink = ArchiveSink(options(dsn, tmp_path), "gatherer-1", SinkCounts)
    sink.start()
    for number in range(1, 4):
        sink.offer(received(number))
    assert sink.stop()

    assert Counts(3, 2, 0, 1) == sink.statistics().rows
    assert [("KeyError: 'a fault'", frame(2))] == [
        (reason, bytes(payload)) for reason, payload in query(dsn, "SELECT reason, payload FROM dead_letters")
    ]


def test_housekeeping_is_done_beside(new_dsn: Callable[[], str], tmp_path: Path) -> None:
    """A gatherer that writes its own database keeps it tidy, too."""
    times = iter([0.0] + [601.0] * 100_000)
    done: list[bool] = []
    with ArchiveWriter(
        options(new_dsn(), tmp_path), ENTRIES, upkeep=lambda: done.append(True), clock_s=lambda: next(times)
    ) as writer:
        writer.offer(deltas(1)[0])
        wait_for(lambda: writer.statistics().processed == 1)

    assert [True] == done


@pytest.mark.trio
async def test_the_sink_and_the_topic_hold_the_same(new_dsn: Callable[[], str], tmp_path: Path) -> None:
    """What a gatherer writes itself is, row by row, what a reader of its topic writes elsewhere."""
    own, read = new_dsn(), new_dsn()
    sink = ArchiveSink(options(own, tmp_path), "g1", SinkCounts)
    sink.start()
    with EmbeddedBroker(TOPICS) as broker:
        async with SimulatedExchange(SimulatorOptions(**EXCHANGE)) as exchange:
            found = GatherOptions(
                environment="custom", rest_url=exchange.rest_url, stream_url=exchange.stream_url, **GATHERER
            )
            gatherer = Gatherer(
                found,
                kafka_of(broker),
                markets=exchange.tickers,
                sinks=[sink],
                gap_listeners=[sink.record_gap],
                seed=1,
            )
            async with gatherer:
                with trio.fail_after(30):
                    await gatherer.wait_live()
                for _ in range(20):
                    exchange.step(100)
                    await trio.sleep(0.02)
        assert await trio.to_thread.run_sync(sink.stop)
        published = count(own, "orderbook_deltas")

        def follow() -> None:
            with Running(broker, ArchiveOptions(dsn=read, snapshot_interval_s=0)):
                wait_for(lambda: count(read, "orderbook_deltas") >= published)

        await trio.to_thread.run_sync(follow)

    assert published > 500
    for table, columns in (
        ("orderbook_deltas", "sid, sequence, received_us, exchange_us, ticker, side, price, change"),
        ("orderbook_snapshots", "sid, sequence, received_us, ticker, kind, yes_prices, yes_sizes, no_sizes"),
        ("trades", "trade_id, exchange_us, received_us, ticker, yes_price, size, taker_side"),
        ("tickers", "sid, digest, received_us, ticker, last_price, volume, open_interest"),
    ):
        statement = f"SELECT name, {columns} FROM {table} JOIN connections USING (connection_id)"
        assert sorted(query(own, statement), key=str) == sorted(query(read, statement), key=str), table
    assert 0 == count(own, "dead_letters")


@pytest.mark.trio
async def test_in_gatherer_is_a_sink_of_the_gatherer(new_dsn: Callable[[], str], tmp_path: Path) -> None:
    """The setting adds the archive to what `kalshibook gather` hands frames to; without it there is none."""
    dsn = new_dsn()
    given = [f"archive.dsn={dsn}", "archive.in_gatherer=true", f"archive.spill_folder={tmp_path}"]
    arguments = [Argument.parse(text) for text in given]
    async with _archive(load_settings(environ={}, arguments=arguments).settings) as sinks:
        (sink,) = sinks
        sink.offer(received(1))
    async with _archive(load_settings(environ={}, arguments=arguments[:1]).settings) as none:
        assert [] == none

    assert 1 == count(dsn, "orderbook_deltas")


def test_the_journal_says_whose_frames_they_are(new_dsn: Callable[[], str], tmp_path: Path) -> None:
    """What a gatherer left is stored as its own, also after a restart under another name."""
    dsn = new_dsn()
    first = ArchiveSink(options("postgresql://postgres@127.0.0.1:1/none", tmp_path), "before", SinkCounts)
    first.start()
    first.offer(received(1))
    first.record_gap(GAP_RECORD)
    assert first.stop()
    second = ArchiveSink(options(dsn, tmp_path), "after", SinkCounts)
    second.start()
    second.offer(received(2))
    assert second.stop()

    assert [("before", 1), ("after", 2)] == query(
        dsn, "SELECT name, sequence FROM orderbook_deltas JOIN sources USING (source_id) ORDER BY sequence"
    )
    assert [(GAP.gap_id,)] == query(dsn, "SELECT gap_id FROM gaps")


GAP_RECORD = GapRecord(
    id=GAP.gap_id,
    source="before",
    connection="c1",
    sid=2,
    channel="orderbook_delta",
    cause="gap",
    from_sequence=5,
    to_sequence=9,
    markets=1,
    tickers=("KXFROG-T40",),
    detected_us=START_US,
)


def test_a_record_comes_back_as_it_was() -> None:
    """Frames and gaps survive the journal byte by byte; what is something else is refused."""
    codec = FrameCodec("gatherer-1")
    frames = [received(1), received(2, b'{"type":"orderbook_delta"}'), received(3)]

    entries = codec.decode(codec.encode([*frames, GAP_RECORD]))

    assert [one.frame for one in frames] == [entry.payload for entry in entries[:3]]
    assert [1, 0, 1, 1] == [len(entry.rows) for entry in entries]
    assert entries[1].refused is not None
    (row,) = entries[0].rows
    assert ("gatherer-1", "c1", 2, 1, START_US + 1) == row[:5]
    assert gap_row(GAP_RECORD) == entries[3].rows[0]
    with pytest.raises(ArchiveError, match="ValidationError: Expected `array`"):
        codec.decode(b"nonsense")


KILLED = """
import os, signal, sys
from kalshibook.archive.options import ArchiveOptions
from kalshibook.archive.sink import FrameCodec
from kalshibook.archive.writer import ArchiveWriter
from tests.archive.entries import received

dsn, folder, first, kill_at = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])

def step(name):
    global kill_at
    kill_at -= 1
    if not kill_at:
        # From whichever thread: what it says is how much was journaled before it died.
        os.write(1, b"%s %d" % (name.encode(), writer.statistics().processed))
        os.kill(os.getpid(), signal.SIGKILL)

options = ArchiveOptions(dsn=dsn, batch_rows=20, batch_ms=5, spill_folder=folder)
writer = ArchiveWriter(options, FrameCodec("gatherer-1"), on_step=step)
with writer:
    for number in range(first, first + 100):
        writer.offer(received(number))
"""


def test_kill_9_at_any_step_takes_nothing_that_was_journaled(
    new_dsn: Callable[[], str], tmp_path: Path
) -> None:
    """Killed at each step in turn, its database up or down: all that was journaled is stored, each once."""
    dsn = new_dsn()
    folder = tmp_path / "spill"
    kept: set[int] = set()
    steps: set[str] = set()
    for turn in range(1, 15):
        first = turn * 1_000
        # In every third turn there is no database, so that files of several lives lie in the journal.
        target = "postgresql://postgres@127.0.0.1:1/none" if turn % 3 == 0 else dsn
        run = subprocess.run(
            [sys.executable, "-c", KILLED, target, str(folder), str(first), str(turn)],
            check=False,
            capture_output=True,
            text=True,
        )
        assert run.returncode in {0, -signal.SIGKILL}, run.stderr
        step, _, processed = (run.stdout or "finished 100").partition(" ")
        steps.add(step)
        kept.update(range(first, first + int(processed)))
    with ArchiveWriter(options(dsn, folder), FrameCodec("gatherer-1")) as writer:
        wait_for(lambda: writer.statistics().journal_bytes == 0)

    stored = [row[0] for row in query(dsn, "SELECT sequence FROM orderbook_deltas")]
    assert set() == kept - set(stored)
    assert len(stored) == len(set(stored))
    assert {"journaled", "stored", "removed"} <= steps
    assert not [*folder.glob("*.damaged-*")]
    assert 0 == count(dsn, "dead_letters")


def test_kill_9_at_random_takes_nothing_that_was_journaled(
    new_dsn: Callable[[], str], tmp_path: Path
) -> None:
    """Killed from outside, in the middle of whatever it does: the same holds."""
    dsn = new_dsn()
    dice = random.Random(9)
    kept: set[int] = set()
    for turn in range(4):
        first = 1 + turn * 10_000_000
        target = dsn if turn % 2 == 0 else "postgresql://postgres@127.0.0.1:1/none"
        process = subprocess.Popen(
            [sys.executable, "-c", LIVELY, target, str(tmp_path / "spill"), str(first)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        processed, enough = 0, dice.randrange(200, 3_000)
        for line in process.stdout:
            processed = int(line)
            if processed >= enough:
                break
        process.kill()
        process.communicate()
        kept.update(range(first, first + processed))
    with ArchiveWriter(options(dsn, tmp_path / "spill"), FrameCodec("gatherer-1")) as writer:
        wait_for(lambda: writer.statistics().journal_bytes == 0)

    stored = [row[0] for row in query(dsn, "SELECT sequence FROM orderbook_deltas")]
    assert set() == kept - set(stored)
    assert len(stored) == len(set(stored))
    assert 0 == count(dsn, "dead_letters")


LIVELY = """
import sys
from kalshibook.archive.options import ArchiveOptions
from kalshibook.archive.sink import FrameCodec
from kalshibook.archive.writer import ArchiveWriter
from tests.archive.entries import received

dsn, folder, first = sys.argv[1], sys.argv[2], int(sys.argv[3])
options = ArchiveOptions(dsn=dsn, batch_rows=20, batch_ms=5, spill_folder=folder)
writer = ArchiveWriter(options, FrameCodec("gatherer-1"))
writer.start()
for number in range(first, first + 5_000):
    while writer.is_full:
        pass
    writer.offer(received(number))
    if number % 10 == 0:
        print(writer.statistics().processed, flush=True)
"""
