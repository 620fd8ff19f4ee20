"""What a feed does when brokers and topics fail it; the suite on a real Kafka goes further."""

import threading
from collections.abc import Callable
from functools import partial

import pytest
from confluent_kafka import KafkaError

from kalshibook.feeds import EmbeddedBroker, FeedState, KafkaFeed
from kalshibook.store import BookStore, Condition, Cut, IncidentKind
from tests.feeds.reading import TIMEOUT_S, TOPIC, options_for, reaches, topic_of
from tests.kafka.gatherer import Gatherer, books_of

METADATA = 3
LIST_OFFSETS = 2
FETCH = 1


def test_broker_goes_and_comes_back(broker: EmbeddedBroker, gatherer: Gatherer, store: BookStore) -> None:
    """An outage is a state with a reason; afterwards reading goes on where it was."""
    gatherer.snapshot("A", 0)
    gatherer.flush()
    with KafkaFeed(store, options_for(broker)) as feed:
        assert feed.wait_ready(TIMEOUT_S)
        broker.down()
        assert feed.wait_state(FeedState.BROKER_DOWN, timeout=TIMEOUT_S)
        assert feed.health().reason
        assert not feed.health().ok
        assert store.cut().behind == feed.health().reason
        broker.up()
        assert feed.wait_state(FeedState.LIVE, timeout=TIMEOUT_S)
        assert store.ready
        gatherer.delta("A", "yes", 4_000, 100)
        gatherer.flush()
        reaches(store, lambda cut: cut.reaches({0: 1}))

    assert gatherer.books == books_of(store.cut())
    assert [FeedState.STOPPED, FeedState.LIVE, FeedState.BROKER_DOWN, FeedState.LIVE] == [
        FeedState(found.detail.split()[3].rstrip(":"))
        for found in store.incidents.recent()
        if found.kind is IncidentKind.FEED
    ][:4]


def test_one_of_several_brokers_goes(store: BookStore) -> None:
    """While a partition has no broker the store is behind, for its books stand still; then it is read on."""
    with EmbeddedBroker({TOPIC: 3}, brokers=3) as broker, Gatherer(topic_of(broker)) as gatherer:
        for number in range(3):
            gatherer.snapshot(f"M{number}", number)
        gatherer.flush()
        leader = gatherer.topic.admin.list_topics(TOPIC, TIMEOUT_S).topics[TOPIC].partitions[0].leader
        with KafkaFeed(store, options_for(broker)) as feed:
            assert feed.wait_ready(TIMEOUT_S)
            broker.down(leader)
            assert feed.wait_state(FeedState.BROKER_DOWN, timeout=TIMEOUT_S)
            assert not store.ready
            broker.up(leader)
            assert feed.wait_ready(TIMEOUT_S)
            gatherer.deltas(9)
            gatherer.flush()
            reaches(store, lambda cut: sum(cut.offsets.values()) == gatherer.published)

    assert gatherer.books == books_of(store.cut())


def test_broker_comes_after_the_feed(broker: EmbeddedBroker, gatherer: Gatherer, store: BookStore) -> None:
    """A feed that is started first waits, says so, and is not ready."""
    gatherer.snapshot("A", 0)
    gatherer.flush()
    broker.down()
    with KafkaFeed(store, options_for(broker)) as feed:
        assert feed.wait_state(FeedState.BROKER_DOWN, timeout=TIMEOUT_S)
        assert not store.ready
        broker.up()
        assert feed.wait_ready(TIMEOUT_S)

    assert gatherer.books == books_of(store.cut())


def test_topic_comes_after_the_feed(broker: EmbeddedBroker, store: BookStore) -> None:
    """A topic that is missing is a state that names it; it is read once it is there."""
    with KafkaFeed(store, options_for(broker, topic="later")) as feed:
        assert feed.wait_state(FeedState.TOPIC_MISSING, timeout=TIMEOUT_S)
        assert "'later'" in feed.health().reason
        assert not store.ready
        broker.create_topic("later", 2)
        assert feed.wait_ready(TIMEOUT_S)
        with Gatherer(topic_of(broker, "later")) as gatherer:
            gatherer.snapshot("A", 1)
            gatherer.flush()
            reaches(store, lambda cut: "A" in cut)


