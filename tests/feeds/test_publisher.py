from collections.abc import Callable

import pytest
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from kalshibook.errors import FeedError, WireError
from kalshibook.feeds import EmbeddedBroker, KafkaOptions
from kalshibook.feeds.publisher import (
    DEFAULT_TOPIC,
    Publisher,
    PublisherStatistics,
    PublishFailure,
    PublishReport,
)
from kalshibook.testing import FrameFactory
from kalshibook.wire import GathererNotice, decode_envelope, read_frame
from tests.feeds.reading import TIMEOUT_S, TOPIC

FROG, NEWT = "KXFROG-T40", "KXNEWT-T41.5"
PRODUCE = 0  # the kind of request, by Kafka's protocol


def records(broker: EmbeddedBroker, count: int) -> list[Message]:
    """Read so many records of all partitions."""
    consumer = Consumer(
        {"bootstrap.servers": str(broker), "group.id": "test", **EmbeddedBroker.CONSUMER_SETTINGS}
    )
    try:
        consumer.assign([TopicPartition(TOPIC, partition, 0) for partition in range(3)])
        found: list[Message] = []
        while len(found) < count:
            batch = consumer.consume(count - len(found), TIMEOUT_S)
            assert batch, f"{len(found)} of {count} records came"
            found.extend(batch)
        return found
    finally:
        consumer.close()


def publish(publisher: Publisher, *frames: bytes) -> None:
    for frame in frames:
        assert publisher.publish(frame, connection="c1", received_us=1_790_000_000_000_000)


def test_records_are_envelopes_keyed_by_market(broker: EmbeddedBroker) -> None:
    """What is published is read back: key, order, numbers and the untouched frame."""
    made = FrameFactory()
    frames = [
        made.snapshot(FROG, yes=[(4_000, 100)]),
        made.snapshot(NEWT),
        made.delta(FROG, "no", 5_500, 5),
        made.trade(FROG, 4_000, 1),
        made.delta(FROG, "no", 5_500, 5),
    ]
    with Publisher(str(broker), source="gatherer-1", clock_us=lambda: 1_790_000_000_000_777) as publisher:
        publish(publisher, *frames)
        assert 0 == publisher.flush(TIMEOUT_S)
        assert PublisherStatistics(5, 5, 0, 0, 0) == publisher.statistics()
        ends = dict(publisher.ends())
    found = records(broker, 5)
    frogs = [decode_envelope(one.value() or b"") for one in found if one.key() == FROG.encode()]
    assert [(1, 0), (3, 1), (1, 0), (4, 3)] == [(one.sequence, one.previous_sequence) for one in frogs]
    assert {("gatherer-1", "c1", 1_790_000_000_000_000, 1_790_000_000_000_777)} == {
        (one.source, one.connection, one.received_us, one.published_us) for one in frogs
    }
    assert all(any(frame in (one.value() or b"") for one in found) for frame in frames)
    assert 5 == sum(ends.values())
    for one in found:
        assert (one.offset() or 0) < ends[one.partition() or 0]


def test_a_market_stays_on_the_partition_that_java_chooses(broker: EmbeddedBroker) -> None:
    """Partitions are chosen by murmur2, as Java producers do: known values of Kafka's own tests."""
    with Publisher(str(broker), source="g") as publisher:
        publish(publisher, *(FrameFactory().snapshot(key) for key in ("foobar", "a-little-bit-long-string")))
    # Utils.murmur2 of these keys, made positive, by UtilsTest of Apache Kafka.
    expected = {
        "foobar": (-790332482 & 0x7FFFFFFF) % 3,
        "a-little-bit-long-string": (-985981536 & 0x7FFFFFFF) % 3,
    }
    assert expected == {(one.key() or b"").decode(): one.partition() for one in records(broker, 2)}


