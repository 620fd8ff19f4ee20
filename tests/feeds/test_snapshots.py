"""Saved books: what a store that begins with them is, whenever its predecessor was stopped."""

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from kalshibook.errors import SettingsError, StoreError
from kalshibook.feeds import (
    EmbeddedBroker,
    FeedState,
    KafkaFeed,
    KafkaOptions,
    SnapshotOptions,
    SnapshotWriter,
)
from kalshibook.feeds.publisher import Publisher
from kalshibook.store import BookStore, Checkpoint, SavedBook, StoreOptions, decode_checkpoint, decode_saved
from kalshibook.testing import FrameFactory, compare_all, fold
from tests.feeds.reading import TIMEOUT_S, TOPIC, options_for, produce, reaches

SAVED = "book-snapshots"
PRODUCE = 0  # the kind of request, by Kafka's protocol
HOUR_US = 3_600_000_000


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    """A broker with both topics."""
    with EmbeddedBroker({TOPIC: 3, SAVED: 2}) as broker:
        yield broker


class Exchange:
    """What one gatherer publishes, and everything that it has said."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self.frames = FrameFactory(source="g1")
        self.said: list[bytes] = []
        self.publisher = Publisher(str(broker), source="g1", settings=EmbeddedBroker.PRODUCER_SETTINGS)
        self.publisher.check()
        self._steps = itertools.count()

    def open(self, markets: int) -> None:
        for number in range(markets):
            self.say(self.frames.snapshot(f"KXSAVE-{number}", yes=[(4_000, 10_000)], no=[(5_000, 10_000)]))

    def move(self, count: int, markets: int) -> None:
        for step in itertools.islice(self._steps, count):
            side = "yes" if step % 2 else "no"
            self.say(
                self.frames.delta(f"KXSAVE-{step % markets}", side, 100 * (1 + step % 30), 1 + step)  # type: ignore[arg-type]
            )

    def say(self, frame: bytes) -> None:
        self.said.append(frame)
        self.publisher.publish(frame, connection=self.frames.connection, received_us=self.frames.now_us)

    def ends(self) -> dict[int, int]:
        """Wait until all is published, and return the last offsets."""
        assert 0 == self.publisher.flush(TIMEOUT_S)
        return {partition: end - 1 for partition, end in self.publisher.ends().items()}


@pytest.fixture
def exchange(broker: EmbeddedBroker) -> Exchange:
    """What publishes to the topic of envelopes."""
    return Exchange(broker)


def saved_of(broker: EmbeddedBroker) -> tuple[dict[str, SavedBook | None], dict[int, Checkpoint], list[str]]:
    """Return what compaction would leave of saved books, the checkpoints, and all keys in order."""
    settings = {"bootstrap.servers": str(broker), "group.id": "t", "enable.partition.eof": True}
    books: dict[str, SavedBook | None] = {}
    checkpoints: dict[int, Checkpoint] = {}
    keys: list[str] = []
    client = Consumer({**settings, **EmbeddedBroker.CONSUMER_SETTINGS})
    client.assign([TopicPartition(SAVED, partition, OFFSET_BEGINNING) for partition in range(2)])
    ended = 0
    while ended < 2:
        message = client.poll(TIMEOUT_S)
        assert message is not None
        error = message.error()
        if error is not None:
            assert KafkaError._PARTITION_EOF == error.code()
            ended += 1
            continue
        key, value = (message.key() or b"").decode(), message.value()
        keys.append(key)
        if key.startswith("#"):
            assert value is not None
            checkpoints[int(key.removeprefix("#partition-"))] = decode_checkpoint(value)
        else:
            books[key] = None if value is None else decode_saved(value)
    client.close()
    return books, checkpoints, keys


def warm(broker: EmbeddedBroker, **options: Any) -> KafkaOptions:
    return options_for(broker, start="snapshots", **options)


def test_a_store_that_begins_with_saved_books_reads_only_what_came_after(
    broker: EmbeddedBroker, exchange: Exchange
) -> None:
    """Books, numbers, offsets and levels' stamps are those of the store that never stopped."""
    exchange.open(20)
    exchange.move(200, 20)
    exchange.ends()
    first = BookStore()
    with KafkaFeed(first, options_for(broker)) as feed:
        assert feed.wait_ready(TIMEOUT_S)
        assert SnapshotWriter(first, feed.options).save()
        exchange.move(50, 20)
        ends = exchange.ends()
        reaches(first, lambda cut: cut.reaches(ends))

        second = BookStore()
        with KafkaFeed(second, warm(broker)) as later:
            assert later.wait_ready(TIMEOUT_S)
            assert 50 == later.health().records
            assert "behind 20 saved books of 'book-snapshots'" in later.health().reason

    assert [] == compare_all(second.cut(), fold(exchange.said))
    assert dict(first.cut().offsets) == dict(second.cut().offsets)
    for book in first.cut().books():
        other = second.cut()[book.ticker]
        assert (book.sequence, book.origin, book.activity) == (other.sequence, other.origin, other.activity)
        stamps = [
            {(level.price, level.stamps.exchange_us, level.stamps.kafka_us) for level in (*one.yes, *one.no)}
            for one in (book, other)
        ]
        assert stamps[0] == stamps[1]


