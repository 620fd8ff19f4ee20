"""The feed as its users see it: start, readiness, poison, restarts, stop."""

import random
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Consumer, Message

from kalshibook.errors import FeedError, StoreError
from kalshibook.feeds import EmbeddedBroker, Feed, FeedState, KafkaFeed, KafkaOptions
from kalshibook.feeds.link import KafkaLink
from kalshibook.feeds.quarantine import QuarantinedRecord
from kalshibook.store import BookStore, Condition, IncidentKind, MarketStatus, StoreWriter
from kalshibook.wire import decode_envelope, encode_envelope
from tests.feeds.reading import TIMEOUT_S, TOPIC, options_for, produce, reaches
from tests.kafka.gatherer import Gatherer, books_of


def envelope(frame: object, *, ticker: str) -> bytes:
    """Wrap a frame as another gatherer would."""
    payload = msgspec.json.encode(frame)
    return encode_envelope(
        payload, received_us=1, published_us=2, channel="x", market_ticker=ticker, sequence=None, source="g2"
    )


def stop_after(feed: KafkaFeed, store: BookStore, *, records: int) -> None:
    """Run a feed until the end of the batch that has so many records, or until it is live."""
    end = sum(store.cut().offsets.values()) + records

    def wake() -> None:
        reader.take_nowait()  # or it would not be called again
        if sum(store.cut().offsets.values()) >= end:
            feed._stopping.set()

    with store.changes(wake=wake) as reader, feed:
        feed.wait_ready(TIMEOUT_S)


class TestReading:
    def test_reads_every_partition_from_the_beginning(
        self, broker: EmbeddedBroker, gatherer: Gatherer, store: BookStore
    ) -> None:
        """What was published before the start is in the books when the feed is ready."""
        for number in range(7):
            gatherer.snapshot(f"M{number}", number % 3)
        gatherer.deltas(200)
        gatherer.flush()
        with KafkaFeed(store, options_for(broker)) as feed:
            assert feed.wait_ready(TIMEOUT_S)
            health = feed.health()

        assert gatherer.books == books_of(store.cut())
        assert FeedState.LIVE is health.state
        assert health.ok
        assert gatherer.published == health.records == sum(one.next_offset for one in health.partitions)
        assert [0, 1, 2] == [one.partition for one in health.partitions]
        assert 0 == health.lag
        assert health.bytes > 100 * health.records
        assert health.last_record_us is not None
        assert FeedState.STOPPED is feed.health().state

    def test_goes_on_with_what_is_published_later(
        self, broker: EmbeddedBroker, gatherer: Gatherer, store: BookStore
    ) -> None:
        """A record that comes while the feed is live is in the books as soon as readers are woken."""
        with KafkaFeed(store, options_for(broker)) as feed:
            assert feed.wait_ready(TIMEOUT_S)
            gatherer.snapshot("A", 1)
            gatherer.delta("A", "yes", 4_100, 500)
            gatherer.flush()
            cut = reaches(store, lambda cut: cut.reaches({1: 1}))

        assert gatherer.books == books_of(cut)

    def test_is_ready_only_when_every_partition_has_caught_up(
        self, broker: EmbeddedBroker, gatherer: Gatherer, store: BookStore
    ) -> None:
        """No version before the last record of each partition says ready, and an empty one does not block."""
        for number in range(200):
            gatherer.snapshot(f"M{number}", 0 if number < 190 else 2)
        gatherer.flush()
        with KafkaFeed(store, options_for(broker, batch_records=7)) as feed:
            assert feed.wait_ready(TIMEOUT_S)
        versions = [store.at(version) for version in range(store.cut().version + 1)]
        first = next(cut for cut in versions if cut.ready)

        assert {0: 190, 2: 10} == first.offsets
        assert 200 == len(first)

    def test_is_ready_on_an_empty_topic(self, broker: EmbeddedBroker, store: BookStore) -> None:
        """A topic without any record has been caught up with."""
        with KafkaFeed(store, options_for(broker)) as feed:
            assert feed.wait_ready(TIMEOUT_S)
            assert store.ready
            assert 0 == feed.health().records

    def test_rewind_says_when_the_broker_cannot_search_by_time(
        self, broker: EmbeddedBroker, gatherer: Gatherer, store: BookStore
    ) -> None:
        """The embedded broker cannot; then everything is read, and health and incidents say why."""
        gatherer.snapshot("A", 0)
        gatherer.flush()
        with KafkaFeed(store, options_for(broker, start="rewind")) as feed:
            assert feed.wait_ready(TIMEOUT_S)
            reason = feed.health().reason

        assert gatherer.books == books_of(store.cut())
        assert "cannot search by time" in reason
        assert any("cannot search by time" in found.detail for found in store.incidents.recent())

    def test_begins_at_stored_offsets(
        self, broker: EmbeddedBroker, gatherer: Gatherer, store: BookStore
    ) -> None:
        """Records before a stored offset are not read; a partition not named is read whole."""
        for ticker, partition in (("A", 0), ("B", 0), ("C", 1)):
            gatherer.snapshot(ticker, partition)
        gatherer.flush()
        with KafkaFeed(store, options_for(broker, start="offsets", start_offsets={0: 1})) as feed:
            assert feed.wait_ready(TIMEOUT_S)

        assert {"B", "C"} == set(store.cut())

    def test_time_passes_without_records(self, broker: EmbeddedBroker, store: BookStore) -> None:
        """A market whose close time has come closes although nothing is published any more."""
        close_s = int(time.time()) + 1
        message = {"event_type": "created", "market_ticker": "A", "open_ts": 1, "close_ts": close_s}
        frame = {"type": "market_lifecycle_v2", "sid": 1, "msg": message}
        with KafkaFeed(store, options_for(broker)) as feed:
            assert feed.wait_ready(TIMEOUT_S)
            produce(broker, envelope(frame, ticker="A"), key="A")
            cut = reaches(store, lambda cut: "A" in cut and cut["A"].condition is Condition.CLOSED)

        assert close_s * 1_000_000 == cut["A"].market.close_us


