import random
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
from kalshibook.archive.sink import ArchiveSink
from kalshibook.archive.writer import ArchiveWriter
from kalshibook.cli.gather import _archive
from kalshibook.feeds import EmbeddedBroker
from kalshibook.gather.gatherer import Gatherer
from kalshibook.gather.options import GatherOptions
from kalshibook.gather.records import Received, Sink, SinkCounts
from kalshibook.settings import Argument, load_settings
from kalshibook.simulator.options import SimulatorOptions
from kalshibook.simulator.server import SimulatedExchange
from kalshibook.wire import decode_frame
from tests.archive.entries import START_US, count, deltas, query
from tests.archive.test_consumer import Running, delta
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


def received(number: int, frame: bytes | None = None) -> Received:
    return Received(frame or delta(number), "c1", START_US + number, "orderbook_delta", 2, number)


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
    assert [("KeyError: 'a fault'", delta(2))] == [
        (reason, bytes(payload)) for reason, payload in query(dsn, "SELECT reason, payload FROM dead_letters")
    ]


def test_housekeeping_is_done_beside(new_dsn: Callable[[], str], tmp_path: Path) -> None:
    """A gatherer that writes its own database keeps it tidy, too."""
    times = iter([0.0] + [601.0] * 100_000)
    done: list[bool] = []
    with ArchiveWriter(
        options(new_dsn(), tmp_path), upkeep=lambda: done.append(True), clock_s=lambda: next(times)
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


KILLED = """
import sys
from kalshibook.archive.options import ArchiveOptions
from kalshibook.archive.writer import ArchiveWriter
from tests.archive.entries import deltas

dsn, folder, first = sys.argv[1], sys.argv[2], int(sys.argv[3])
writer = ArchiveWriter(ArchiveOptions(dsn=dsn, batch_rows=20, batch_ms=5, spill_folder=folder))
writer.start()
for entry in deltas(5_000, first):
    while writer.is_full:
        pass
    writer.offer(entry)
    if int(entry.payload) % 10 == 0:
        print(writer.statistics().processed, flush=True)
"""


def test_kill_9_takes_nothing_that_was_processed(new_dsn: Callable[[], str], tmp_path: Path) -> None:
    """Killed with its database up or down: what was processed comes into the database, each once."""
    dsn = new_dsn()
    dice = random.Random(9)
    kept: set[int] = set()
    for turn in range(4):
        first = 1 + turn * 10_000_000
        # In every second turn there is no database, so that all goes to the disk.
        target = dsn if turn % 2 == 0 else "postgresql://postgres@127.0.0.1:1/none"
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, target, str(tmp_path / "spill"), str(first)],
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
    with ArchiveWriter(options(dsn, tmp_path / "spill")) as writer:
        wait_for(lambda: writer.statistics().spilt_bytes == 0)

    stored = [row[0] for row in query(dsn, "SELECT sequence FROM orderbook_deltas")]
    assert set() == kept - set(stored)
    assert len(stored) == len(set(stored))
    assert 0 == count(dsn, "dead_letters")
