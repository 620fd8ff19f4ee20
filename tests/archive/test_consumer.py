import itertools
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import msgspec
import psycopg
import pytest
from confluent_kafka import Producer

from kalshibook.archive.consumer import KafkaArchiver
from kalshibook.archive.entries import Counts
from kalshibook.archive.migrate import migrate
from kalshibook.archive.options import ArchiveOptions
from kalshibook.errors import FeedError
from kalshibook.feeds import EmbeddedBroker, KafkaOptions, Publisher
from kalshibook.wire.gaps import GapRecord, encode_gap
from tests.archive.entries import START_US, count, query
from tests.archive.postgres import PostgresServer
from tests.archive.test_writer import wait_for

pytestmark = pytest.mark.postgres

TOPIC, GAPS = "market-data-all", "market-data-gaps"
SESSION: dict[str, str | int | bool] = {"session.timeout.ms": 6_000, "fetch.wait.max.ms": 5}


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker({TOPIC: 4, GAPS: 1}) as made:
        yield made


@pytest.fixture
def dsn(new_database: Callable[[], str]) -> str:
    found = new_database()
    with psycopg.connect(found) as connection:
        migrate(connection, "local")
    return found


def delta(number: int, **changes: Any) -> bytes:
    message = {
        "market_ticker": f"KXFROG-T{number % 23}",
        "side": "yes",
        "price_dollars": "0.4000",
        "delta_fp": f"{number}.00",
        "ts_ms": START_US // 1_000 + number,
    }
    frame = {"type": "orderbook_delta", "sid": 2, "seq": number, "msg": message | changes}
    return msgspec.json.encode(frame)


def publish(broker: EmbeddedBroker, first: int, end: int) -> None:
    with Publisher(str(broker), source="gatherer-1") as publisher:
        for number in range(first, end):
            publisher.publish(delta(number), connection="c1", received_us=START_US + number)


def options(dsn: str, **changes: Any) -> ArchiveOptions:
    return msgspec.structs.replace(
        ArchiveOptions(dsn=dsn, batch_rows=100, batch_ms=50, snapshot_interval_s=0), **changes
    )


class Running:
    """An archiver on a thread."""

    def __init__(self, broker: EmbeddedBroker, given: ArchiveOptions) -> None:
        self.archiver = KafkaArchiver(KafkaOptions(bootstrap_servers=str(broker), extra=SESSION), given)
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.archiver.run()
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.error = error

    @property
    def stored(self) -> int:
        return self.archiver.statistics().rows.stored

    def stop(self) -> None:
        self.archiver.stopping.set()
        self._thread.join(30)
        assert not self._thread.is_alive()
        assert self.error is None, self.error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def stored_numbers(dsn: str) -> list[int]:
    return [row[0] for row in query(dsn, "SELECT sequence FROM orderbook_deltas ORDER BY sequence")]


def test_a_topic_becomes_rows(broker: EmbeddedBroker, dsn: str) -> None:
    """Every record is a row, and the cursors stand where the partitions end."""
    publish(broker, 1, 2_001)
    with Running(broker, options(dsn)) as running:
        wait_for(lambda: running.stored == 2_000)

    assert list(range(1, 2_001)) == stored_numbers(dsn)
    assert [(2_000, 4)] == query(dsn, "SELECT sum(position)::int, count(*) FROM cursors")
    assert [("kafka:kalshibook-archive", 4)] == query(
        dsn, "SELECT reader, count(*) FROM cursors GROUP BY reader"
    )


def test_reading_goes_on_where_it_ended(broker: EmbeddedBroker, dsn: str) -> None:
    """The next run reads what is new and nothing twice; another group has cursors of its own."""
    publish(broker, 1, 201)
    with Running(broker, options(dsn)) as first:
        wait_for(lambda: first.stored == 200)
    publish(broker, 201, 301)
    with Running(broker, options(dsn)) as second:
        wait_for(lambda: second.stored == 100)
    with Running(broker, options(dsn, group="another")) as third:
        wait_for(lambda: third.archiver.statistics().rows.taken == 300)

    assert 100 == second.archiver.statistics().records
    assert Counts(300, 0, 300, 0) == third.archiver.statistics().rows
    assert 300 == count(dsn, "orderbook_deltas")