@pytest.mark.parametrize("request_kind", [METADATA, LIST_OFFSETS])
def test_questions_at_the_start_fail(
    broker: EmbeddedBroker, gatherer: Gatherer, store: BookStore, request_kind: int
) -> None:
    """Answers that fail at the start are asked for again."""
    gatherer.snapshot("A", 0)
    gatherer.flush()
    broker.push_errors(request_kind, [KafkaError._TRANSPORT] * 3)
    with KafkaFeed(store, options_for(broker, start="rewind")) as feed:
        assert feed.wait_ready(TIMEOUT_S)

    assert gatherer.books == books_of(store.cut())


def test_reading_is_refused_for_a_while(broker: EmbeddedBroker, gatherer: Gatherer, store: BookStore) -> None:
    """A topic that may not be read is a state; once it may, reading goes on where it was."""
    gatherer.snapshot("A", 0)
    gatherer.flush()
    with KafkaFeed(store, options_for(broker)) as feed:
        assert feed.wait_ready(TIMEOUT_S)
        broker.push_errors(FETCH, [KafkaError.TOPIC_AUTHORIZATION_FAILED])
        # A fetch that was under way may still bring the first delta; the second comes after the refusal.
        for offset in (1, 2):
            gatherer.delta("A", "yes", 4_000, 100)
            gatherer.flush()
            reaches(store, partial(Cut.reaches, min_offset={0: offset}))

    # On record, for the state itself passes before a waiter wakes.
    assert any("authentication_failed" in found.detail for found in store.incidents.recent())
    assert gatherer.books == books_of(store.cut())
    assert {"snapshot": 1, "delta": 2} == {
        name: count for name, count in store.statistics().outcomes.items() if count
    }


def test_records_are_gone_before_they_are_read(
    broker: EmbeddedBroker, gatherer: Gatherer, store: BookStore
) -> None:
    """A broker that has no such offset any more makes the partition's books stale, and is read on."""
    homes = (("A", 0), ("B", 1), ("C", 2))
    for ticker, partition in homes:
        gatherer.snapshot(ticker, partition)
    gatherer.deltas(20)
    gatherer.flush()
    with KafkaFeed(store, options_for(broker)) as feed:
        assert feed.wait_ready(TIMEOUT_S)
        with store.changes() as reader:
            while not store.cut().counts.stale:
                # So the embedded broker answers one fetch, of one or more partitions, whichever comes first.
                # librdkafka passes over an answer to a fetch that it has given up meanwhile.
                broker.push_errors(FETCH, [KafkaError.OFFSET_OUT_OF_RANGE])
                reader.take(5)
        assert feed.wait_ready(TIMEOUT_S)
        for ticker, partition in homes:
            gatherer.snapshot(ticker, partition)
        gatherer.flush()
        reaches(store, lambda cut: cut.counts.live == len(homes))
        assert feed.wait_ready(TIMEOUT_S)

    assert gatherer.books == books_of(store.cut())
    doubts = [found for found in store.incidents.recent() if found.kind is IncidentKind.DOUBTED]
    assert doubts
    assert all("are gone" in found.detail and found.partition is not None for found in doubts)


def test_topic_is_replaced_by_a_larger_one(broker: EmbeddedBroker, store: BookStore) -> None:
    """A topic that was made anew is a loss that is seen; its new partitions are found and read."""
    with Gatherer(topic_of(broker)) as gatherer:
        for number in range(3):
            gatherer.snapshot(f"M{number}", number)
        gatherer.flush()
        with KafkaFeed(store, options_for(broker, partition_refresh_s=1)) as feed:
            assert feed.wait_ready(TIMEOUT_S)
            broker.delete_topic(TOPIC)
            broker.create_topic(TOPIC, 5)
            cut = reaches(store, lambda cut: cut.counts.stale == 3)
            assert {"M0", "M1", "M2"} == set(cut)
            with Gatherer(topic_of(broker), connection="c2") as again:
                again.snapshot("M0", 0)
                again.snapshot("M9", 4)
                again.flush()
                reaches(store, lambda cut: "M9" in cut and cut["M0"].condition is Condition.LIVE)
            assert feed.wait_ready(TIMEOUT_S)
            assert [0, 1, 2, 3, 4] == [one.partition for one in feed.health().partitions]


