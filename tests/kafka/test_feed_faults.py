"""What a feed does when a real Kafka fails it: nothing lost, nothing doubled, nothing in silence."""

import threading
from collections.abc import Callable
from typing import Final

import pytest

from kalshibook.feeds.base import FeedState
from kalshibook.store import Condition, IncidentKind
from tests.kafka.apache_kafka import ApacheKafka
from tests.kafka.gatherer import Gatherer, books_of
from tests.kafka.reading import Reading, eventually, reading
from tests.kafka.topics import Topic

pytestmark = pytest.mark.real_kafka

TIMEOUT_S: Final = 45

# Next to nothing is fetched ahead, so that a feed that is held up really is behind.
NOTHING_AHEAD: Final = {
    "queued.min.messages": 1,
    "queued.max.messages.kbytes": 1,
    "fetch.message.max.bytes": 1_000,
}


@pytest.fixture
def topic(new_topic: Callable[[], Topic]) -> Topic:
    """A topic of three partitions."""
    topic = new_topic()
    topic.create(3)
    return topic


@pytest.mark.parametrize("end", [ApacheKafka.stop, ApacheKafka.kill])
def test_broker_ends_while_consuming(
    end: Callable[[ApacheKafka], None], apache_kafka: ApacheKafka, topic: Topic
) -> None:
    """A broker that is stopped or killed in mid-stream and comes back costs time, and no record."""
    with Gatherer(topic) as gatherer:
        for number in range(9):
            gatherer.snapshot(f"M{number}", number % 3)
        gatherer.flush()
        with reading(topic) as read:
            read.equals(gatherer)
            publishing = threading.Thread(target=gatherer.deltas, args=(30_000,))
            publishing.start()
            try:
                eventually(lambda: read.feed.health().records > 5_000, read.feed.health)
                end(apache_kafka)
                reason = read.reaches(FeedState.BROKER_DOWN).reason
                assert reason
                assert not read.feed.health().ok
                assert read.feed.health().records < 30_009
            finally:
                apache_kafka.start()
                publishing.join(TIMEOUT_S)
            gatherer.flush()
            read.reaches(FeedState.LIVE)
            read.equals(gatherer)
            assert read.store.ready


def test_broker_comes_after_the_feed(apache_kafka: ApacheKafka, topic: Topic) -> None:
    """A feed that is started before its broker waits for it, and says so."""
    with Gatherer(topic) as gatherer:
        gatherer.snapshot("A", 0)
        gatherer.flush()
        apache_kafka.stop()
        try:
            with reading(topic) as read:
                assert read.reaches(FeedState.BROKER_DOWN).reason
                assert not read.store.ready
                apache_kafka.start()
                read.reaches(FeedState.LIVE)
                read.equals(gatherer)
        finally:
            if not apache_kafka.running:
                apache_kafka.start()


def test_broker_freezes(apache_kafka: ApacheKafka, topic: Topic) -> None:
    """A broker that hangs with its connections open is noticed like one that is gone."""
    with Gatherer(topic) as gatherer:
        gatherer.snapshot("A", 0)
        gatherer.flush()
        with reading(topic, extra={"socket.timeout.ms": 2_000}) as read:
            read.equals(gatherer)
            apache_kafka.freeze()
            try:
                assert read.reaches(FeedState.BROKER_DOWN).reason
            finally:
                apache_kafka.thaw()
            gatherer.deltas(100)
            gatherer.flush()
            read.reaches(FeedState.LIVE)
            read.equals(gatherer)


class HeldUp:
    """Holds a feed's thread in the middle of a batch, as a stalled machine would."""

    def __init__(self, read: Reading) -> None:
        self._going_on = threading.Event()
        self._held = threading.Event()
        self._reader = read.store.changes(wake=self._wake)

    def wait(self) -> None:
        """Wait until the feed is held."""
        assert self._held.wait(TIMEOUT_S)

    def release(self) -> None:
        """Let the feed go on, for good."""
        self._going_on.set()
        self._reader.close()

    def _wake(self) -> None:
        self._held.set()
        assert self._going_on.wait(TIMEOUT_S)