def test_only_what_changed_is_saved_again(broker: EmbeddedBroker, exchange: Exchange) -> None:
    """Each round writes the books that are others than before, then a checkpoint of every partition."""
    exchange.open(10)
    ends = exchange.ends()
    store = BookStore()
    with KafkaFeed(store, options_for(broker)) as feed:
        assert feed.wait_ready(TIMEOUT_S)
        writer = SnapshotWriter(store, feed.options)
        assert writer.save()
        exchange.move(3, 10)
        ends = exchange.ends()
        reaches(store, lambda cut: cut.reaches(ends))
        assert writer.save()
        books, checkpoints, keys = saved_of(broker)
        assert writer.save()
        assert writer.health().reason.startswith("0 books saved")

    assert 10 + 3 == sum(not key.startswith("#") for key in keys)
    assert {partition: end + 1 for partition, end in ends.items()} == {
        partition: one.offset for partition, one in checkpoints.items()
    }
    assert {f"KXSAVE-{number}" for number in range(10)} == set(books)


def test_a_restored_store_does_not_save_what_is_saved(broker: EmbeddedBroker, exchange: Exchange) -> None:
    """The successor's first round writes only what it has read itself."""
    exchange.open(10)
    exchange.ends()
    store = BookStore()
    with KafkaFeed(store, options_for(broker)) as feed:
        assert feed.wait_ready(TIMEOUT_S)
        assert SnapshotWriter(store, feed.options).save()
    exchange.move(2, 10)
    exchange.ends()
    with KafkaFeed(BookStore(), warm(broker)) as feed:
        assert feed.wait_ready(TIMEOUT_S)
        writer = SnapshotWriter(feed._store, feed.options, restored=feed.restored)
        assert writer.save()
        assert writer.health().reason.startswith("2 books saved")


def test_no_checkpoint_without_the_books(broker: EmbeddedBroker, exchange: Exchange) -> None:
    """While the brokers refuse, a round ends without one, says why, and the next round writes all again."""
    exchange.open(5)
    exchange.ends()
    store = BookStore()
    with KafkaFeed(store, options_for(broker)) as feed:
        assert feed.wait_ready(TIMEOUT_S)
        writer = SnapshotWriter(store, feed.options)
        broker.push_errors(PRODUCE, [KafkaError.MSG_SIZE_TOO_LARGE] * 2)
        assert not writer.save()
        assert (FeedState.BROKER_DOWN, {}) == (writer.health().state, saved_of(broker)[1])
        assert "books are not saved to 'book-snapshots'" in writer.health().reason
        assert writer.save()
        assert FeedState.LIVE is writer.health().state
        assert {0, 1, 2} >= set(saved_of(broker)[1]) != set()


def test_a_store_that_is_behind_is_not_saved(broker: EmbeddedBroker) -> None:
    """What is still to be read would make each book one of the past."""
    assert not SnapshotWriter(BookStore(), options_for(broker)).save()


@pytest.mark.parametrize("found", ["empty", "missing"])
def test_without_saved_books_a_warm_start_is_a_rewind(
    broker: EmbeddedBroker, exchange: Exchange, found: str
) -> None:
    """It reads the topic, and says that it had to."""
    exchange.open(5)
    exchange.ends()
    store = BookStore()
    topic = SAVED if found == "empty" else "no-such-topic"
    with KafkaFeed(store, warm(broker, snapshots_topic=topic)) as feed:
        assert feed.wait_ready(TIMEOUT_S)
        assert "for there is no checkpoint" in feed.health().reason
    assert 5 == store.cut().counts.live
    assert [one for one in store.incidents.recent() if one.detail.startswith("no warm start")]