@pytest.mark.parametrize("offset", [5, 10**9])
def test_stored_offset_is_not_there(
    broker: EmbeddedBroker, gatherer: Gatherer, store: BookStore, offset: int
) -> None:
    """A stored offset beyond what the broker has is an incident, and all there is is read."""
    gatherer.snapshot("A", 0)
    gatherer.flush()
    with KafkaFeed(store, options_for(broker, start="offsets", start_offsets={0: offset})) as feed:
        assert feed.wait_ready(TIMEOUT_S)

    assert gatherer.books == books_of(store.cut())
    assert any(f"offset {offset}" in found.detail for found in store.incidents.recent())


def test_silence_is_told(
    broker: EmbeddedBroker,
    store: BookStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A live feed to which nothing comes for longer than is normal is not well, and says since when."""
    from kalshibook.feeds import kafka

    real: Callable[[], int] = kafka._now_us
    with KafkaFeed(store, options_for(broker, silence_limit_s=60)) as feed:
        assert feed.wait_ready(TIMEOUT_S)
        assert feed.health().ok
        monkeypatch.setattr(kafka, "_now_us", lambda: real() + 61_000_000)

        assert feed.health().silent
        assert not feed.health().ok
        assert "60 s" in feed.health().reason


def test_a_silent_store_is_behind_until_something_comes(
    broker: EmbeddedBroker, gatherer: Gatherer, store: BookStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen broker says nothing: books that nobody confirms are not served as the present."""
    from kalshibook.feeds import session

    real: Callable[[], int] = session._now_us
    gatherer.snapshot("A", 0)
    gatherer.flush()
    with KafkaFeed(store, options_for(broker, silence_limit_s=60)) as feed:
        assert feed.wait_ready(TIMEOUT_S)
        monkeypatch.setattr(session, "_now_us", lambda: real() + 61_000_000)
        behind = reaches(store, lambda cut: not cut.ready)
        monkeypatch.setattr(session, "_now_us", real)
        gatherer.delta("A", "yes", 4_000, 100)
        gatherer.flush()
        reaches(store, lambda cut: cut.ready and cut.reaches({0: 1}))

    assert "no record for more than 60 s" == behind.behind
    assert gatherer.books == books_of(store.cut())


def test_a_feed_that_is_late_is_behind_until_it_keeps_pace(
    broker: EmbeddedBroker, gatherer: Gatherer, store: BookStore
) -> None:
    """Books that are consistent and old are not served as the present; the feed says why, and recovers."""
    gatherer.snapshot("A", 0)
    gatherer.flush()
    keeps_pace = threading.Event()

    def wake() -> None:
        reader.take_nowait()  # or it would not be called again
        keeps_pace.wait(0.05)

    # Longer than a busy machine keeps a thread waiting, which would be a stall and another matter.
    options = options_for(broker, lag_limit_s=3, batch_records=1)
    with store.changes(wake=wake) as reader, KafkaFeed(store, options) as feed:
        assert feed.wait_ready(TIMEOUT_S)
        gatherer.deltas(500)
        gatherer.flush()
        assert feed.wait_state(FeedState.LAGGING, timeout=TIMEOUT_S)
        behind, health = store.cut().behind, feed.health()
        keeps_pace.set()
        assert feed.wait_ready(TIMEOUT_S)
        reaches(store, lambda cut: cut.ready and cut.reaches({0: 500}))
        # Once: it does not come and go around the limit.
        reasons = [found.detail for found in store.incidents.recent() if "lagging" in found.detail]

    assert (FeedState.LAGGING, False) == (health.state, health.ok)
    assert health.waiting_us > 3_000_000
    assert "records are read more than 3 s after they came" == behind == health.reason
    assert 1 == len(reasons)
    assert gatherer.books == books_of(store.cut())


def test_what_came_while_much_was_read_is_a_part_of_catching_up(
    broker: EmbeddedBroker, gatherer: Gatherer, store: BookStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start that takes a minute ends a minute behind: that is no trouble, and not yet the present."""
    from kalshibook.feeds.lag import LagClock

    gatherer.snapshot("A", 0)
    gatherer.flush()
    waits_us = [60_000_000]
    monkeypatch.setattr(LagClock, "waiting_us", lambda *_: waits_us[0])
    monkeypatch.setattr("kalshibook.feeds.session._TICK_US", 0)
    with KafkaFeed(store, options_for(broker)) as feed:
        assert feed.wait_state(FeedState.CATCHING_UP, timeout=TIMEOUT_S)
        assert not feed.wait_state(FeedState.LIVE, FeedState.LAGGING, timeout=0.2)
        assert not store.ready
        waits_us[0] = 3_000_000  # not near enough
        assert not feed.wait_state(FeedState.LIVE, FeedState.LAGGING, timeout=0.2)
        waits_us[0] = 400_000
        assert feed.wait_ready(TIMEOUT_S)
        assert store.ready


def test_a_feed_that_stood_still_asks_what_it_has_missed(
    broker: EmbeddedBroker, gatherer: Gatherer, store: BookStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was stopped for a while is behind from its first moment on, and health knew of it."""
    from kalshibook.feeds import session

    real: Callable[[], int] = session._steady_us
    monkeypatch.setattr(session, "_TICK_US", 0)
    gatherer.snapshot("A", 0)
    gatherer.flush()
    goes_on, stands_still = threading.Event(), threading.Event()
    versions: list[tuple[bool, int]] = []

    def wake() -> None:
        reader.take_nowait()
        cut = store.cut()
        versions.append((cut.ready, cut.offsets.get(0, 0)))
        if cut.reaches({0: 1}) and not goes_on.is_set():
            stands_still.set()
            goes_on.wait(TIMEOUT_S)

    with (
        store.changes(wake=wake) as reader,
        KafkaFeed(store, options_for(broker, lag_limit_s=60, batch_records=1)) as feed,
    ):
        assert feed.wait_ready(TIMEOUT_S)
        gatherer.delta("A", "yes", 4_000, 100)
        gatherer.flush()
        assert stands_still.wait(TIMEOUT_S)
        gatherer.deltas(20)
        gatherer.flush()
        assert feed.health().ok
        monkeypatch.setattr(session, "_steady_us", lambda: real() + 61_000_000)
        health = feed.health()
        goes_on.set()
        reaches(store, lambda cut: cut.ready and cut.reaches({0: 21}))

    assert (FeedState.LAGGING, "the feed's thread has not run for more than 60 s") == (
        health.state,
        health.reason,
    )
    # Two records at most were taken before time was looked at.
    assert all(offset <= 4 or offset >= 22 for ready, offset in versions if ready)
    assert any(not ready and offset < 22 for ready, offset in versions if offset > 1)
    assert gatherer.books == books_of(store.cut())


def test_without_a_limit_no_feed_lags(
    broker: EmbeddedBroker, gatherer: Gatherer, store: BookStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads a topic that is older than now, in order to look at it, may say so."""
    from kalshibook.feeds.lag import LagClock

    monkeypatch.setattr(LagClock, "waiting_us", lambda *_: 3_600_000_000)
    with KafkaFeed(store, options_for(broker, lag_limit_s=0)) as feed:
        assert feed.wait_ready(TIMEOUT_S)
        assert store.ready


def test_topic_is_deleted_and_made_again(broker: EmbeddedBroker, store: BookStore) -> None:
    """A topic that goes is a state and makes all books stale; one that comes is read from its beginning."""
    with Gatherer(topic_of(broker)) as gatherer:
        gatherer.snapshot("A", 0)
        gatherer.flush()
        quick = {"topic.metadata.propagation.max.ms": 100}
        with KafkaFeed(store, options_for(broker, partition_refresh_s=1, extra=quick)) as feed:
            assert feed.wait_ready(TIMEOUT_S)
            broker.delete_topic(TOPIC)
            assert feed.wait_state(FeedState.TOPIC_MISSING, timeout=TIMEOUT_S)
            assert Condition.STALE is store.cut()["A"].condition
            assert not store.ready
            broker.create_topic(TOPIC, 1)
            with Gatherer(topic_of(broker), connection="c2") as again:
                again.snapshot("B", 0)
                again.snapshot("C", 0)
                again.flush()
                assert feed.wait_ready(TIMEOUT_S)
                reaches(store, lambda cut: cut.counts.live == 2)

    assert {"A": Condition.STALE, "B": Condition.LIVE, "C": Condition.LIVE} == {
        ticker: book.condition for ticker, book in store.cut().items()
    }
