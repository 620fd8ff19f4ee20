"""Events that no broker here can be made to send: they are put between real records."""

import threading
from collections.abc import Iterator
from typing import Final

import pytest
from confluent_kafka import KafkaError, Message

from kalshibook.feeds import EmbeddedBroker, FeedState, KafkaFeed
from kalshibook.feeds.link import KafkaLink
from kalshibook.feeds.watch import Unavailable
from kalshibook.store import BookStore, Condition, Incident, IncidentKind
from tests.feeds.reading import TIMEOUT_S, options_for, reaches
from tests.kafka.gatherer import Gatherer

REAL_POLL: Final = KafkaLink.poll


def event(code: int, *, partition: int = 0, fatal: bool = False) -> Message:
    """Return an event as librdkafka would hand it out."""
    return Message(
        topic="t", partition=partition, offset=1, error=KafkaError(code, "as the test says", fatal)
    )


class Events:
    """Lets the running feed meet events."""

    def __init__(self) -> None:
        self._waiting: list[Message] = []
        self._none_left = threading.Event()

    def poll(self, link: KafkaLink, most: int, timeout_s: float) -> list[Message]:
        """Stand in for the link's own."""
        if self._waiting:
            return [self._waiting.pop()]
        self._none_left.set()
        return REAL_POLL(link, most, timeout_s)

    def send(self, message: Message) -> None:
        """Let the feed meet an event at its next turn."""
        self._waiting.append(message)
        self._none_left.clear()

    def wait(self) -> None:
        """Wait until the feed has dealt with it."""
        assert self._none_left.wait(TIMEOUT_S)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Events:
    """What the feed is to meet."""
    events = Events()

    def poll(link: KafkaLink, most: int, timeout_s: float) -> list[Message]:
        return events.poll(link, most, timeout_s)

    monkeypatch.setattr(KafkaLink, "poll", poll)
    return events


@pytest.fixture
def feed(broker: EmbeddedBroker, gatherer: Gatherer, store: BookStore) -> Iterator[KafkaFeed]:
    """A live feed with a market in each of two partitions."""
    gatherer.snapshot("A", 0)
    gatherer.snapshot("B", 1)
    gatherer.flush()
    with KafkaFeed(store, options_for(broker)) as feed:
        assert feed.wait_ready(TIMEOUT_S)
        yield feed


def newest(store: BookStore) -> Incident:
    """Return the newest incident."""
    return store.incidents.recent(1)[0]


def test_fatal_error_ends_the_feed(events: Events, feed: KafkaFeed, store: BookStore) -> None:
    """What librdkafka calls fatal is no state to wait in: the feed has failed, with its words."""
    events.send(event(KafkaError._FATAL, fatal=True))
    assert feed.wait_state(FeedState.FAILED, timeout=TIMEOUT_S)

    assert "as the test says" in feed.health().reason
    assert not store.ready


@pytest.mark.parametrize("code", [KafkaError._BAD_MSG, KafkaError._BAD_COMPRESSION])
def test_spoilt_records_are_a_loss(
    events: Events, feed: KafkaFeed, gatherer: Gatherer, store: BookStore, code: int
) -> None:
    """Records that cannot be unpacked make the partition's books stale; reading goes on."""
    events.send(event(code, partition=1))
    events.wait()
    gatherer.delta("A", "yes", 4_000, 100)
    gatherer.flush()
    cut = reaches(store, lambda cut: cut.reaches({0: 1}))

    assert {"A": Condition.LIVE, "B": Condition.STALE} == {
        ticker: book.condition for ticker, book in cut.items()
    }
    assert (IncidentKind.DOUBTED, 1) == (newest(store).kind, newest(store).partition)


def test_other_errors_are_incidents(events: Events, feed: KafkaFeed, store: BookStore) -> None:
    """An error that changes nothing for the books is found afterwards, with its partition."""
    events.send(event(KafkaError._TIMED_OUT, partition=1))
    events.wait()

    assert (IncidentKind.FEED, 1, "as the test says") == (
        newest(store).kind,
        newest(store).partition,
        newest(store).detail,
    )
    assert feed.health().ok


def test_groups_need_not_be_allowed(events: Events, feed: KafkaFeed, store: BookStore) -> None:
    """Brokers that refuse the group are no trouble: the feed assigns its partitions itself."""
    before = newest(store)
    events.send(event(KafkaError.GROUP_AUTHORIZATION_FAILED))
    events.wait()

    assert before == newest(store)
    assert feed.health().ok


def test_refused_for_long(
    monkeypatch: pytest.MonkeyPatch, events: Events, feed: KafkaFeed, store: BookStore
) -> None:
    """While the topic may not be read the store is behind, and says why."""

    def partitions(_: KafkaLink) -> list[int]:
        raise Unavailable(FeedState.AUTHENTICATION_FAILED, "no entry")

    monkeypatch.setattr(KafkaLink, "partitions", partitions)
    events.send(event(KafkaError.TOPIC_AUTHORIZATION_FAILED))

    assert "no entry" == reaches(store, lambda cut: not cut.ready).behind


def test_an_end_before_records_of_the_same_batch(
    monkeypatch: pytest.MonkeyPatch, feed: KafkaFeed, gatherer: Gatherer, store: BookStore
) -> None:
    """An end that was true when it was queued does not take the position back behind the records after it."""

    def poll(link: KafkaLink, most: int, timeout_s: float) -> list[Message]:
        messages = REAL_POLL(link, most, timeout_s)
        records = [message for message in messages if message.error() is None]
        return [event(KafkaError._PARTITION_EOF), *records] if records else []

    monkeypatch.setattr(KafkaLink, "poll", poll)
    gatherer.delta("A", "yes", 4_000, 100)
    gatherer.delta("A", "yes", 4_000, 100)
    gatherer.flush()
    reaches(store, lambda cut: cut.reaches({0: 2}))
    assert feed.stop(TIMEOUT_S)

    assert 3 == feed.health().partitions[0].next_offset


def test_events_after_a_new_beginning_are_dropped(
    monkeypatch: pytest.MonkeyPatch, feed: KafkaFeed, gatherer: Gatherer, store: BookStore
) -> None:
    """Refused partition by partition, a topic is looked for once, and what follows in the batch is void."""
    begun: list[object] = []
    assigned = threading.Event()
    real_assign = KafkaLink.assign
    refused = [event(KafkaError.TOPIC_AUTHORIZATION_FAILED, partition=number) for number in range(3)]
    # Offset 1 is not where partition 2 ends; believed, it would be read from there.
    batch = [*refused, event(KafkaError._PARTITION_EOF, partition=2)]

    def poll(link: KafkaLink, most: int, timeout_s: float) -> list[Message]:
        messages = list(batch) or REAL_POLL(link, most, timeout_s)
        batch.clear()
        return messages

    def assign(link: KafkaLink, offsets: dict[int, int]) -> None:
        begun.append(offsets)
        real_assign(link, offsets)
        assigned.set()

    monkeypatch.setattr(KafkaLink, "assign", assign)
    monkeypatch.setattr(KafkaLink, "poll", poll)
    assert assigned.wait(TIMEOUT_S)  # else the real poll, under way, may bring the snapshot first
    gatherer.snapshot("C", 2)
    gatherer.flush()
    reaches(store, lambda cut: "C" in cut)

    assert [{0: 1, 1: 1, 2: 0}] == begun