def test_books_without_a_checkpoint_are_read_over(broker: EmbeddedBroker, exchange: Exchange) -> None:
    """A first round that was broken off leaves books only: all is read, and nothing is applied twice."""
    exchange.open(5)
    exchange.move(40, 5)
    exchange.ends()
    store = BookStore()
    with KafkaFeed(store, options_for(broker)) as feed:
        assert feed.wait_ready(TIMEOUT_S)
        assert SnapshotWriter(store, feed.options).save()
    books, _, _ = saved_of(broker)
    broker.delete_topic(SAVED)
    broker.create_topic(SAVED, 2)
    for ticker in ("KXSAVE-0", "KXSAVE-3"):
        produce(broker, msgspec.json.encode(books[ticker]), key=ticker, topic=SAVED)
    second = BookStore()
    with KafkaFeed(second, warm(broker)) as feed:
        assert feed.wait_ready(TIMEOUT_S)
    assert [] == compare_all(second.cut(), fold(exchange.said))
    assert {"restored": 18, "delta": 24, "snapshot": 3} == {
        name: count for name, count in second.statistics().outcomes.items() if count
    }


def test_unreadable_saved_records_are_told(broker: EmbeddedBroker, exchange: Exchange) -> None:
    """They cost their market, not the start: another version, a contradiction, another topic's."""
    exchange.open(3)
    exchange.ends()
    store = BookStore()
    with KafkaFeed(store, options_for(broker)) as feed:
        assert feed.wait_ready(TIMEOUT_S)
        assert SnapshotWriter(store, feed.options).save()
    for key, value in (
        ("A", b"{}"),
        ("B", b'{"version":1,"ticker":"B","written_us":1,"yes":[[5,1,0]]}'),
        ("#partition-0", b'{"version":1,"topic":"other","partition":0,"offset":99,"begun_us":1}'),
        ("#partition-1", b'{"version":9,"topic":"market-data-all","partition":1,"offset":99,"begun_us":1}'),
        ("C", None),
    ):
        produce(broker, value, key=key, topic=SAVED)
    second = BookStore()
    with KafkaFeed(second, warm(broker)) as feed:
        assert feed.wait_ready(TIMEOUT_S)
    assert [] == compare_all(second.cut(), fold(exchange.said))
    assert 4 == second.incidents.counts()["rejected"]


def test_a_filled_store_goes_on_where_it_was(broker: EmbeddedBroker, exchange: Exchange) -> None:
    """A second feed of one process does not go back to what was saved."""
    exchange.open(3)
    exchange.ends()
    store = BookStore()
    with KafkaFeed(store, warm(broker)) as feed:
        assert feed.wait_ready(TIMEOUT_S)
        assert SnapshotWriter(store, feed.options).save()
    exchange.move(4, 3)
    exchange.ends()
    with KafkaFeed(store, warm(broker)) as feed:
        assert feed.wait_ready(TIMEOUT_S)
        assert 4 == feed.health().records
    assert [] == compare_all(store.cut(), fold(exchange.said))