def test_it_notes_how_far_each_partition_reaches(broker: EmbeddedBroker, dsn: str) -> None:
    """By the notices that a gatherer gives to each; the one that is furthest behind counts."""
    times = iter([START_US, *[START_US + 5_000_000] * 10])
    with Publisher(str(broker), source="gatherer-1", clock_us=lambda: next(times)) as publisher:
        publisher.notify("alive", interval_ms=1_000)
        publisher.notify("stale", reason="diverged", market_ticker="KXFROG-T1")
    with Running(broker, options(dsn)):
        wait_for(lambda: count(dsn, "reaches") == 4)
        wait_for(lambda: query(dsn, "SELECT max(received_us) FROM reaches") == [(START_US + 5_000_000,)])

    assert [(START_US, 3), (START_US + 5_000_000, 1)] == query(
        dsn, "SELECT received_us, count(*) FROM reaches GROUP BY 1 ORDER BY 1"
    )
    assert [("gatherer-1", START_US)] == query(
        dsn, "SELECT name, reach_us FROM source_reaches JOIN sources USING (source_id)"
    )


def test_a_topic_that_was_renamed_holds_nothing_back(dsn: str) -> None:
    """Of several topics and groups the one that is furthest on counts."""
    with psycopg.connect(dsn) as connection:
        connection.execute("INSERT INTO sources (name) VALUES ('gatherer-1')")
        for reader, subject, reach in (
            *(("kafka:g", "old/0", 10), ("kafka:g", "old/1", 11)),
            *(("kafka:g", "new/0", 21), ("kafka:g", "new/1", 20)),
            ("kafka:former", "new/0", 15),
        ):
            connection.execute("INSERT INTO reaches VALUES (%s, %s, 1, %s)", [reader, subject, reach])

    assert [(1, 20)] == query(dsn, "SELECT * FROM source_reaches")


def test_what_cannot_be_read_is_kept(broker: EmbeddedBroker, dsn: str) -> None:
    """A record that is no envelope becomes a dead letter with its place, and reading goes on."""
    producer = Producer({"bootstrap.servers": str(broker)})
    producer.produce(TOPIC, b"\xff not an envelope", b"KXFROG-T1", partition=2)
    producer.produce(TOPIC, None, b"KXFROG-T1", partition=2)
    producer.flush(10)
    publish(broker, 1, 11)
    with Running(broker, options(dsn)) as running:
        wait_for(lambda: running.archiver.statistics().records == 12)

    ((place, payload, reason),) = query(dsn, "SELECT place, payload, reason FROM dead_letters")
    assert (f"{TOPIC}/2@0", b"\xff not an envelope") == (place, bytes(payload))
    assert reason.startswith("$: ")
    assert 10 == count(dsn, "orderbook_deltas")


def test_gaps_are_stored_beside(broker: EmbeddedBroker, dsn: str) -> None:
    """The ledger's topic goes into its own table; the later record of a gap stands."""
    gap = GapRecord(
        id="g-1",
        source="gatherer-1",
        connection="c1",
        sid=2,
        channel="orderbook_delta",
        cause="gap",
        from_sequence=5,
        to_sequence=9,
        markets=1,
        tickers=("KXFROG-T1",),
        detected_us=START_US,
    )
    producer = Producer({"bootstrap.servers": str(broker)})
    for record in (gap, msgspec.structs.replace(gap, healed_us=START_US + 5, how="snapshots")):
        producer.produce(GAPS, encode_gap(record), gap.id.encode())
    producer.flush(10)
    with Running(broker, options(dsn)) as running:
        wait_for(lambda: running.archiver.statistics().records == 2)

    assert [("g-1", 5, 9, START_US + 5, "snapshots", ["KXFROG-T1"])] == query(
        dsn, "SELECT gap_id, from_sequence, to_sequence, healed_us, how, tickers FROM gaps"
    )
    with Running(broker, options(dsn, gaps_topic="", group="none")) as deaf:
        wait_for(lambda: count(dsn, "gaps") == 1)
    assert 0 == deaf.archiver.statistics().records


def test_books_are_stored_whole(broker: EmbeddedBroker, dsn: str) -> None:
    """Live books that changed are stored beside the frames, as they stood after the last of these."""
    message = {"market_ticker": "KXFROG-T1", "yes_dollars_fp": [["0.4000", "1.00"]]}
    snapshot = msgspec.json.encode({"type": "orderbook_snapshot", "sid": 2, "seq": 1, "msg": message})
    with Publisher(str(broker), source="gatherer-1") as publisher:
        publisher.publish(snapshot, connection="c1", received_us=START_US)
        publisher.publish(delta(24), connection="c1", received_us=START_US + 1)
    with Running(broker, options(dsn, snapshot_interval_s=1)) as running:
        wait_for(lambda: running.stored == 3)

    assert [(1, [100], 1), (24, [2_500], 2)] == query(
        dsn, "SELECT sequence, yes_sizes, kind FROM orderbook_snapshots ORDER BY kind"
    )