def test_control_frames_are_counted_and_not_published(broker: EmbeddedBroker) -> None:
    """`ok` concerns only its connection."""
    with Publisher(str(broker), source="g") as publisher:
        assert not publisher.publish(b'{"type":"ok","sid":1,"seq":4}', connection="c", received_us=1)
        assert publisher.publish_nowait(b'{"type":"ok","sid":1,"seq":5}', connection="c", received_us=1)
        assert PublisherStatistics(0, 0, 0, 2, 0) == publisher.statistics()


def test_what_is_no_frame_is_refused_and_not_counted(broker: EmbeddedBroker) -> None:
    """The caller learns at once, and the publisher goes on."""
    with Publisher(str(broker), source="g") as publisher:
        with pytest.raises(WireError):
            publisher.publish(b"[]", connection="c", received_us=1)
        publish(publisher, FrameFactory().snapshot(FROG))
    assert PublisherStatistics(1, 1, 0, 0, 0) == publisher.statistics()


def test_a_notice_reaches_every_partition_behind_what_came_before(broker: EmbeddedBroker) -> None:
    """In each partition it is the last record, and its envelope says whom and what it concerns."""
    made = FrameFactory()
    with Publisher(str(broker), source="g", clock_us=lambda: 7_000) as publisher:
        publish(publisher, *(made.snapshot(f"KXMANY-{number}") for number in range(30)))
        assert 3 == publisher.notify("stale", reason="gap", detail="5 to 9", connection="c1", sid=4)
    found = records(broker, 33)
    last = {one.partition(): one for one in found}
    assert {0, 1, 2} == set(last)
    for record in last.values():
        envelope = decode_envelope(record.value() or b"")
        assert GathererNotice("stale", "gap", "5 to 9", None, "") == read_frame(envelope.payload)
        assert ("g", "c1", 4, "", "gatherer_notice", None) == (
            envelope.source,
            envelope.connection,
            envelope.sid,
            envelope.market_ticker,
            envelope.channel,
            envelope.sequence,
        )
        assert (b"g", 7_000) == (record.key(), envelope.published_us)


def test_a_notice_of_one_market_goes_where_its_records_are(broker: EmbeddedBroker) -> None:
    """It is keyed by the market and goes to that partition only."""
    made = FrameFactory()
    with Publisher(str(broker), source="g") as publisher:
        publish(publisher, made.snapshot(FROG))
        assert 1 == publisher.notify("ended", reason="settled", market_ticker=FROG)
    snapshot, notice = records(broker, 2)
    assert (snapshot.partition(), FROG.encode()) == (notice.partition(), notice.key())
    envelope = decode_envelope(notice.value() or b"")
    assert FROG == envelope.market_ticker
    assert GathererNotice("ended", "settled", "", None, FROG) == read_frame(envelope.payload)


def test_a_notice_asks_for_the_partitions_if_it_must(broker: EmbeddedBroker) -> None:
    """Without a check before it, and without a topic it says so."""
    assert 3 == Publisher(str(broker), source="g").notify("alive", interval_ms=1_000)
    with pytest.raises(FeedError, match="topic 'nowhere' does not exist"):
        Publisher(str(broker), source="g", topic="nowhere").notify("alive", interval_ms=1_000)


def test_who_asks_is_told_what_became_of_each_record(broker: EmbeddedBroker) -> None:
    """Acknowledged with its place, refused with the reason; nothing before the brokers have spoken."""
    made, reports = FrameFactory(), list[PublishReport]()
    received = {"connection": "c1", "received_us": 1}
    with Publisher(str(broker), source="g", settings={"linger.ms": 50}) as publisher:
        publisher.publish(made.snapshot(FROG), **received, on_report=reports.append)  # type: ignore[arg-type]
        assert [] == reports
        publisher.flush(TIMEOUT_S)
        (place,) = publisher.ends()
        assert [PublishReport(FROG, place, 0, None)] == reports
        broker.push_errors(PRODUCE, [KafkaError.MSG_SIZE_TOO_LARGE])
        publisher.publish(made.snapshot(FROG), **received, on_report=reports.append)  # type: ignore[arg-type]
        publisher.flush(TIMEOUT_S)
        assert (FROG, None, None) == (reports[1].key, reports[1].partition, reports[1].offset)
        assert "too large" in (reports[1].reason or "")
        publisher.notify("alive", interval_ms=1_000, on_report=reports.append)
        publisher.flush(TIMEOUT_S)
    assert [("g", 0), ("g", 1), ("g", 2)] == sorted((one.key, one.partition) for one in reports[2:])


