"""What a feed reads from a real Kafka: where it begins, what it finds, and that all of it arrives."""

import time
from collections.abc import Callable

import pytest

from kalshibook.feeds.base import FeedState
from kalshibook.store import Condition
from tests.kafka.gatherer import Gatherer, books_of
from tests.kafka.reading import eventually, reading
from tests.kafka.topics import Topic

pytestmark = pytest.mark.real_kafka

MINUTE_MS = 60_000


@pytest.fixture
def topic(new_topic: Callable[[], Topic]) -> Topic:
    """A topic of four partitions."""
    topic = new_topic()
    topic.create(4)
    return topic


def minutes_ago(minutes: int) -> int:
    return time.time_ns() // 1_000_000 - minutes * MINUTE_MS


def test_rewinds_by_time_on_every_partition(topic: Topic) -> None:
    """Each partition begins at its first record of the last hour, whatever its offset is there."""
    with Gatherer(topic) as gatherer:
        for partition in range(3):
            for number in range(10 * (partition + 1)):
                gatherer.snapshot(f"OLD-{partition}-{number}", partition, sent_ms=minutes_ago(180 - number))
        for partition in range(2):
            for number in range(5 * (partition + 1)):
                gatherer.snapshot(f"NEW-{partition}-{number}", partition, sent_ms=minutes_ago(50 - number))
        gatherer.flush()
        with reading(topic, rewind_minutes=60) as (store, feed):
            assert store.wait_ready(30)
            recent = {ticker: book for ticker, book in gatherer.books.items() if ticker.startswith("NEW")}
            assert recent == books_of(store.cut())
            assert 15 == feed.health().records
            begun = {place.partition: place.next_offset for place in feed.health().partitions}
            assert {0: 15, 1: 30, 2: 30, 3: 0} == begun


def test_rewinds_further_than_the_topic_goes(topic: Topic) -> None:
    """A rewind beyond the oldest record reads everything."""
    with Gatherer(topic) as gatherer:
        for partition in range(4):
            gatherer.snapshot(f"M{partition}", partition, sent_ms=minutes_ago(30))
        gatherer.flush()
        with reading(topic, rewind_minutes=24 * 60) as read:
            read.equals(gatherer)


def test_ready_means_caught_up(topic: Topic) -> None:
    """When the store becomes ready, the very first cut that says so holds everything that was there."""
    with Gatherer(topic) as gatherer:
        for partition in range(4):
            gatherer.snapshot(f"M{partition}", partition)
        gatherer.deltas(20_000)
        gatherer.flush()
        with reading(topic) as (store, feed):
            assert not store.ready
            assert store.wait_ready(60)
            assert gatherer.books == books_of(store.cut())
            assert FeedState.LIVE == feed.health().state


def test_goes_on_at_stored_offsets(topic: Topic) -> None:
    """A feed that begins at another store's offsets reads only what came after."""
    with Gatherer(topic) as gatherer:
        for partition in range(4):
            gatherer.snapshot(f"M{partition}", partition)
        gatherer.flush()
        with reading(topic) as read:
            read.equals(gatherer)
            offsets = dict(read.store.cut().offsets)
        for partition in range(4):
            gatherer.snapshot(f"LATER{partition}", partition)
        gatherer.flush()
        with reading(topic, start="offsets", start_offsets=offsets) as read:
            read.consumes(topic)
            assert {f"LATER{partition}" for partition in range(4)} == set(read.store.cut())


def test_notices_partitions_added_later(topic: Topic) -> None:
    """Partitions that a running feed has never seen are read from their beginning."""
    with Gatherer(topic) as gatherer:
        gatherer.snapshot("FIRST", 0)
        gatherer.flush()
        with reading(topic) as read:
            read.equals(gatherer)
            topic.grow(7)
            with Gatherer(topic, connection="c2") as later:
                for partition in range(4, 7):
                    later.snapshot(f"ADDED{partition}", partition)
                later.deltas(300)
                later.flush()
                read.consumes(topic)
                assert {**gatherer.books, **later.books} == books_of(read.store.cut())
            assert list(range(7)) == [place.partition for place in read.feed.health().partitions]
            assert read.store.ready


@pytest.mark.parametrize("kind", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_reads_every_compression(kind: str, topic: Topic) -> None:
    """Batches of each kind of compression come out as they went in."""
    with Gatherer(topic, compression_type=kind) as gatherer:
        for partition in range(4):
            gatherer.snapshot(f"M{partition}", partition)
        gatherer.deltas(2_000)
        gatherer.flush()
        with reading(topic) as read:
            read.equals(gatherer)


def test_reads_a_record_of_a_megabyte(topic: Topic) -> None:
    """A record as large as a broker takes by default is read, and so are its neighbours."""
    with Gatherer(topic, compression_type="none", message_max_bytes=1_048_588) as gatherer:
        gatherer.snapshot("BEFORE", 0)
        gatherer.snapshot("LARGE", 0, padding=1_000_000)
        gatherer.snapshot("AFTER", 0)
        gatherer.flush()
        with reading(topic) as read:
            read.equals(gatherer)
            assert read.feed.health().bytes > 1_000_000


def test_reads_a_record_beyond_the_fetch_limits(new_topic: Callable[[], Topic]) -> None:
    """A record larger than a fetch is set to return is read all the same."""
    topic = new_topic()
    topic.create(1, max_message_bytes="6000000")
    with Gatherer(topic, compression_type="none", message_max_bytes=6_000_000) as gatherer:
        gatherer.snapshot("LARGE", 0, padding=5_000_000)
        gatherer.flush()
        with reading(topic, extra={"fetch.message.max.bytes": 100_000}) as read:
            read.equals(gatherer)


def test_transactions_are_all_or_nothing(topic: Topic) -> None:
    """What a transaction took back is never applied, and the markers it leaves do not hold up readiness."""
    with Gatherer(topic, transactional_id=topic.name) as gatherer:
        gatherer.begin()
        gatherer.snapshot("KEPT", 0)
        gatherer.commit()
        gatherer.begin()
        gatherer.snapshot("TAKEN-BACK", 0)
        gatherer.flush()
        gatherer.abort()
        # The end of a transaction is answered before its marker is written: two records, two markers.
        eventually(lambda: topic.ends()[0] == 4, topic.ends)
        with reading(topic) as (store, feed):
            assert store.wait_ready(30)
            assert ["KEPT"] == list(store.cut())
            assert Condition.LIVE == store.cut()["KEPT"].condition
            eventually(lambda: feed.health().lag == 0, feed.health)


def test_compacted_topic_is_read_to_its_end(new_topic: Callable[[], Topic]) -> None:
    """Holes that compaction leaves are no loss: the newest record of each key is enough."""
    topic = new_topic()
    topic.create(
        1,
        cleanup_policy="compact",
        segment_bytes="1048576",
        min_cleanable_dirty_ratio="0.01",
        min_compaction_lag_ms="0",
    )
    with Gatherer(topic, compression_type="none") as gatherer:
        for size in range(100, 2_100, 100):
            gatherer.snapshot("A", 0, size=size, padding=100_000)
            gatherer.snapshot("B", 0, size=size, padding=100_000)
        gatherer.flush()
        eventually(lambda: len(topic.values()) < gatherer.published / 2, topic.ends)
        with reading(topic) as read:
            assert read.store.wait_ready(30)
            assert gatherer.books == books_of(read.store.cut())
            assert read.feed.health().records < gatherer.published / 2
            assert 2 == read.store.statistics().live