def test_retention_overtakes_the_consumer(topic: Topic) -> None:
    """Records that are deleted before they were read are a loss: stale books, an incident, then healing."""
    with Gatherer(topic) as gatherer:
        for number in range(6):
            gatherer.snapshot(f"M{number}", number % 3)
        gatherer.flush()
        with reading(topic, extra=NOTHING_AHEAD) as read:
            read.equals(gatherer)
            held = HeldUp(read)
            try:
                gatherer.delta("M0", "yes", 4_000, 100)
                gatherer.flush()
                held.wait()
                gatherer.deltas(6_000)
                gatherer.flush()
                topic.drop_before(0, topic.ends()[0] - 10)
            finally:
                held.release()
            read.consumes(topic)
            conditions = {ticker: book.condition for ticker, book in read.store.cut().items()}
            lost, kept = {"M0", "M3"}, {"M1", "M2", "M4", "M5"}
            assert dict.fromkeys(lost, Condition.STALE) | dict.fromkeys(kept, Condition.LIVE) == conditions
            assert all(read.store.cut()[ticker].stale_reason for ticker in lost)
            doubted = [
                incident
                for incident in read.store.incidents.recent()
                if incident.kind is IncidentKind.DOUBTED and incident.partition == 0
            ]
            assert 1 == len(doubted)
            for ticker in sorted(lost):
                gatherer.snapshot(ticker, 0)
            gatherer.flush()
            read.consumes(topic)
            assert gatherer.books == books_of(read.store.cut())
            assert 6 == read.store.statistics().live


def test_stored_offsets_are_gone(topic: Topic) -> None:
    """A feed whose stored offsets retention has removed says so, and starts at what is left."""
    with Gatherer(topic) as gatherer:
        for number in range(30):
            gatherer.snapshot(f"M{number}", 0)
        gatherer.flush()
        topic.drop_before(0, 20)
        with reading(topic, start="offsets", start_offsets={0: 5, 1: 0, 2: 0}) as read:
            read.consumes(topic)
            assert {f"M{number}" for number in range(20, 30)} == set(read.store.cut())
            found = [incident.detail for incident in read.store.incidents.recent() if incident.partition == 0]
            assert any("offset 5" in detail for detail in found), found


def test_retention_by_size_of_a_running_topic(new_topic: Callable[[], Topic]) -> None:
    """Kafka's own retention, which deletes whole segments, costs a feed that keeps up nothing."""
    topic = new_topic()
    topic.create(1, segment_bytes="1048576", retention_bytes="1048576")
    with Gatherer(topic, compression_type="none") as gatherer:
        gatherer.snapshot("A", 0)
        gatherer.flush()
        with reading(topic) as read:
            read.equals(gatherer)
            gatherer.deltas(12_000)
            gatherer.flush()
            read.equals(gatherer)
            eventually(lambda: topic.beginnings()[0] > 0, topic.beginnings)
            gatherer.deltas(100)
            gatherer.flush()
            read.equals(gatherer)


def test_topic_appears_later(new_topic: Callable[[], Topic]) -> None:
    """A topic that does not exist is a state with a reason that names it; once there, it is read."""
    topic = new_topic()
    with reading(topic) as read:
        assert topic.name in read.reaches(FeedState.TOPIC_MISSING).reason
        assert not read.store.ready
        topic.create(3)
        with Gatherer(topic) as gatherer:
            gatherer.snapshot("A", 2)
            gatherer.flush()
            read.reaches(FeedState.LIVE)
            read.equals(gatherer)


def test_topic_is_replaced_at_once(topic: Topic) -> None:
    """A topic that is replaced between two looks is read from its beginning, and old books are in doubt."""
    with Gatherer(topic) as gatherer:
        for number in range(3):
            gatherer.snapshot(f"M{number}", number)
        gatherer.deltas(3_000)
        gatherer.flush()
        with reading(topic, partition_refresh_s=60) as read:
            read.equals(gatherer)
            topic.delete()
            topic.create(3)
            with Gatherer(topic, connection="c2") as again:
                for number in range(1, 3):
                    again.snapshot(f"M{number}", number, size=77)
                again.deltas(100)
                again.flush()
                eventually(
                    lambda: again.books.items() <= books_of(read.store.cut()).items(), read.feed.health
                )
                assert Condition.STALE == read.store.cut()["M0"].condition
                assert 2 == read.store.statistics().live


def test_topic_is_deleted_and_comes_back(topic: Topic) -> None:
    """A topic that is replaced under a running feed is a loss that is seen, and the new one is read."""
    with Gatherer(topic) as gatherer:
        for number in range(6):
            gatherer.snapshot(f"M{number}", number % 3)
        gatherer.flush()
        with reading(topic) as read:
            read.equals(gatherer)
            topic.delete()
            assert topic.name in read.reaches(FeedState.TOPIC_MISSING).reason
            topic.create(3)
            with Gatherer(topic, connection="c2") as again:
                again.snapshot("M0", 0, size=77)
                again.flush()
                read.reaches(FeedState.LIVE)
                eventually(lambda: read.store.cut()["M0"].condition is Condition.LIVE, read.feed.health)
                assert again.books["M0"] == books_of(read.store.cut())["M0"]
            assert Condition.STALE == read.store.cut()["M1"].condition