def test_a_frame_in_doubt_says_why(broker: EmbeddedBroker) -> None:
    """The reason stands in its envelope, and in no other."""
    made = FrameFactory()
    with Publisher(str(broker), source="g") as publisher:
        publisher.publish(made.snapshot(FROG), connection="c1", received_us=1, doubt="from a cache")
        publish(publisher, made.snapshot(FROG))
    assert ["from a cache", None] == [decode_envelope(one.value() or b"").doubt for one in records(broker, 2)]


def test_a_full_queue_is_waited_for(broker: EmbeddedBroker) -> None:
    """With room for ten records a thousand are published, in order, without a loss."""
    made = FrameFactory()
    settings = {"queue.buffering.max.messages": 10, "linger.ms": 0}
    with Publisher(str(broker), source="g", settings=settings) as publisher:
        publish(publisher, *(made.delta(FROG, "yes", 100, 1) for _ in range(1_000)))
    assert publisher.statistics().waits > 0
    assert (1_000, 1_000, 0) == (
        publisher.statistics().offered,
        publisher.statistics().delivered,
        publisher.statistics().failed,
    )
    sequences = [decode_envelope(one.value() or b"").sequence for one in records(broker, 1_000)]
    assert list(range(1, 1_001)) == sequences


def test_without_room_nothing_has_happened(broker: EmbeddedBroker) -> None:
    """`publish_nowait` says that the queue is full, and the same frame goes later with the same number."""
    made = FrameFactory()
    broker.down()
    publisher = Publisher(str(broker), source="g", settings={"queue.buffering.max.messages": 1})
    first, second = made.snapshot(FROG), made.delta(FROG, "yes", 100, 1)
    assert publisher.publish_nowait(first, connection="c1", received_us=1)
    assert not publisher.publish_nowait(second, connection="c1", received_us=1)
    assert PublisherStatistics(1, 0, 0, 0, 1) == publisher.statistics()
    broker.up()
    assert publisher.publish(second, connection="c1", received_us=1)
    publisher.close(TIMEOUT_S)
    assert 2 == publisher.statistics().delivered
    assert [0, 1] == [decode_envelope(one.value() or b"").previous_sequence for one in records(broker, 2)]


def test_a_broker_that_comes_back_loses_and_doubles_nothing(broker: EmbeddedBroker) -> None:
    """Records offered while the broker is away arrive once, in order."""
    made = FrameFactory()
    with Publisher(str(broker), source="g", settings=EmbeddedBroker.PRODUCER_SETTINGS) as publisher:
        publish(publisher, *(made.delta(FROG, "yes", 100, 1) for _ in range(50)))
        broker.down()
        publish(publisher, *(made.delta(FROG, "yes", 100, 1) for _ in range(50)))
        broker.up()
        assert 0 == publisher.flush(TIMEOUT_S)
    assert list(range(1, 101)) == [
        decode_envelope(one.value() or b"").sequence for one in records(broker, 100)
    ]


def test_a_refused_record_is_counted_told_and_shows_as_a_loss(broker: EmbeddedBroker) -> None:
    """A record that Kafka refuses is failed, not delivered, and the next one names its number."""
    made, failures = FrameFactory(), list[PublishFailure]()
    with Publisher(str(broker), source="g", on_failure=failures.append) as publisher:
        publish(publisher, made.snapshot(FROG))
        publisher.flush(TIMEOUT_S)
        broker.push_errors(PRODUCE, [KafkaError.MSG_SIZE_TOO_LARGE])
        publish(publisher, made.delta(FROG, "yes", 100, 1))
        publisher.flush(TIMEOUT_S)
        publish(publisher, made.delta(FROG, "yes", 100, 1))
    assert PublisherStatistics(3, 2, 1, 0, 0) == publisher.statistics()
    assert [FROG] == [failure.key for failure in failures]
    assert "too large" in failures[0].reason
    found = [decode_envelope(one.value() or b"") for one in records(broker, 2)]
    assert [(1, 0), (3, 2)] == [(one.sequence, one.previous_sequence) for one in found]


