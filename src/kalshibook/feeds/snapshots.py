"""
Books that outlive a process: what has changed is saved to a compacted topic, then a checkpoint says so.

Runs beside a store that is fed from Kafka, for only there it is known at which offset a book stands. In
rounds: take the newest version, write every book that is another than at the last round, wait until the
brokers have all of them, and only then write for each partition that its books are saved as of that
version's offset. Whoever is killed in between leaves the old checkpoint, and books that are newer than it;
each says how far it goes.

The cost follows the changes: two versions of a store share what is equal, so a round looks at nothing else,
and the thread that applies updates knows nothing of it. Exactly one process may save to a topic.
"""

import heapq
import logging
import threading
import time
from collections.abc import Callable
from typing import Final, Self, final

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from kalshibook.errors import FeedError, SettingsError, StoreError
from kalshibook.feeds.base import FeedHealth, FeedState
from kalshibook.feeds.link import connection_settings
from kalshibook.feeds.options import KafkaOptions
from kalshibook.feeds.warm_start import CHECKPOINT_PREFIX, Restored
from kalshibook.store import Book, BookStore, Checkpoint, Cut, IncidentKind, MarketStatus, save_book
from kalshibook.store.saved import SAVED_VERSION

__all__ = ["SnapshotOptions", "SnapshotWriter"]

_log = logging.getLogger(__name__)

_SETTINGS: Final = {
    "acks": "all",
    "enable.idempotence": True,
    "compression.type": "zstd",
    "linger.ms": 50,
    # As the topic's other clients place keys, so that a record of another writer replaces ours.
    "partitioner": "murmur2_random",
}
_SLICE: Final = 500
_FLUSH_S: Final = 0.2
_LAST_ROUND_S: Final = 3.0
_encoder: Final = msgspec.json.Encoder()


class SnapshotOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of saving books; where they are saved is `kafka.snapshots_topic`."""

    write: bool = False
    """Whether `kalshibook serve` saves books; exactly one process of all may."""

    interval_s: int = 30
    """Pause between rounds of saving, so the most that a market is saved is once in so long."""

    records_per_second: int = 5_000
    """How fast a round saves at most; the first round of a million markets takes minutes."""

    settled_hours: int = 48
    """A settled market is forgotten so long after its close: its record is deleted."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for name, least in (("interval_s", 1), ("records_per_second", 1), ("settled_hours", 0)):
            if getattr(self, name) < least:
                raise SettingsError(f"snapshots.{name} is {getattr(self, name)}; it must be at least {least}")