def test_housekeeping_minutes_is_how_often(broker: EmbeddedBroker, dsn: str) -> None:
    """Every so many minutes while reading goes on, and not before."""
    minutes = itertools.count()
    done: list[int] = []

    def keep_house() -> None:
        done.append(next(minutes))
        if len(done) == 3:
            archiver.stopping.set()

    archiver = KafkaArchiver(
        KafkaOptions(bootstrap_servers=str(broker), extra=SESSION),
        options(dsn, housekeeping_minutes=50),
        upkeep=keep_house,
        # Each look at the clock takes a minute.
        clock_s=lambda: next(minutes) * 60.0,
    )
    archiver.run()

    assert [True, True] == [50 <= later - earlier <= 54 for earlier, later in itertools.pairwise(done)]


def test_a_missing_topic_is_said(dsn: str) -> None:
    """It is no reason to wait in silence."""
    with EmbeddedBroker({"other": 1}) as other:
        archiver = KafkaArchiver(KafkaOptions(bootstrap_servers=str(other)), options(dsn))

        with pytest.raises(FeedError, match="topic 'market-data-all' does not exist"):
            archiver.run()


def test_a_topic_made_anew_is_read_whole(broker: EmbeddedBroker, dsn: str) -> None:
    """A cursor beyond the end is of another topic of that name."""
    publish(broker, 1, 51)
    with psycopg.connect(dsn) as connection:
        for partition in range(4):
            connection.execute(
                "INSERT INTO cursors VALUES ('kafka:kalshibook-archive', %s, 1000)", [f"{TOPIC}/{partition}"]
            )
    with Running(broker, options(dsn)) as running:
        wait_for(lambda: running.stored == 50)

    assert [(50,)] == query(dsn, "SELECT sum(position)::int FROM cursors")


def test_a_rebalance_hands_over_without_loss_or_double(broker: EmbeddedBroker, dsn: str) -> None:
    """Members come and go while records do; every delta is stored by exactly one of them."""
    publish(broker, 1, 501)
    with Running(broker, options(dsn)) as first:
        wait_for(lambda: first.stored >= 100)
        second = Running(broker, options(dsn))
        publish(broker, 501, 1_001)
        wait_for(lambda: count(dsn, "orderbook_deltas") == 1_000, 60)
        publish(broker, 1_001, 1_201)
        wait_for(lambda: count(dsn, "orderbook_deltas") == 1_200, 60)
        second.stop()
        publish(broker, 1_201, 1_301)
        wait_for(lambda: count(dsn, "orderbook_deltas") == 1_300, 60)

    assert list(range(1, 1_301)) == stored_numbers(dsn)
    assert 1_300 == first.stored + second.stored
    assert [0, 0] == [one.archiver.statistics().rows.duplicates for one in (first, second)]


def test_a_killed_database_is_waited_for(
    broker: EmbeddedBroker, own_server: PostgresServer, tmp_path: Path
) -> None:
    """While it is down nothing is read or lost; the member stays in its group."""
    found = own_server.create_database()
    with psycopg.connect(found) as connection:
        migrate(connection, "local")
    publish(broker, 1, 301)
    with Running(broker, options(found)) as running:
        wait_for(lambda: running.stored == 300)
        own_server.kill()
        publish(broker, 301, 601)
        wait_for(lambda: running.archiver.statistics().down is not None)
        own_server.start()
        wait_for(lambda: running.stored == 600)

    assert list(range(1, 601)) == stored_numbers(found)
    assert 0 == running.archiver.statistics().rows.duplicates


def test_kill_9_at_any_moment(broker: EmbeddedBroker, dsn: str, tmp_path: Path) -> None:
    """However often the process is killed: rows in the topic are rows in the table, each once."""
    dice = random.Random(5)
    config = tmp_path / "kalshibook.toml"
    config.write_text(
        f'[kafka]\nbootstrap_servers = "{broker}"\n[kafka.extra]\n"session.timeout.ms" = 6000\n'
        f'[archive]\ndsn = "{dsn}"\nbatch_rows = 20\nbatch_ms = 10\nsnapshot_interval_s = 1\n'
        # The frames are of another day, and would be too old.
        "[archive.keep_days]\norderbook_deltas = 0\n"
    )
    command = [sys.executable, "-m", "kalshibook", "archive", "write", "--config", str(config)]
    published = 0
    for _ in range(3):
        publish(broker, published + 1, published + 2_001)
        published += 2_000
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            before = count(dsn, "orderbook_deltas")
            enough = before + dice.randrange(50, 1_500)
            wait_for(lambda enough=enough: count(dsn, "orderbook_deltas") >= enough, 60)  # type: ignore[misc]
        finally:
            process.kill()
            process.wait(10)
    last = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: query(dsn, "SELECT sum(position)::int FROM cursors") == [(published,)], 60)
    finally:
        last.send_signal(signal.SIGTERM)
        _, said = last.communicate(timeout=30)

    assert 0 == last.returncode
    assert " 0 duplicates, 0 dead letters" in said
    assert list(range(1, published + 1)) == stored_numbers(dsn)
