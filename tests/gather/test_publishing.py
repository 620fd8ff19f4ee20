from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any, Final

import pytest
from confluent_kafka import Consumer, TopicPartition

from kalshibook.errors import FeedError
from kalshibook.feeds import EmbeddedBroker, KafkaOptions
from kalshibook.gather.incidents import GatherIncidents
from kalshibook.gather.options import GatherOptions
from kalshibook.gather.publishing import KafkaSink, consumer_settings, producer_settings
from kalshibook.gather.records import Notice, Received
from kalshibook.testing import FrameFactory
from kalshibook.wire import Envelope, GapRecord, GathererNotice, decode_envelope, decode_gap, read_frame

TOPICS: Final = {"market-data-all": 3, "market-data-gaps": 1}
TIMEOUT_S: Final = 20
FROG, NEWT = "KXFROG-T40", "KXNEWT-T41.5"


def values(broker: EmbeddedBroker, topic: str, partition: int) -> list[bytes]:
    """Read all records of a partition."""
    consumer = Consumer(
        {"bootstrap.servers": str(broker), "group.id": "test", **EmbeddedBroker.CONSUMER_SETTINGS}
    )
    try:
        place = TopicPartition(topic, partition, 0)
        _, end = consumer.get_watermark_offsets(place, timeout=TIMEOUT_S)
        consumer.assign([place])
        found: list[bytes] = []
        while len(found) < end:
            found += [message.value() or b"" for message in consumer.consume(end - len(found), TIMEOUT_S)]
        return found
    finally:
        consumer.close()


def envelopes(broker: EmbeddedBroker) -> list[list[Envelope]]:
    """Return what is in the topic, by partition."""
    return [
        [decode_envelope(value) for value in values(broker, "market-data-all", partition)]
        for partition in range(3)
    ]


def notices(found: list[Envelope]) -> list[tuple[str, str]]:
    events = [read_frame(one.payload) for one in found]
    return [(event.notice, event.reason) for event in events if isinstance(event, GathererNotice)]


def sink_of(broker: EmbeddedBroker, **options: Any) -> KafkaSink:
    kafka = KafkaOptions(bootstrap_servers=str(broker), extra={"reconnect.backoff.max.ms": 100})
    return KafkaSink(kafka, GatherOptions(source="g1", **options), GatherIncidents())


@contextmanager
def publishing(broker: EmbeddedBroker, **options: Any) -> Iterator[KafkaSink]:
    sink = sink_of(broker, **options)
    sink.start()
    try:
        yield sink
    finally:
        sink.stop(TIMEOUT_S)


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(TOPICS) as running:
        yield running


def received(frame: bytes, kind: str = "orderbook_snapshot", **more: Any) -> Received:
    return Received(frame, "c1", 1_790_000_000_000_000, kind, 1, **more)


def until(condition: Callable[[], bool]) -> None:
    end = monotonic() + TIMEOUT_S
    while not condition():
        assert monotonic() < end
        sleep(0.005)


def test_everything_is_in_the_topic_between_a_start_and_an_end(broker: EmbeddedBroker) -> None:
    """Each partition begins with the doubt about an earlier run and ends with the goodbye."""
    made = FrameFactory()
    with publishing(broker) as sink:
        for number in range(500):
            ticker = (FROG, NEWT)[number % 2]
            frame = made.snapshot(ticker) if number < 2 else made.delta(ticker, "yes", 100, 1)
            sink.offer(received(frame))
        sink.offer(received(b'{"type":"ok","sid":1,"seq":501}', "ok"))
    found = envelopes(broker)
    assert 500 == sum(one.channel == "orderbook_delta" for part in found for one in part)
    for part in found:
        assert ("stale", "started") == notices(part)[0]
        assert ("ended", "stopped") == notices(part)[-1]
        assert ("ended", "stopped") == notices(part[-1:])[0]
    counts = sink.counts()
    assert (501, 501, 0, 0) == (counts.offered, counts.processed, counts.dropped, counts.waiting)
    statistics = sink.statistics()
    assert (506, 506, 0, 1) == (
        statistics.offered,
        statistics.delivered,
        statistics.failed,
        statistics.ignored,
    )


