"""Warm starts on a real Kafka: a compacted topic of saved books, and a topic whose old records are gone."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from kalshibook.feeds import KafkaFeed, KafkaOptions, SnapshotWriter
from kalshibook.feeds.publisher import Publisher
from kalshibook.store import BookStore, Condition
from tests.kafka.gatherer import Gatherer, books_of
from tests.kafka.reading import QUICK, Reading, eventually, reading
from tests.kafka.topics import Topic

pytestmark = pytest.mark.real_kafka

# Compaction looks at closed segments only, so they are closed soon and cleaned at any share of garbage.
COMPACTED = {
    "cleanup_policy": "compact",
    "min_cleanable_dirty_ratio": "0.01",
    "segment_ms": "100",
    "delete_retention_ms": "100",
}


@pytest.fixture
def topics(new_topic: Callable[[], Topic]) -> tuple[Topic, Topic]:
    """The topic of envelopes, of four partitions, and the compacted one of saved books."""
    records, saved = new_topic(), new_topic()
    records.create(4)
    saved.create(2, **COMPACTED)
    return records, saved


def warm(topics: tuple[Topic, Topic]) -> Any:
    return reading(topics[0], start="snapshots", snapshots_topic=topics[1].name)


def exists(topic: Topic) -> bool:
    return topic.name in topic.admin.list_topics(timeout=30).topics


def writer_of(read: Reading) -> SnapshotWriter:
    return SnapshotWriter(read.store, read.feed.options, restored=read.feed.restored)


def saves(read: Reading, topic: Topic) -> None:
    """Save everything that is in the topic now."""
    read.consumes(topic)
    assert read.store.wait_ready(30)
    assert writer_of(read).save()


def test_a_market_that_was_silent_for_a_week_is_served_after_a_restart(topics: tuple[Topic, Topic]) -> None:
    """Its records are long deleted; its book is there, live and exact, and the next change fits."""
    records, _ = topics
    with Gatherer(records) as gatherer:
        for partition in range(4):
            gatherer.snapshot(f"SILENT-{partition}", partition)
            gatherer.snapshot(f"BUSY-{partition}", partition)
        gatherer.flush()
        with warm(topics) as read:
            saves(read, records)
            for partition in range(4):
                gatherer.delta(f"BUSY-{partition}", "yes", 4_000, 100)
            gatherer.flush()
            saves(read, records)
        for partition, end in records.ends().items():
            records.drop_before(partition, end)
        with warm(topics) as read:
            assert read.store.wait_ready(30)
            assert 0 == read.feed.health().records
            assert gatherer.books == books_of(read.store.cut())
            assert 8 == read.store.cut().counts.live
            gatherer.delta("SILENT-0", "no", 5_500, 50)
            gatherer.flush()
            read.consumes(records)
            assert gatherer.books == books_of(read.store.cut())


def test_records_that_are_gone_make_their_partition_stale(topics: tuple[Topic, Topic]) -> None:
    """Where the checkpoint lies before what is kept, nobody knows what was said in between."""
    records, _ = topics
    with Gatherer(records) as gatherer:
        for partition in range(4):
            gatherer.snapshot(f"M{partition}", partition)
        gatherer.flush()
        with warm(topics) as read:
            saves(read, records)
        for partition in range(4):
            gatherer.delta(f"M{partition}", "yes", 4_000, 100)
            gatherer.delta(f"M{partition}", "yes", 4_000, 100)
        gatherer.flush()
        records.drop_before(2, records.ends()[2] - 1)
        with warm(topics) as read:
            assert read.store.wait_ready(30)
            copies = {ticker: book.copy for ticker, book in read.store.cut().items()}
            assert {
                "M0": Condition.LIVE,
                "M1": Condition.LIVE,
                "M2": Condition.STALE,
                "M3": Condition.LIVE,
            } == copies
            gatherer.snapshot("M2", 2)
            gatherer.flush()
            read.consumes(records)
            assert gatherer.books == books_of(read.store.cut())


def test_a_topic_that_was_made_anew_has_no_use_for_old_checkpoints(topics: tuple[Topic, Topic]) -> None:
    """Its offsets are there again, of other records: no book of before is served as live."""
    records, _ = topics
    with Gatherer(records) as gatherer:
        gatherer.snapshot("OLD", 0)
        gatherer.flush()
        with warm(topics) as read:
            read.consumes(records)
            assert read.store.wait_ready(30)
            hour_us = 3_600_000_000
            writer = SnapshotWriter(
                read.store, read.feed.options, now_us=lambda: time.time_ns() // 1_000 - hour_us
            )
            assert writer.save()
    records.delete()
    eventually(lambda: not exists(records), lambda: records.name)
    records.create(4)
    with Gatherer(records, connection="c2") as gatherer:
        for number in range(3):
            gatherer.snapshot(f"NEW{number}", 0)
        gatherer.flush()
        with warm(topics) as read:
            read.consumes(records)
            assert read.store.wait_ready(30)
            cut = read.store.cut()
            assert Condition.STALE is cut["OLD"].copy
            assert gatherer.books == {ticker: one for ticker, one in books_of(cut).items() if ticker != "OLD"}
            assert 3 == cut.counts.live


def test_compaction_leaves_the_newest_of_each(topics: tuple[Topic, Topic]) -> None:
    """After many rounds the broker has thrown away most records, and a start is exact with what is left."""
    records, saved = topics
    with Gatherer(records) as gatherer:
        for partition in range(4):
            for number in range(5):
                gatherer.snapshot(f"M{partition}-{number}", partition)
        gatherer.flush()
        with warm(topics) as read:
            writer = writer_of(read)
            assert read.store.wait_ready(30)
            rounds = 0

            def is_compacted() -> bool:
                nonlocal rounds
                rounds += 1
                gatherer.deltas(40)
                gatherer.flush()
                read.consumes(records)
                assert writer.save()
                kept = sum(len(saved.values(partition)) for partition in range(2))
                return kept < rounds * 24 // 2

            eventually(is_compacted, lambda: rounds)
        with warm(topics) as read:
            assert read.store.wait_ready(30)
            assert gatherer.books == books_of(read.store.cut())
            assert 20 == read.store.cut().counts.live


def test_partitions_added_after_a_checkpoint_are_read_from_their_beginning(
    topics: tuple[Topic, Topic],
) -> None:
    """A partition that no checkpoint names holds nothing that was saved."""
    records, _ = topics
    with Gatherer(records) as gatherer:
        for partition in range(4):
            gatherer.snapshot(f"M{partition}", partition)
        gatherer.flush()
        with warm(topics) as read:
            saves(read, records)
        records.grow(6)
        with Gatherer(records, connection="c2") as later:
            for partition in range(4, 6):
                later.snapshot(f"ADDED{partition}", partition)
            later.flush()
            with warm(topics) as read:
                assert read.store.wait_ready(30)
                read.consumes(records)
                assert {**gatherer.books, **later.books} == books_of(read.store.cut())


def test_saving_goes_on_after_the_topic_has_grown(topics: tuple[Topic, Topic]) -> None:
    """A writer on a thread saves by itself, checkpoints of new partitions too."""
    records, saved = topics
    options = KafkaOptions(
        bootstrap_servers=records.bootstrap_servers,
        topic=records.name,
        snapshots_topic=saved.name,
        partition_refresh_s=1,
        extra={"log_level": 0, **QUICK},
    )
    store = BookStore()
    with Gatherer(records) as gatherer, KafkaFeed(store, options) as feed:
        gatherer.snapshot("FIRST", 0)
        gatherer.flush()
        assert feed.wait_ready(30)
        writer = SnapshotWriter(store, options)
        records.grow(5)
        with Gatherer(records, connection="c2") as later:
            later.snapshot("ADDED", 4)
            later.flush()
            read = Reading(store, feed)
            read.consumes(records)
            assert writer.save()
    with warm(topics) as read:
        assert read.store.wait_ready(30)
        assert {"FIRST", "ADDED"} == set(read.store.cut())
        assert 0 == read.feed.health().records


def test_notices_reach_partitions_that_were_added(topics: tuple[Topic, Topic]) -> None:
    """A publisher learns of them by itself, and says what it has to say there too."""
    records, _ = topics
    with Publisher(
        records.bootstrap_servers,
        source="g1",
        topic=records.name,
        settings={"topic.metadata.refresh.interval.ms": 200, "log_level": 0},
    ) as publisher:
        assert 4 == publisher.notify("alive", interval_ms=1_000)
        records.grow(6)

        def reaches_all() -> bool:
            publisher.poll(0.05)
            return publisher.notify("alive", interval_ms=1_000) == 6

        eventually(reaches_all, publisher.statistics)
        assert 0 == publisher.flush(30)
    assert 1 <= len(records.values(5))