def test_a_broker_that_is_away_is_waited_for(broker: EmbeddedBroker, exchange: Exchange) -> None:
    """A warm start without a broker is tried again, as any start is."""
    exchange.open(3)
    exchange.ends()
    store = BookStore()
    with KafkaFeed(store, options_for(broker)) as feed:
        assert feed.wait_ready(TIMEOUT_S)
        assert SnapshotWriter(store, feed.options).save()
    broker.down()
    second = BookStore()
    with KafkaFeed(
        second, warm(broker, extra={"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 50})
    ) as feed:
        assert feed.wait_state(FeedState.BROKER_DOWN, timeout=TIMEOUT_S)
        broker.up()
        assert feed.wait_ready(TIMEOUT_S)
        assert 0 == feed.health().records
    assert 3 == second.cut().counts.live


def test_snapshots_topic_is_where_books_are_saved(exchange: Exchange, broker: EmbeddedBroker) -> None:
    """The same setting for who saves and who begins; it cannot be the topic of envelopes."""
    broker.create_topic("elsewhere", 1)
    exchange.open(2)
    exchange.ends()
    options = warm(broker, snapshots_topic="elsewhere")
    store = BookStore()
    with KafkaFeed(store, options) as feed:
        assert feed.wait_ready(TIMEOUT_S)
        assert SnapshotWriter(store, options).save()
    with KafkaFeed(BookStore(), options) as feed:
        assert feed.wait_ready(TIMEOUT_S)
        assert 0 == feed.health().records
    with pytest.raises(SettingsError, match="saved books are no envelopes"):
        KafkaOptions(snapshots_topic="market-data-all")


def test_settled_hours_is_how_long_a_settled_market_is_kept(
    broker: EmbeddedBroker, exchange: Exchange
) -> None:
    """Its record is deleted that long after its close, by a later process too; others stay."""
    now_us = 1_790_000_000_000_000
    close_s = now_us // 1_000_000
    for ticker in ("A", "B"):
        exchange.say(exchange.frames.lifecycle(ticker, "created", {"open_ts": 1, "close_ts": close_s}))
        exchange.say(exchange.frames.snapshot(ticker, yes=[(4_000, 100)]))
    exchange.say(exchange.frames.lifecycle("A", "settled"))
    exchange.ends()
    store, options = BookStore(), SnapshotOptions(settled_hours=3)
    with KafkaFeed(store, options_for(broker)) as feed:
        assert feed.wait_ready(TIMEOUT_S)
        clock = [now_us + 2 * HOUR_US]
        writer = SnapshotWriter(store, feed.options, options, now_us=lambda: clock[0])
        assert writer.save()
        assert {"A", "B"} == {ticker for ticker, book in saved_of(broker)[0].items() if book is not None}
    second = BookStore()
    with KafkaFeed(second, warm(broker)) as feed:
        assert feed.wait_ready(TIMEOUT_S)
        writer = SnapshotWriter(
            second, feed.options, options, restored=feed.restored, now_us=lambda: clock[0]
        )
        assert writer.save()
        assert saved_of(broker)[0]["A"] is not None
        clock[0] += 2 * HOUR_US
        assert writer.save()
    books, _, _ = saved_of(broker)
    assert (None, True) == (books["A"], books["B"] is not None)


def test_a_deletion_that_the_brokers_refuse_is_repeated(broker: EmbeddedBroker, exchange: Exchange) -> None:
    """The next round deletes what this one could not."""
    exchange.say(exchange.frames.lifecycle("A", "created", {"open_ts": 1, "close_ts": 2}))
    exchange.say(exchange.frames.snapshot("A", yes=[(4_000, 100)]))
    exchange.ends()
    store, options = BookStore(), SnapshotOptions(settled_hours=1)
    with KafkaFeed(store, options_for(broker)) as feed:
        assert feed.wait_ready(TIMEOUT_S)
        writer = SnapshotWriter(store, feed.options, options)
        assert writer.save()
        assert saved_of(broker)[0]["A"] is not None
        exchange.say(exchange.frames.lifecycle("A", "settled"))
        ends = exchange.ends()
        reaches(store, lambda cut: cut.reaches(ends))
        broker.push_errors(PRODUCE, [KafkaError.MSG_SIZE_TOO_LARGE])
        assert not writer.save()
        assert saved_of(broker)[0]["A"] is not None
        assert writer.save()
    assert saved_of(broker)[0]["A"] is None


def test_saving_on_a_clock_that_is_behind_puts_nothing_old_over_new(
    broker: EmbeddedBroker, exchange: Exchange
) -> None:
    """Who takes over with an earlier clock writes later times all the same; its books are restored."""
    exchange.open(2)
    exchange.ends()
    clock = [1_790_000_000_000_000]
    for change in range(3):
        store = BookStore()
        with KafkaFeed(store, warm(broker)) as feed:
            assert feed.wait_ready(TIMEOUT_S)
            writer = SnapshotWriter(store, feed.options, restored=feed.restored, now_us=lambda: clock[0])
            exchange.move(1 + change, 2)
            ends = exchange.ends()
            reaches(store, lambda cut, ends=ends: cut.reaches(ends))  # type: ignore[misc]
            assert writer.save()
        clock[0] -= 1_000_000
    store = BookStore()
    with KafkaFeed(store, warm(broker)) as feed:
        assert feed.wait_ready(TIMEOUT_S)
        assert 0 == feed.health().records
    assert [] == compare_all(store.cut(), fold(exchange.said))


def test_interval_s_is_the_pause_between_rounds() -> None:
    """The first round comes soon; and what cannot be is refused."""
    assert 7 == SnapshotOptions(interval_s=7).interval_s
    writer = SnapshotWriter(BookStore(), KafkaOptions(), SnapshotOptions(interval_s=7))
    assert 1 == writer._pause_s()
    writer._checkpoint_us = 1
    assert 7 == writer._pause_s()
    for name, value in (("interval_s", 0), ("records_per_second", 0), ("settled_hours", -1)):
        with pytest.raises(SettingsError, match=f"snapshots.{name} is {value}"):
            SnapshotOptions(**{name: value})  # type: ignore[arg-type]


def test_records_per_second_bounds_a_round(
    broker: EmbeddedBroker, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 1,000 a second, 1,000 books wait for nearly a second in all; the pauses are asked for, not slept."""
    exchange.open(1_000)
    exchange.ends()
    store = BookStore()
    waited: list[float] = []
    with KafkaFeed(store, options_for(broker)) as feed:
        assert feed.wait_ready(TIMEOUT_S)
        for rate in (1_000, 1_000_000):
            writer = SnapshotWriter(store, feed.options, SnapshotOptions(records_per_second=rate))
            stopping = threading.Event()
            monkeypatch.setattr(stopping, "wait", waited.append)
            monkeypatch.setattr(writer, "_stopping", stopping)
            assert writer.save()
    assert 2 == len(waited)
    assert 0.2 < waited[0] < 0.5 < waited[1] < 1.0


def test_a_thread_saves_until_it_is_stopped(broker: EmbeddedBroker, exchange: Exchange) -> None:
    """It saves soon after the store has caught up, and once more at its stop: little is read again."""
    exchange.open(3)
    exchange.ends()
    store = BookStore()
    with KafkaFeed(store, options_for(broker)) as feed, SnapshotWriter(store, feed.options) as writer:
        with pytest.raises(StoreError):
            writer.start()
        assert feed.wait_ready(TIMEOUT_S)
        _until(lambda: writer.health().last_record_us is not None)
        exchange.move(6, 3)
        ends = exchange.ends()
        reaches(store, lambda cut: cut.reaches(ends))
        assert writer.stop()
        assert FeedState.STOPPED is writer.health().state
    assert {partition: end + 1 for partition, end in ends.items()} == {
        partition: one.offset for partition, one in saved_of(broker)[1].items()
    }


def test_a_full_queue_does_not_hold_up_the_stop(
    broker: EmbeddedBroker, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the brokers away librdkafka takes nothing more; what waits then is saved by the next process."""
    monkeypatch.setattr("kalshibook.feeds.snapshots._LAST_ROUND_S", 0.3)
    exchange.open(50)
    exchange.ends()
    store = BookStore()
    with KafkaFeed(store, options_for(broker)) as feed:
        assert feed.wait_ready(TIMEOUT_S)
        # Another address, because a store that is behind its own brokers is not saved.
        nobody = msgspec.structs.replace(
            feed.options,
            bootstrap_servers="127.0.0.1:1",
            extra={**feed.options.extra, "queue.buffering.max.messages": 10},
        )
        writer = SnapshotWriter(store, nobody)
        writer.start()
        _until(lambda: writer.health().queued == 10)

        assert writer.stop(TIMEOUT_S)
    assert FeedState.STOPPED is writer.health().state


def test_a_source_that_died_before_the_restart_is_not_served_as_live(
    broker: EmbeddedBroker, exchange: Exchange
) -> None:
    """Its last sign of life is in the checkpoint; a restart long after finds all its books stale."""
    exchange.publisher.notify("alive", interval_ms=1)
    exchange.open(3)
    exchange.ends()
    store = BookStore(StoreOptions(source_silence_ms=60_000))
    with KafkaFeed(store, options_for(broker)) as feed:
        assert feed.wait_ready(TIMEOUT_S)
        assert SnapshotWriter(store, feed.options).save()
    assert 3 == store.cut().counts.live
    second = BookStore(StoreOptions(source_silence_ms=1))
    with KafkaFeed(second, warm(broker)):
        reaches(second, lambda cut: cut.counts.stale == 3)


def _until(holds: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(TIMEOUT_S * 50):
        if holds():
            return
        pause.wait(0.02)
    raise AssertionError("it never held")