def test_a_notice_stands_between_the_frames_around_it(broker: EmbeddedBroker) -> None:
    """In every partition, in the order in which it was told."""
    made = FrameFactory()
    with publishing(broker) as sink:
        sink.offer(received(made.snapshot(FROG)))
        sink.notify(Notice("stale", "gap", "3 to 4", "c1", 1))
        sink.offer(received(made.delta(FROG, "yes", 100, 1)))
    for part in envelopes(broker):
        kinds = [notices([one]) or one.sequence for one in part]
        assert [("stale", "gap")] in kinds
        if 1 in kinds:
            assert kinds.index(1) < kinds.index([("stale", "gap")]) < kinds.index(2)
    scoped = [one for part in envelopes(broker) for one in part if notices([one]) == [("stale", "gap")]]
    assert {("c1", 1)} == {(one.connection, one.sid) for one in scoped}


def test_a_doubted_frame_says_so(broker: EmbeddedBroker) -> None:
    """A book over REST is applied and not trusted."""
    with publishing(broker) as sink:
        sink.offer(received(FrameFactory().snapshot(FROG), doubt="over REST"))
    assert ["over REST"] == [one.doubt for part in envelopes(broker) for one in part if one.doubt]


@pytest.mark.parametrize("interval_ms", [50, 5_000])
def test_heartbeats_reach_every_partition(broker: EmbeddedBroker, interval_ms: int) -> None:
    """With the time by which the next is owed; one that still waits is not doubled."""
    with publishing(broker, heartbeat_ms=interval_ms) as sink:
        sink.alive()
        until(lambda: sink.waiting == 0)
    for part in envelopes(broker):
        events = [read_frame(one.payload) for one in part]
        assert [interval_ms] == [
            event.interval_ms
            for event in events
            if isinstance(event, GathererNotice) and event.notice == "alive"
        ]


def test_what_is_no_frame_is_dropped_and_told(broker: EmbeddedBroker) -> None:
    """It is counted, kept as an incident, and the next frame is published."""
    incidents = GatherIncidents()
    sink = KafkaSink(KafkaOptions(bootstrap_servers=str(broker)), GatherOptions(), incidents)
    sink.start()
    sink.offer(received(b'{"type":"novelty","msg":{}}', "novelty"))
    sink.offer(received(FrameFactory().snapshot(FROG)))
    sink.stop(TIMEOUT_S)
    counts = sink.counts()
    assert (2, 1, 1, 0) == (counts.offered, counts.processed, counts.dropped, counts.waiting)
    assert counts.adds_up
    assert 1 == incidents.counts()["unreadable"]


def test_the_ledger_has_its_own_topic(broker: EmbeddedBroker) -> None:
    """Keyed by the gap's id, so that the later entry stands."""
    gap = GapRecord(
        id="g1/c1/1",
        source="g1",
        connection="c1",
        sid=1,
        channel="trade",
        cause="gap",
        from_sequence=1,
        to_sequence=2,
        markets=0,
        detected_us=5,
    )
    with publishing(broker) as sink:
        sink.record(gap)
    assert [gap] == [decode_gap(value) for value in values(broker, "market-data-gaps", 0)]
    with publishing(broker, gap_topic="") as sink:
        sink.record(gap)
    assert 1 == len(values(broker, "market-data-gaps", 0))


@pytest.mark.parametrize("room", [3, 30])
def test_a_full_queue_says_so(broker: EmbeddedBroker, room: int) -> None:
    """Frames that wait for Kafka are bounded: sockets are not read beyond that, and nothing is dropped."""
    made = FrameFactory()
    sink = sink_of(broker, queue_frames=room)
    # Not started yet: nothing is taken out.
    for _ in range(room):
        assert not sink.is_full
        sink.offer(received(made.snapshot(FROG)))
    assert sink.is_full
    sink.start()
    until(lambda: not sink.is_full)
    sink.stop(TIMEOUT_S)
    assert (room, room, 0) == (sink.counts().offered, sink.counts().processed, sink.counts().waiting)