class TestPoison:
    def test_goes_to_quarantine_and_reading_goes_on(
        self, broker: EmbeddedBroker, gatherer: Gatherer, store: BookStore, tmp_path: Path
    ) -> None:
        """What cannot be read is kept with its place and reason; its market alone turns stale."""
        gatherer.snapshot("A", 0)
        gatherer.snapshot("B", 0)
        gatherer.snapshot("C", 0)
        gatherer.flush()
        no_number = {
            "type": "orderbook_delta",
            "sid": 7,
            "msg": {"market_ticker": "B", "side": "yes", "price_dollars": "1e-1", "delta_fp": "1.00"},
        }
        produce(broker, b"\xff no envelope", key="A")
        produce(broker, envelope(no_number, ticker="B"), key="someone else")
        produce(broker, b"neither key nor envelope")
        gatherer.delta("C", "no", 5_500, 100)
        gatherer.flush()
        file = tmp_path / "rejected.ndjson"
        with KafkaFeed(store, options_for(broker, quarantine_file=str(file))) as feed:
            assert feed.wait_ready(TIMEOUT_S)
            health = feed.health()
        kept = [msgspec.json.decode(line, type=QuarantinedRecord) for line in file.read_bytes().splitlines()]

        conditions = {ticker: book.condition for ticker, book in store.cut().items()}
        assert {"A": Condition.STALE, "B": Condition.STALE, "C": Condition.LIVE} == conditions
        assert gatherer.books["C"] == books_of(store.cut())["C"]
        assert {0: 7} == store.cut().offsets
        assert (3, 3, 0) == (health.rejected, health.quarantined, health.quarantine_lost)
        assert 3 == store.statistics().outcomes["rejected"]
        assert [(TOPIC, 0, 3), (TOPIC, 0, 4), (TOPIC, 0, 5)] == [
            (one.topic, one.partition, one.offset) for one in kept
        ]
        assert b"\xff no envelope" == kept[0].value()
        assert "$.payload.msg.price_dollars" in kept[1].reason

    def test_a_tombstone_is_passed_over(
        self, broker: EmbeddedBroker, gatherer: Gatherer, store: BookStore
    ) -> None:
        """A record without a value is counted, its offset is consumed, and its market stays as it is."""
        gatherer.snapshot("A", 0)
        gatherer.flush()
        produce(broker, None, key="A")
        with KafkaFeed(store, options_for(broker)) as feed:
            assert feed.wait_ready(TIMEOUT_S)
            health = feed.health()

        assert (2, 1, 0) == (health.records, health.tombstones, health.rejected)
        assert {0: 2} == store.cut().offsets
        assert Condition.LIVE is store.cut()["A"].condition

    def test_a_fault_of_the_decoder_costs_one_record(
        self, broker: EmbeddedBroker, gatherer: Gatherer, store: BookStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A record on which the decoder itself breaks is rejected like any other."""

        def decode(value: bytes) -> object:
            if b"breaks" in value:
                raise ZeroDivisionError("a fault")
            return decode_envelope(value)

        monkeypatch.setattr("kalshibook.feeds.records.decode_envelope", decode)
        produce(broker, b"breaks", key="A")
        gatherer.snapshot("A", 0)
        gatherer.flush()
        with KafkaFeed(store, options_for(broker)) as feed:
            assert feed.wait_ready(TIMEOUT_S)
            assert 1 == feed.health().rejected

        assert Condition.LIVE is store.cut()["A"].condition
        assert any("ZeroDivisionError" in found.detail for found in store.incidents.recent())


class TestRestart:
    @pytest.mark.parametrize("seed", [1, 2, 3])
    def test_equals_a_run_that_never_stopped(
        self, broker: EmbeddedBroker, gatherer: Gatherer, store: BookStore, seed: int
    ) -> None:
        """Stopped at random points and resumed, a store holds the same books, with nothing applied twice."""
        choice = random.Random(seed)
        for number in range(9):
            gatherer.snapshot(f"M{number}", number % 3)
        gatherer.deltas(1_500)
        gatherer.flush()
        stops = 0
        while sum(store.cut().offsets.values()) < gatherer.published:
            offsets = dict(store.cut().offsets)
            begin = {"start": "offsets", "start_offsets": offsets} if offsets else {}
            feed = KafkaFeed(store, options_for(broker, batch_records=choice.randint(1, 90), **begin))
            stop_after(feed, store, records=choice.randint(1, 400))
            stops += 1
        unstopped = BookStore()
        with KafkaFeed(unstopped, options_for(broker)) as feed:
            assert feed.wait_ready(TIMEOUT_S)

        assert stops >= 4
        assert gatherer.books == books_of(store.cut()) == books_of(unstopped.cut())
        outcomes = {name: count for name, count in store.statistics().outcomes.items() if count}
        assert {"snapshot": 9, "delta": 1_500} == outcomes

    def test_times_that_moved_are_read_before_they_pass(
        self, broker: EmbeddedBroker, store: BookStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A close time that was put off before it passed closes nothing, however slowly that is read."""
        monkeypatch.setattr("kalshibook.feeds.session._TICK_US", 0)
        now_s = int(time.time())
        message: dict[str, Any] = {"market_ticker": "A", "event_type": "created", "open_ts": 1}
        for closes_s in (now_s - 60, now_s + 3_600):
            frame = {"type": "market_lifecycle_v2", "sid": 1, "msg": message | {"close_ts": closes_s}}
            produce(broker, envelope(frame, ticker="A"), key="A")
            message["event_type"] = "close_date_updated"
        with KafkaFeed(store, options_for(broker, batch_records=1)) as feed:
            assert feed.wait_ready(TIMEOUT_S)
            reaches(store, lambda cut: cut["A"].market.status is MarketStatus.ACTIVE)

    def test_records_between_two_feeds_are_a_loss(
        self, broker: EmbeddedBroker, gatherer: Gatherer, store: BookStore
    ) -> None:
        """Books of an earlier feed are in doubt where the next one begins beyond what that had read."""
        for number in range(2):
            gatherer.snapshot(f"M{number}", number)
        gatherer.flush()
        with KafkaFeed(store, options_for(broker)) as feed:
            assert feed.wait_ready(TIMEOUT_S)
        gatherer.deltas(4)
        gatherer.flush()
        begin = {0: 2, 1: 1}
        with KafkaFeed(store, options_for(broker, start="offsets", start_offsets=begin)) as feed:
            assert feed.wait_ready(TIMEOUT_S)

        assert {"M0": Condition.STALE, "M1": Condition.LIVE} == {
            ticker: book.condition for ticker, book in store.cut().items()
        }
        assert any("offsets 1 to 2 of partition 0" in found.detail for found in store.incidents.recent())

    def test_reading_all_again_changes_nothing(
        self, broker: EmbeddedBroker, gatherer: Gatherer, store: BookStore
    ) -> None:
        """Records that a store knows already, as after a rewind, put nothing old over anything new."""
        for number in range(5):
            gatherer.snapshot(f"M{number}", number % 3)
        gatherer.deltas(300)
        gatherer.flush()
        for _ in range(2):
            with KafkaFeed(store, options_for(broker)) as feed:
                assert feed.wait_ready(TIMEOUT_S)
        outcomes = store.statistics().outcomes

        assert gatherer.books == books_of(store.cut())
        assert 5 == store.statistics().live
        assert 305 == outcomes["replayed"] + outcomes["duplicate"]


class TestLife:
    def test_is_a_feed(self, store: BookStore) -> None:
        """The protocol that servers are written against fits."""
        assert isinstance(KafkaFeed(store), Feed)

    def test_stops_at_once_when_idle(self, broker: EmbeddedBroker, store: BookStore) -> None:
        """A feed that waits for records ends within a second, and may be stopped again."""
        feed = KafkaFeed(store, options_for(broker, poll_timeout_ms=100))
        feed.start()
        assert feed.wait_ready(TIMEOUT_S)

        assert feed.stop(timeout=1)
        assert feed.stop(timeout=1)
        assert not feed.wait_ready(TIMEOUT_S)

    def test_stops_at_once_when_busy(
        self, broker: EmbeddedBroker, gatherer: Gatherer, store: BookStore
    ) -> None:
        """A feed in mid-stream ends within a second, at the end of a batch."""
        gatherer.snapshot("A", 0)
        gatherer.deltas(6_000)
        gatherer.flush()
        feed = KafkaFeed(store, options_for(broker, batch_records=10))
        feed.start()
        reaches(store, lambda cut: cut.version > 50)

        assert feed.stop(timeout=1)
        assert store.cut().offsets[0] < gatherer.published
        assert store.cut().offsets[0] == feed.health().partitions[0].next_offset

    def test_stops_at_once_without_a_broker(self, broker: EmbeddedBroker, store: BookStore) -> None:
        """A feed that no broker answers ends within a second too."""
        broker.down()
        feed = KafkaFeed(store, options_for(broker))
        feed.start()
        assert feed.wait_state(FeedState.BROKER_DOWN, timeout=TIMEOUT_S)

        assert feed.stop(timeout=1)

    def test_needs_no_stop_if_never_started(self, store: BookStore) -> None:
        """A feed that was only made holds nothing."""
        feed = KafkaFeed(store)

        assert FeedState.STARTING is feed.health().state
        assert feed.stop()

    def test_starts_once(self, broker: EmbeddedBroker, store: BookStore) -> None:
        """A second start, and a second feed on one store, are refused."""
        with KafkaFeed(store, options_for(broker)) as feed:
            with pytest.raises(StoreError, match="once"):
                feed.start()
            with pytest.raises(StoreError, match="writer"):
                KafkaFeed(store, options_for(broker)).start()

    def test_fails_aloud(
        self, broker: EmbeddedBroker, store: BookStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An exception that nobody foresaw ends the feed visibly, and the store is not ready any more."""
        with KafkaFeed(store, options_for(broker)) as feed:
            assert feed.wait_ready(TIMEOUT_S)

            def fail(writer: StoreWriter, now_us: int) -> None:
                raise ZeroDivisionError("nobody foresaw this")

            monkeypatch.setattr(StoreWriter, "tick", fail)
            assert feed.wait_state(FeedState.FAILED, timeout=TIMEOUT_S)
            assert "nobody foresaw this" in feed.health().reason
            assert not store.ready
            with pytest.raises(FeedError, match="nobody foresaw this"):
                feed.wait_ready(TIMEOUT_S)

        assert any(found.kind is IncidentKind.FEED for found in store.incidents.recent())

    def test_failed_feed_gives_its_writer_back(
        self, broker: EmbeddedBroker, store: BookStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After a failure another feed can take over the store."""
        with monkeypatch.context() as patch:
            patch.setattr(StoreWriter, "tick", lambda *_: 1 / 0)
            with KafkaFeed(store, options_for(broker)) as feed:
                assert feed.wait_state(FeedState.FAILED, timeout=TIMEOUT_S)
        with KafkaFeed(store, options_for(broker)) as feed:
            assert feed.wait_ready(TIMEOUT_S)


class TestSettings:
    def test_unknown_setting_is_named(self, store: BookStore) -> None:
        """A setting that librdkafka does not know stops the start, by its name."""
        with pytest.raises(FeedError, match=r"no\.such\.setting"):
            KafkaFeed(store, KafkaOptions(extra={"no.such.setting": "1"})).start()
        with store.writer():
            """The refused feed holds no writer."""

    def test_extra_settings_reach_librdkafka(self, broker: EmbeddedBroker, store: BookStore) -> None:
        """TLS asked for in `extra` is spoken; a broker that does not speak it is a state with a reason."""
        with KafkaFeed(store, options_for(broker, extra={"security.protocol": "ssl"})) as feed:
            assert feed.wait_state(FeedState.BROKER_DOWN, FeedState.AUTHENTICATION_FAILED, timeout=TIMEOUT_S)
            assert "ssl" in feed.health().reason.lower()

    def test_quarantine_that_cannot_be_opened(self, store: BookStore, tmp_path: Path) -> None:
        """A quarantine file in a folder that does not exist stops the start, by its name."""
        file = tmp_path / "missing" / "rejected.ndjson"
        with pytest.raises(FeedError, match=r"rejected\.ndjson"):
            KafkaFeed(store, KafkaOptions(quarantine_file=str(file))).start()

    def test_batch_records_bounds_a_batch(
        self, broker: EmbeddedBroker, gatherer: Gatherer, store: BookStore
    ) -> None:
        """Readers are told after so many records at the latest."""
        for number in range(100):
            gatherer.snapshot(f"M{number}", 0)
        gatherer.flush()
        sizes: list[int] = []

        def wake() -> None:
            batch = reader.take_nowait()
            sizes.append(0 if batch is None else len(batch.changes))

        with (
            store.changes(wake=wake) as reader,
            KafkaFeed(store, options_for(broker, batch_records=7)) as feed,
        ):
            assert feed.wait_ready(TIMEOUT_S)

        assert 7 == max(sizes)

    def test_poll_timeout_is_how_long_timers_wait(
        self, broker: EmbeddedBroker, store: BookStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Kafka is asked for records for just so long at a time."""
        asked: set[float] = set()
        real = KafkaLink.poll

        def poll(link: KafkaLink, most: int, timeout_s: float) -> list[Message]:
            asked.add(timeout_s)
            return real(link, most, timeout_s)

        monkeypatch.setattr(KafkaLink, "poll", poll)
        with KafkaFeed(store, options_for(broker, poll_timeout_ms=7)) as feed:
            assert feed.wait_ready(TIMEOUT_S)

        assert {0.007} == asked

    def test_rewind_minutes_is_how_far_a_rewind_goes(
        self, broker: EmbeddedBroker, store: BookStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The broker is asked for the records since then."""
        asked_ms: list[int] = []
        real = KafkaLink.offsets_at

        def offsets_at(link: KafkaLink, partitions: Iterable[int], time_ms: int) -> dict[int, int]:
            asked_ms.append(time_ms)
            return real(link, partitions, time_ms)

        monkeypatch.setattr(KafkaLink, "offsets_at", offsets_at)
        before_ms = time.time_ns() // 1_000_000
        with KafkaFeed(store, options_for(broker, start="rewind", rewind_minutes=7)) as feed:
            assert feed.wait_ready(TIMEOUT_S)
        after_ms = time.time_ns() // 1_000_000

        assert before_ms <= asked_ms[0] + 7 * 60_000 <= after_ms

    def test_partition_refresh_is_how_often_the_topic_is_looked_at(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The client library is told, in its own unit."""
        given: dict[str, Any] = {}

        def consumer(settings: dict[str, Any]) -> Consumer:
            given.update(settings)
            return Consumer(settings)

        monkeypatch.setattr("kalshibook.feeds.link.Consumer", consumer)
        KafkaLink(KafkaOptions(partition_refresh_s=7)).close()

        assert 7_000 == given["topic.metadata.refresh.interval.ms"]

    def test_quarantine_bytes_bounds_the_quarantine(
        self, broker: EmbeddedBroker, store: BookStore, tmp_path: Path
    ) -> None:
        """What would make the file larger is counted and not kept."""
        for _ in range(5):
            produce(broker, b"x" * 400, key="A")
        file = tmp_path / "rejected.ndjson"
        options = options_for(broker, quarantine_file=str(file), quarantine_bytes=1_500)
        with KafkaFeed(store, options) as feed:
            assert feed.wait_ready(TIMEOUT_S)
            health = feed.health()

        assert 0 < health.quarantined < 5
        assert 5 == health.quarantined + health.quarantine_lost
        assert file.stat().st_size <= 1_500