@final
class SnapshotWriter:
    """
    Saves the books of a store that a Kafka feed fills, on a thread of its own.

    Args:
        store: whose books.
        kafka: which brokers, which topic the store reads, and where books are saved.
        options: how often, and how fast.
        restored: returns what was restored from the same topic, or None: what has not changed since is
            saved already, as `KafkaFeed.restored` tells.
        now_us: the clock, microseconds since the epoch.
    """

    def __init__(
        self,
        store: BookStore,
        kafka: KafkaOptions,
        options: SnapshotOptions | None = None,
        *,
        restored: Callable[[], Restored | None] = lambda: None,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1_000,
    ) -> None:
        self.options: Final = options or SnapshotOptions()
        self._store = store
        self._kafka = kafka
        self._restored = restored
        self._now_us = now_us
        self._saved: Cut | None = None
        self._has_begun = False
        self._begun_us = 0
        self._due: list[tuple[int, str]] = []
        self._forgotten: set[str] = set()
        self._deleting: set[str] = set()
        self._stopping = threading.Event()
        self._stop_by_s: float | None = None
        self._thread: threading.Thread | None = None
        self._producer: Producer | None = None
        self._is_broken = False
        self._failures: list[str] = []
        self._records = self._bytes = self._waiting = 0
        self._checkpoint_us: int | None = None
        self._state = (FeedState.STARTING, "not started", now_us())

    def start(self) -> None:
        """
        Begin, without waiting for anything.

        Raises:
            FeedError: librdkafka refuses a setting.
            StoreError: it was started before.
        """
        if self._thread is not None:
            raise StoreError("a writer of saved books is started once; make another one")
        self._open()
        self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> bool:
        """
        Save once more what has changed, as far as a few seconds allow, and tell whether the thread ended.

        Args:
            timeout: seconds to wait at most.
        """
        self._stopping.set()
        if self._thread is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def health(self) -> FeedHealth:
        """
        Return how saving goes, in a feed's terms; from any thread.

        `records` and `bytes` are what was saved, `lag` how many books of this round still wait for their
        acknowledgement, `last_record_us` when the last checkpoint was written.
        """
        state, reason, since_us = self._state
        return FeedHealth(
            name="snapshots",
            state=state,
            reason=reason,
            since_us=since_us,
            records=self._records,
            bytes=self._bytes,
            queued=self._waiting,
            last_record_us=self._checkpoint_us,
            essential=False,
        )

    def save(self, patience_s: float = 60.0) -> bool:
        """
        Do one round, on the calling thread; for who drives it by hand, instead of `start`.

        Args:
            patience_s: how long the brokers may take.

        Returns:
            Whether a checkpoint was written: not while the store is behind its feed, nor when the brokers
            did not take everything.
        """
        if self._producer is None or self._is_broken:
            self._open()
        cut = self._store.cut()
        if cut.behind is not None or not cut.offsets:
            return False
        if not self._has_begun:
            self._begin()
        # Of two records of a market the one written later counts, so these times never go back: not with
        # the clock of this machine, nor when saving moves to another one.
        begun_us = self._begun_us = max(self._now_us(), self._begun_us + 1)
        deadline_s = time.monotonic() + patience_s
        self._failures.clear()
        changed = self._write_books(cut, begun_us, deadline_s)
        self._forget(begun_us, deadline_s)
        is_delivered = self._delivered(deadline_s)
        self._deleted(is_delivered=is_delivered)
        if not is_delivered:
            return False
        # Books first: a checkpoint that is there says that they are, too.
        for partition, offset in cut.offsets.items():
            checkpoint = Checkpoint(
                version=SAVED_VERSION,
                topic=self._kafka.topic,
                partition=partition,
                offset=offset,
                begun_us=begun_us,
                signs=self._store.last_signs(partition),
            )
            self._produce(f"{CHECKPOINT_PREFIX}{partition}", _encoder.encode(checkpoint), deadline_s)
        if not self._delivered(deadline_s):
            return False
        self._saved, self._checkpoint_us = cut, self._now_us()
        self._show(FeedState.LIVE, f"{changed} books saved as of version {cut.version}")
        return True

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def _run(self) -> None:
        try:
            while not self._stopping.wait(self._pause_s()):
                self.save()
            self.save(_LAST_ROUND_S)
            self._show(FeedState.STOPPED, "stopped on request")
        except Exception as error:  # noqa: BLE001 - a thread has nobody to raise to: it is shown and logged
            _log.exception("saving books has failed")
            self._show(FeedState.FAILED, f"{type(error).__name__}: {error}")
            self._store.incidents.record(IncidentKind.FEED, f"saving books has failed: {error}")

    def _pause_s(self) -> float:
        # The first round soon: until there is a checkpoint, a restart reads everything again.
        return self.options.interval_s if self._checkpoint_us is not None else min(self.options.interval_s, 1)

    def _begin(self) -> None:
        self._has_begun = True
        restored = self._restored()
        if restored is not None:
            self._saved, self._begun_us = restored
            for book in restored.cut.books():
                self._plan(book)

    def _write_books(self, cut: Cut, now_us: int, deadline_s: float) -> int:
        changed, began_s = 0, time.monotonic()
        for book in cut.changed_since(self._saved):
            if self._is_settled_long(book, now_us):
                self._delete(book.ticker, deadline_s)
                continue
            origin = book.origin
            offset = None if origin is None else cut.offsets.get(origin.partition)
            if not self._produce(book.ticker, save_book(book, offset, now_us), deadline_s):
                break
            self._plan(book)
            changed += 1
            if changed % _SLICE == 0:
                if self._stopping.is_set() and time.monotonic() > self._bounded(deadline_s):
                    self._failures.append("there was no time left to save all books at the stop")
                    break
                ahead_s = began_s + changed / self.options.records_per_second - time.monotonic()
                if ahead_s > 0 and not self._stopping.is_set():
                    self._stopping.wait(ahead_s)
        return changed

    def _plan(self, book: Book) -> None:
        if book.market.status is MarketStatus.FINALIZED:
            heapq.heappush(self._due, (self._forget_at_us(book), book.ticker))

    def _forget(self, now_us: int, deadline_s: float) -> None:
        while self._due and self._due[0][0] <= now_us:
            _, ticker = heapq.heappop(self._due)
            self._delete(ticker, deadline_s)

    def _delete(self, ticker: str, deadline_s: float) -> None:
        if ticker not in self._forgotten and ticker not in self._deleting:
            self._deleting.add(ticker)
            self._produce(ticker, None, deadline_s)

    def _deleted(self, *, is_delivered: bool) -> None:
        """Remember what was deleted, or have it deleted by the next round."""
        if is_delivered:
            self._forgotten |= self._deleting
        else:
            for ticker in self._deleting:
                heapq.heappush(self._due, (0, ticker))
        self._deleting.clear()

    def _is_settled_long(self, book: Book, now_us: int) -> bool:
        return book.market.status is MarketStatus.FINALIZED and self._forget_at_us(book) <= now_us

    def _forget_at_us(self, book: Book) -> int:
        # Of facts that are saved with the book, so that a restart does not begin to count again.
        closed_us = book.market.close_us
        if closed_us is None:
            closed_us = 0 if book.stamps is None else book.stamps.applied_us
        return closed_us + self.options.settled_hours * 3_600_000_000

    def _open(self) -> None:
        settings = {**_SETTINGS, **connection_settings(self._kafka)}
        self._is_broken, self._waiting = False, 0
        try:
            self._producer = Producer(settings)
        except KafkaException as error:
            raise FeedError(f"books cannot be saved with these settings: {error.args[0].str()}") from None

    def _produce(self, key: str, value: bytes | None, deadline_s: float) -> bool:
        """Hand a record over, and tell whether it could be; a full queue is waited for, not for ever."""
        assert self._producer is not None
        while True:
            try:
                self._producer.produce(self._kafka.snapshots_topic, value, key, on_delivery=self._on_delivery)
            except BufferError:
                if time.monotonic() >= self._bounded(deadline_s):
                    self._failures.append("Kafka takes nothing more: its queue is full")
                    return False
                self._producer.poll(_FLUSH_S)
            except KafkaException as error:
                self._failed(error.args[0])
                return True
            else:
                self._waiting += 1
                self._records += 1
                self._bytes += len(value or b"")
                self._producer.poll(0)
                return True

    def _bounded(self, deadline_s: float) -> float:
        """Return a deadline that a stop has come before."""
        if self._stopping.is_set() and self._stop_by_s is None:
            self._stop_by_s = time.monotonic() + _LAST_ROUND_S
        return deadline_s if self._stop_by_s is None else min(deadline_s, self._stop_by_s)

    def _on_delivery(self, error: KafkaError | None, _: Message) -> None:
        self._waiting -= 1
        if error is not None:
            self._failed(error)

    def _failed(self, error: KafkaError) -> None:
        self._failures.append(error.str())
        # What librdkafka calls fatal ends this producer; the next round begins with another one.
        self._is_broken = self._is_broken or error.fatal()

    def _delivered(self, deadline_s: float) -> bool:
        """Wait for the brokers; without their word on every record the next round writes all again."""
        assert self._producer is not None
        while self._producer.flush(_FLUSH_S) and time.monotonic() < self._bounded(deadline_s):
            pass
        if self._waiting:
            self._failures.append(f"{self._waiting} records have no acknowledgement yet")
        if self._failures:
            topic = self._kafka.snapshots_topic
            self._show(FeedState.BROKER_DOWN, f"books are not saved to {topic!r}: {self._failures[0]}")
            return False
        return True

    def _show(self, state: FeedState, reason: str) -> None:
        before = self._state
        since_us = before[2] if before[0] is state else self._now_us()
        self._state = (state, reason, since_us)
        if before[0] is not state and (state is FeedState.BROKER_DOWN or before[0] is FeedState.BROKER_DOWN):
            self._store.incidents.record(IncidentKind.FEED, f"snapshots: {reason}")