def test_a_broker_that_is_away_for_a_while_costs_nothing(broker: EmbeddedBroker) -> None:
    """What was offered meanwhile is delivered, in order."""
    made = FrameFactory()
    with publishing(broker) as sink:
        sink.offer(received(made.snapshot(FROG)))
        broker.down()
        for _ in range(300):
            sink.offer(received(made.delta(FROG, "yes", 100, 1)))
        broker.up()
    sequences = [one.sequence for part in envelopes(broker) for one in part if one.sequence]
    assert list(range(1, 302)) == sequences
    assert 0 == sink.statistics().failed


@pytest.mark.parametrize("timeout_s", [0.3, 1.5])
def test_a_stop_has_an_end(broker: EmbeddedBroker, timeout_s: float) -> None:
    """A broker that stays away does not hold it up; what was not taken is counted and said."""
    made = FrameFactory()
    options = GatherOptions(stop_timeout_s=timeout_s)
    sink = sink_of(broker)
    sink.start()
    until(lambda: sink.statistics().delivered == 3)
    broker.down()
    for _ in range(50):
        sink.offer(received(made.snapshot(FROG)))
    start = monotonic()
    lost = sink.stop(options.stop_timeout_s)
    assert timeout_s <= monotonic() - start < timeout_s + 6
    # The snapshots, and the goodbye to three partitions.
    assert 53 == lost


def test_a_stop_has_an_end_though_librdkafka_takes_nothing_more(broker: EmbeddedBroker) -> None:
    """Its own queue is full, and what stands first in ours is a notice: all is counted as lost, in time."""
    made = FrameFactory()
    kafka = KafkaOptions(
        bootstrap_servers=str(broker),
        extra={"reconnect.backoff.max.ms": 100, "queue.buffering.max.messages": 10},
    )
    sink = KafkaSink(kafka, GatherOptions(source="g1"), GatherIncidents())
    sink.start()
    until(lambda: sink.statistics().delivered == 3)
    broker.down()
    for _ in range(10):
        sink.offer(received(made.snapshot(FROG)))
    sink.alive()
    for _ in range(10):
        sink.offer(received(made.snapshot(FROG)))
    until(lambda: sink.statistics().offered == 13)
    start = monotonic()
    lost = sink.stop(0.5)
    assert monotonic() - start < 4
    assert sink.failure is not None
    assert 20 == lost


def test_a_missing_broker_stops_the_start() -> None:
    """The message says where none answers."""
    kafka = KafkaOptions(bootstrap_servers="127.0.0.1:1")
    sink = KafkaSink(kafka, GatherOptions(), GatherIncidents())
    with pytest.raises(FeedError, match=r"127\.0\.0\.1:1"):
        sink._publisher.check(0.5)


@pytest.mark.parametrize("suppresses", [True, False])
def test_suppress_repeats(broker: EmbeddedBroker, suppresses: bool) -> None:
    """A refresh that says what Kafka has is left out, unless a change or a doubt came in between."""
    made = FrameFactory()
    with publishing(broker, suppress_repeats=suppresses) as sink:

        def say(*, is_refresh: bool = True) -> None:
            before = sink.statistics().delivered
            sink.offer(received(made.snapshot(FROG, yes=[(4_000, 100)]), is_refresh=is_refresh))
            until(lambda: sink.waiting == 0)
            sink._publisher.flush(TIMEOUT_S)
            until(lambda: sink.statistics().in_flight == 0)
            published.append(sink.statistics().delivered > before)

        published: list[bool] = []
        say(is_refresh=False)
        say()
        say(is_refresh=False)
        sink.offer(received(made.delta(FROG, "yes", 4_000, 1), "orderbook_delta"))
        say()
        say()
        sink.notify(Notice("stale", "gap", "", "c1", 1))
        say()
    expected = [True, False, True, True, False, True] if suppresses else [True] * 6
    assert expected == published
    assert 2 * suppresses == sink.suppressed


def test_settings_of_consumers_are_kept_from_the_producer() -> None:
    """One table serves both ends; librdkafka would warn of what does not fit."""
    extra = {"fetch.wait.max.ms": 5, "sasl.password": "x", "client.id": "g", "enable.partition.eof": True}
    assert {"sasl.password": "x", "client.id": "g"} == producer_settings(extra)
    extra = {"linger.ms": 5, "sasl.password": "x", "queue.buffering.max.messages": 7}
    assert {"sasl.password": "x"} == consumer_settings(extra)
