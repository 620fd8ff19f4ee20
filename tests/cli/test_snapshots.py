"""Books that outlive their processes: `kalshibook snapshots`, killed again and again, and who starts warm."""

import random
import signal
from decimal import Decimal
from pathlib import Path

import httpx

from kalshibook.feeds import EmbeddedBroker, KafkaFeed, KafkaOptions, SnapshotWriter
from kalshibook.feeds.publisher import Publisher
from kalshibook.store import BookStore
from kalshibook.testing import FrameFactory, compare_all, fold
from tests.cli.conftest import Start
from tests.cli.running import Running

TIMEOUT_S = 60
MARKETS = tuple(f"KXKILL-{number}" for number in range(12))
TOPICS = {"market-data-all": 3, "book-snapshots": 2}


class Exchange:
    """What is published, and everything that was."""

    def __init__(self, broker: EmbeddedBroker, seed: int) -> None:
        self.random = random.Random(seed)
        self.frames = FrameFactory(source="g1")
        self.publisher = Publisher(str(broker), source="g1", settings=EmbeddedBroker.PRODUCER_SETTINGS)
        self.publisher.check()
        self.said: list[bytes] = []
        for ticker in MARKETS:
            self.say(self.frames.snapshot(ticker, yes=[(4_000, 10_000)], no=[(5_000, 10_000)]))
        self.flush()

    def move(self, count: int) -> None:
        """Change levels of all markets but the last: that one stays as it is."""
        for _ in range(count):
            side = self.random.choice(("yes", "no"))
            ticker = self.random.choice(MARKETS[:-1])
            price, size = 100 * self.random.randrange(1, 40), self.random.randrange(1, 500)
            self.say(self.frames.delta(ticker, side, price, size))  # type: ignore[arg-type]
        self.flush()

    def say(self, frame: bytes) -> None:
        self.said.append(frame)
        self.publisher.publish(frame, connection=self.frames.connection, received_us=self.frames.now_us)

    def flush(self) -> None:
        assert 0 == self.publisher.flush(TIMEOUT_S)


def warm_options(broker: EmbeddedBroker) -> KafkaOptions:
    return KafkaOptions(
        bootstrap_servers=str(broker), start="snapshots", extra=dict(EmbeddedBroker.CONSUMER_SETTINGS)
    )


def test_books_after_kill_9_while_saving_are_those_of_a_run_that_never_stopped(
    tmp_path: Path,
) -> None:
    """
    Killed at moments drawn by chance (starting, catching up, in the middle of a round), each time warm again.

    Afterwards a store that begins with what is saved has the books of a plain fold of everything, and of
    all records each was applied to its book once: where it began, or since.
    """
    with EmbeddedBroker(TOPICS) as broker:
        exchange = Exchange(broker, seed=2)
        command = (
            *("snapshots", "--bootstrap-servers", str(broker), "--interval", "1"),
            *("--set", "snapshots.records_per_second=2000"),
        )
        moments = ["saving", "kafka is catching_up|kafka is live", "kafka is live"]
        for _ in range(3):
            exchange.move(300)
            with Running(*command, folder=tmp_path) as saver:
                saver.wait_for(exchange.random.choice(moments))
                exchange.move(exchange.random.randrange(1, 2_000))
                assert -signal.SIGKILL == saver.stopped(signal.SIGKILL)
        with Running(*command, folder=tmp_path) as saver:
            saver.wait_for("kafka is live")
            exchange.move(100)
            assert 0 == saver.stopped(signal.SIGTERM)

        store = BookStore()
        with KafkaFeed(store, warm_options(broker)) as feed:
            assert feed.wait_ready(TIMEOUT_S)
            note = feed.health().reason
        outcomes = {name: count for name, count in store.statistics().outcomes.items() if count}

    assert "behind" in note
    assert [] == compare_all(store.cut(), fold(exchange.said))
    assert {"delta", "restored"} >= outcomes.keys(), "no book was built anew, none was in doubt"
    assert len(exchange.said) > 10 * sum(outcomes.values()), "it did not read everything again"


def test_a_round_that_is_cut_off_anywhere_loses_and_doubles_nothing() -> None:
    """Whatever part of a round has reached the broker, the next store is that of everything."""
    for part in (0, 1, 3, 7, 12):
        with EmbeddedBroker(TOPICS) as broker:
            exchange = Exchange(broker, part)
            store = BookStore()
            with KafkaFeed(store, warm_options(broker)) as feed:
                assert feed.wait_ready(TIMEOUT_S)
                writer = SnapshotWriter(store, feed.options)
                assert writer.save()
                exchange.move(200)
                with store.changes() as reader:
                    while not store.cut().reaches(
                        {p: end - 1 for p, end in exchange.publisher.ends().items()}
                    ):
                        assert reader.take(TIMEOUT_S) is not None
                _save_part(writer, part)
            exchange.move(100)
            second = BookStore()
            with KafkaFeed(second, warm_options(broker)) as feed:
                assert feed.wait_ready(TIMEOUT_S)
            assert [] == compare_all(second.cut(), fold(exchange.said))
            assert second.cut().counts.live == len(MARKETS)


def _save_part(writer: SnapshotWriter, part: int) -> None:
    """Save so many books of a round, and never come to its checkpoint: what a kill leaves."""
    produce, left = writer._produce, [part]

    def produce_some(key: str, value: bytes | None, deadline_s: float) -> bool:
        if left[0] and not key.startswith("#"):
            left[0] -= 1
            return produce(key, value, deadline_s)
        return True

    writer._produce = produce_some  # type: ignore[method-assign]
    writer.save()


def test_serve_saves_books_if_it_is_told_to(start: Start, tmp_path: Path) -> None:
    """One process serves and saves; readiness shows both, and its successor is ready without the records."""
    with EmbeddedBroker(TOPICS) as broker:
        exchange = Exchange(broker, 1)
        exchange.move(500)
        options = (
            *("--bootstrap-servers", str(broker), "--port", "0", "--stream-port", "0"),
            *("--set", "kafka.start=snapshots", "--set", "snapshots.write=true"),
        )
        for read in (len(exchange.said), 0):
            serve = start("serve", *options)
            url = serve.wait_for(r'"rest": "(http:[^"]*)"')[1]
            serve.wait_for("kafka is live")
            ready = httpx.get(f"{url}/readyz").json()
            metrics = httpx.get(f"{url}/metrics").text
            book = httpx.get(f"{url}/trade-api/v2/markets/{MARKETS[-1]}/orderbook").json()["orderbook_fp"]
            assert 0 == serve.stopped(signal.SIGTERM)
            feeds = {feed["name"]: feed for feed in ready["feeds"]}
            assert {"kafka", "snapshots"} == set(feeds)
            assert ready["ready"], "answers do not wait for a checkpoint"
            assert read == feeds["kafka"]["records"]
            assert 'kalshibook_feed_ok{feed="snapshots"}' in metrics
            assert [Decimal("0.4"), Decimal(100)] == [Decimal(text) for text in book["yes_dollars"][0]]
