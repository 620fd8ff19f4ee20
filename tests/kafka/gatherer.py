"""What publishes in the broker suite: one connection's frames, and the books that must come of them."""

import itertools
import time
from types import TracebackType
from typing import Final, Self, TypeAlias

from confluent_kafka import KafkaError, Message, Producer

from kalshibook.simulator.frames import delta_frame, snapshot_frame
from kalshibook.store import Book, Cut
from kalshibook.wire import Side, encode_envelope
from tests.kafka.topics import Topic

__all__ = ["Gatherer", "Levels", "books_of"]

Levels: TypeAlias = dict[Side, dict[int, int]]

FLUSH_TIMEOUT_S: Final = 60
SID: Final = 7


def books_of(cut: Cut) -> dict[str, Levels]:
    """Return every book of a cut as prices and sizes by side."""
    return {ticker: _levels_of(book) for ticker, book in cut.items()}


class Gatherer:
    """
    Publishes snapshots and deltas with rising numbers, and keeps the expected books.

    Args:
        topic: where to.
        connection: id of its socket epoch.
        settings: of librdkafka's producer, beside those that make it idempotent.
    """

    def __init__(self, topic: Topic, *, connection: str = "c1", **settings: str | int) -> None:
        self.topic: Final = topic
        self.books: Final[dict[str, Levels]] = {}
        self.published = 0
        self._connection = connection
        self._homes: dict[str, int] = {}
        self._numbers = itertools.count(1)
        self._last: dict[str, int] = {}
        self._failed: list[KafkaError] = []
        self._producer = Producer(
            {
                "bootstrap.servers": topic.bootstrap_servers,
                "enable.idempotence": True,
                "linger.ms": 2,
                "log_level": 0,
                "reconnect.backoff.max.ms": 500,
                **{name.replace("_", "."): value for name, value in settings.items()},
            }
        )

    def snapshot(
        self, ticker: str, partition: int, *, sent_ms: int | None = None, padding: int = 0, size: int = 10_000
    ) -> None:
        """
        Publish a book of one level a side.

        Args:
            ticker: the market.
            partition: where this market's records go from now on.
            sent_ms: the record's time, Unix milliseconds; now if None.
            padding: how many bytes of an unknown field are added to the frame.
            size: of both levels, 0.01 contract.
        """
        self._homes[ticker] = partition
        self.books[ticker] = {"yes": {4_000: size}, "no": {5_500: size}}
        levels = {side: list(ladder.items()) for side, ladder in self.books[ticker].items()}
        number = next(self._numbers)
        frame = snapshot_frame(ticker, levels["yes"], levels["no"], sid=SID, seq=number, ts_ms=_now_ms())
        if padding:
            frame = frame[:-1] + b',"padding":"' + b"x" * padding + b'"}'
        self._publish(ticker, frame, number, sent_ms)

    def delta(self, ticker: str, side: Side, price: int, change: int) -> None:
        """Publish a change of one level."""
        ladder = self.books[ticker][side]
        ladder[price] = ladder.get(price, 0) + change
        if not ladder[price]:
            del ladder[price]
        number = next(self._numbers)
        frame = delta_frame(ticker, side, price, change, sid=SID, seq=number, ts_ms=_now_ms())
        self._publish(ticker, frame, number, None)

    def deltas(self, count: int) -> None:
        """Publish changes that walk over all markets and many levels of both sides."""
        tickers = sorted(self.books)
        for step in range(count):
            side: Side = "yes" if step % 2 else "no"
            self.delta(tickers[step % len(tickers)], side, 100 * (1 + step % 35), 100 + step)

    def flush(self) -> None:
        """Wait until Kafka has everything, and insist that nothing failed."""
        assert 0 == self._producer.flush(FLUSH_TIMEOUT_S)
        assert not self._failed, self._failed

    def begin(self) -> None:
        """Begin a transaction; for a gatherer with a `transactional_id`."""
        if not self.published:
            self._producer.init_transactions(FLUSH_TIMEOUT_S)
        self._producer.begin_transaction()

    def commit(self) -> None:
        """End the transaction."""
        self._producer.commit_transaction(FLUSH_TIMEOUT_S)

    def abort(self) -> None:
        """Take the transaction back."""
        self._producer.abort_transaction(FLUSH_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A test that failed while its broker is down must not wait for its records.
        self._producer.purge()
        self._producer.flush(1)

    def _publish(self, ticker: str, frame: bytes, number: int, sent_ms: int | None) -> None:
        now_us = time.time_ns() // 1_000
        value = encode_envelope(
            frame,
            received_us=now_us,
            published_us=now_us,
            channel="orderbook_delta",
            market_ticker=ticker,
            sequence=number,
            source="g1",
            connection=self._connection,
            sid=SID,
            previous_sequence=self._last.get(ticker, 0),
        )
        self._last[ticker] = number
        self.published += 1
        self._producer.produce(
            self.topic.name,
            value,
            key=ticker,
            partition=self._homes[ticker],
            timestamp=sent_ms or _now_ms(),
            on_delivery=self._delivered,
        )
        self._producer.poll(0)

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._failed.append(error)


def _levels_of(book: Book) -> Levels:
    return {
        "yes": {level.price: level.size for level in book.yes},
        "no": {level.price: level.size for level in book.no},
    }


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