def test_a_publisher_that_may_not_write_says_so(broker: EmbeddedBroker) -> None:
    """A refused authorization is not taken for a lost record over and over: it is an error to the caller."""
    made = FrameFactory()
    with Publisher(str(broker), source="g") as publisher:
        broker.push_errors(PRODUCE, [KafkaError.TOPIC_AUTHORIZATION_FAILED])
        publish(publisher, made.snapshot(FROG))
        publisher.flush(TIMEOUT_S)
        with pytest.raises(FeedError, match=r"cannot publish to 'market-data-all' .* authorization failed"):
            publish(publisher, made.delta(FROG, "yes", 100, 1))
    assert PublisherStatistics(1, 0, 1, 0, 0) == publisher.statistics()


def test_a_frame_that_is_too_large_is_one_loss(broker: EmbeddedBroker) -> None:
    """It is counted as failed, and the publisher goes on."""
    made, failures = FrameFactory(), list[PublishFailure]()
    settings = {"message.max.bytes": 2_000}
    with Publisher(str(broker), source="g", settings=settings, on_failure=failures.append) as publisher:
        publish(
            publisher,
            made.snapshot(FROG, yes=[(price, 1) for price in range(1, 500)]),
            made.delta(FROG, "yes", 100, 1),
        )
    assert PublisherStatistics(2, 1, 1, 0, 0) == publisher.statistics()
    assert [FROG] == [failure.key for failure in failures]
    assert 1 == decode_envelope(records(broker, 1)[0].value() or b"").previous_sequence


def test_what_cannot_be_delivered_by_the_close_is_counted_failed(broker: EmbeddedBroker) -> None:
    """Closing without a broker ends in time, and the counters add up."""
    made, failures = FrameFactory(), list[PublishFailure]()
    publisher = Publisher(str(broker), source="g", on_failure=failures.append)
    publisher.check()
    broker.down()
    publish(publisher, made.snapshot(FROG), made.delta(FROG, "yes", 100, 1))
    assert 2 == publisher.flush(0.05)
    assert 2 == publisher.statistics().in_flight
    publisher.close(0.05)
    assert PublisherStatistics(2, 0, 2, 0, 0) == publisher.statistics()
    assert 2 == len(failures)


def test_a_missing_topic_stops_the_start(broker: EmbeddedBroker) -> None:
    """The error names topic and brokers, and looking for the topic does not create it."""
    for _ in range(2):
        with (
            pytest.raises(FeedError, match="topic 'nowhere' does not exist"),
            Publisher(str(broker), source="g", topic="nowhere"),
        ):
            pass
    assert 3 == Publisher(str(broker), source="g").check()


def test_no_broker_stops_the_start(broker: EmbeddedBroker) -> None:
    """The error names the address."""
    address = str(broker)
    broker.close()
    with pytest.raises(FeedError, match=f"no Kafka broker answers at {address}"):
        Publisher(address, source="g", settings={"log_level": 0}).check(0.3)


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"linger": 5}, "No such configuration property"),
        ({"compression.type": "best"}, "Invalid value"),
        ({"acks": 1}, "'acks' cannot be changed"),
        ({"enable.idempotence": False}, "cannot be changed"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, object], found: str) -> None:
    """Unknown and unfit ones by librdkafka, those that break the promise by us."""
    with pytest.raises(FeedError, match=found):
        Publisher("localhost:1", source="g", settings=settings)


def test_both_ends_share_the_name_of_the_topic() -> None:
    """Without a word about it, a publisher writes what a feed reads."""
    publisher: Callable[..., Publisher] = Publisher
    assert KafkaOptions().topic == DEFAULT_TOPIC == publisher("localhost:1", source="g").topic == TOPIC
