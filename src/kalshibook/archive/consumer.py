"""
From a Kafka topic into a database, as a member of a consumer group that shares the partitions.

Where reading goes on stands in the database, written in the transaction that stores what was read; the
group's own offsets follow it and are only for people to look at. So a crash at any moment neither
loses a row nor stores one twice. While the database is down nothing is read: Kafka keeps it.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple, final

import msgspec
from confluent_kafka import (
    OFFSET_BEGINNING,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from kalshibook.archive.database import DatabaseDown
from kalshibook.archive.entries import Counts, Entry
from kalshibook.archive.minutes import MinuteBooks
from kalshibook.archive.options import ArchiveOptions
from kalshibook.archive.rows import Place, gap_row, rows_of
from kalshibook.archive.storing import BatchStore, CursorKey, ReachKey
from kalshibook.errors import FeedError, WireError
from kalshibook.feeds import KafkaOptions
from kalshibook.feeds.link import connection_settings
from kalshibook.store import Arrival
from kalshibook.wire import GathererNotice, decode_envelope, read_frame
from kalshibook.wire.gaps import decode_gap

__all__ = ["ConsumerStatistics", "KafkaArchiver"]

_log = logging.getLogger(__name__)

_QUESTION_S: Final = 10.0
_PAUSE_S: Final = 0.2


class ConsumerStatistics(msgspec.Struct, frozen=True):
    """Counters since the start."""

    records: int
    """Records read, of every kind."""
    rows: Counts
    """What became of their rows, and of books taken whole."""
    down: str | None
    """Why the database takes nothing, or None while it does."""


class _Pending(NamedTuple):
    subject: str
    """The partition, or empty for a book of ours."""
    next_offset: int
    entry: Entry | None
    source: str = ""
    reached_us: int | None = None
    """When a notice of this source was published: what it received before is stored with it, or was."""


@final
class KafkaArchiver:
    """
    Stores what a topic of envelopes carries, and the gap ledger beside it, until told to stop.

    Args:
        kafka: which brokers and which topic.
        options: the database, the group, the sizes of batches.
        upkeep: called every `housekeeping_minutes`, between batches.
        clock_s: seconds, from any beginning.
    """

    def __init__(
        self,
        kafka: KafkaOptions,
        options: ArchiveOptions,
        *,
        upkeep: Callable[[], object] = lambda: None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kafka = kafka
        self._options = options
        self._upkeep = upkeep
        self._clock_s = clock_s
        self._reader = f"kafka:{options.group}"
        self._store = BatchStore(options.dsn)
        self._books = MinuteBooks(options.snapshot_interval_s) if options.snapshot_interval_s else None
        self._pending: list[_Pending] = []
        self._oldest_s = 0.0
        self._records = 0
        self._rows = Counts()
        self._down: str | None = None
        self._consumer: Any = None
        self.stopping: Final = threading.Event()
        """Set it to end `run` after the batch at hand."""

    def statistics(self) -> ConsumerStatistics:
        """Return the counts; from any thread."""
        return ConsumerStatistics(self._records, self._rows, self._down)

    def run(self) -> None:
        """
        Read and store until told to stop.

        Raises:
            FeedError: the topic does not exist, or Kafka refuses us.
            ArchiveError: the database cannot be used as it is.
        """
        try:
            self._consumer = Consumer(
                {
                    "client.id": "kalshibook-archive",
                    "fetch.wait.max.ms": 50,
                    # Whoever is killed is missed after so long; until then nobody reads its partitions.
                    "session.timeout.ms": 10_000,
                    "queued.max.messages.kbytes": 32 * 1024,
                    **connection_settings(self._kafka),
                    "group.id": self._options.group,
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    "auto.offset.reset": "earliest",
                }
            )
        except KafkaException as error:
            raise FeedError(f"librdkafka refuses a setting: {error.args[0].str()}") from error
        try:
            self._consumer.subscribe(
                self._topics(), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
            kept_s = self._clock_s()
            while not self.stopping.is_set():
                self._turn()
                if self._clock_s() >= kept_s + self._options.housekeeping_minutes * 60:
                    kept_s = self._clock_s()
                    self._upkeep()
            self._flush()
        finally:
            # Leaves the group, which hands the partitions over at once.
            self._consumer.close()
            self._store.close()

    def _topics(self) -> list[str]:
        servers = self._kafka.bootstrap_servers
        known: dict[str, Any] | None = None
        while known is None:
            try:
                # All are asked for: a request that names one creates it on many brokers.
                known = self._consumer.list_topics(timeout=_QUESTION_S).topics
            except KafkaException as error:
                if self.stopping.is_set():
                    return [self._kafka.topic]
                _log.warning("no Kafka broker answers at %s: %s", servers, error.args[0].str())
        if self._kafka.topic not in known:
            raise FeedError(
                f"topic {self._kafka.topic!r} does not exist at {servers}; create it, or set its name"
            )
        ledger = self._options.gaps_topic
        if ledger and ledger not in known:
            _log.warning("there is no topic %r: gaps are not stored", ledger)
        return [self._kafka.topic, *([ledger] if ledger in known else [])]

    def _turn(self) -> None:
        wanted = self._options.batch_rows - len(self._pending)
        age_s = self._clock_s() - self._oldest_s if self._pending else 0.0
        patience_s = max(self._options.batch_ms / 1_000 - age_s, 0.0)
        if wanted > 0:
            self._take(self._consumer.consume(wanted, min(patience_s, _PAUSE_S)))
        if self._books is not None:
            self._add(*(_Pending("", 0, entry) for entry in self._books.due()))
        full = len(self._pending) >= self._options.batch_rows
        if self._pending and (full or self._clock_s() - self._oldest_s >= self._options.batch_ms / 1_000):
            self._flush()

    def _add(self, *pending: _Pending) -> None:
        if pending and not self._pending:
            self._oldest_s = self._clock_s()
        self._pending += pending

    def _take(self, messages: list[Message]) -> None:
        consumed_us = time.time_ns() // 1_000
        for message in messages:
            error = message.error()
            if error is not None:
                self._on_error(error)
                continue
            self._records += 1
            topic: str = message.topic()  # type: ignore[assignment]  # a record has one
            partition: int = message.partition()  # type: ignore[assignment]
            offset: int = message.offset()  # type: ignore[assignment]
            kind, kafka_ms = message.timestamp()
            place = Place(
                topic, partition, offset, None if kind == TIMESTAMP_NOT_AVAILABLE else kafka_ms * 1_000
            )
            value = message.value()
            pending = _Pending(f"{topic}/{partition}", offset + 1, None)
            if value is not None and topic == self._options.gaps_topic:
                pending = pending._replace(entry=self._ledger_entry(value, place))
            elif value is not None:
                pending = self._read(value, place, consumed_us, pending)
            self._add(pending)

    def _read(self, value: bytes, place: Place, consumed_us: int, pending: _Pending) -> _Pending:
        try:
            envelope = decode_envelope(value)
            event = read_frame(envelope.payload, "$.payload")
            rows = rows_of(envelope, event, place)
        except WireError as error:
            return pending._replace(entry=self._refused(value, place, consumed_us, str(error)))
        except Exception as error:  # noqa: BLE001 - see below
            # Whatever a record contains, it must not end the reading: it would be read again for ever.
            _log.exception("decoding %s", place)
            reason = f"{type(error).__name__}: {error}"
            return pending._replace(entry=self._refused(value, place, consumed_us, reason))
        if self._books is not None:
            arrival = Arrival.of(
                envelope,
                partition=place.partition,
                offset=place.offset,
                kafka_us=place.kafka_us,
                consumed_us=consumed_us,
            )
            self._books.apply(event, arrival)
        if type(event) is GathererNotice:
            return pending._replace(source=envelope.source, reached_us=envelope.published_us)
        return pending._replace(entry=Entry(str(place), value, rows)) if rows else pending

    def _refused(self, value: bytes, place: Place, consumed_us: int, reason: str) -> Entry:
        if self._books is not None:
            hint = _hint(value)
            arrival = Arrival(
                *("", None, None, None, None, None, None),
                place.kafka_us,
                consumed_us,
                place.partition,
                place.offset,
            )
            self._books.reject(WireError("$", reason), arrival, hint)
        return Entry(str(place), value, refused=reason)

    @staticmethod
    def _ledger_entry(value: bytes, place: Place) -> Entry:
        try:
            return Entry(str(place), value, (gap_row(decode_gap(value)),))
        except WireError as error:
            return Entry(str(place), value, refused=str(error))

    def _flush(self) -> None:
        """Store what is pending; while the database is down, wait without leaving the group."""
        pause_s = _PAUSE_S
        while self._pending:
            try:
                self._try()
            except DatabaseDown as error:
                if self.stopping.is_set():
                    # Kafka still has it, and the cursor says so.
                    self._pending.clear()
                    return
                if self._down is None:
                    _log.warning("the archive's database takes nothing, reading is paused: %s", error)
                self._down = str(error)
                # Polled on, so that the group does not take us for dead; nothing is fetched meanwhile.
                self._consumer.pause(self._consumer.assignment())
                message = self._consumer.poll(pause_s)
                if message is not None:
                    self._take([message])
                pause_s = min(pause_s * 2, 2.0)
        if self._down is not None:
            self._down = None
            _log.info("the archive's database is back")
            self._consumer.resume(self._consumer.assignment())

    def _try(self) -> None:
        pending = self._pending
        cursors: dict[CursorKey, int] = {}
        reaches: dict[ReachKey, int] = {}
        for one in pending:
            if one.subject:
                cursors[CursorKey(self._reader, one.subject)] = one.next_offset
            if one.reached_us is not None:
                reaches[ReachKey(self._reader, one.subject, one.source)] = one.reached_us
        entries = [one.entry for one in pending if one.entry is not None]
        self._rows += self._store.store(entries, cursors, reaches)
        self._pending = []
        self._commit(cursors)

    def _commit(self, cursors: dict[CursorKey, int]) -> None:
        offsets = []
        for key, next_offset in cursors.items():
            topic, _, partition = key.subject.rpartition("/")
            offsets.append(TopicPartition(topic, int(partition), next_offset))
        try:
            if offsets:
                self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            # Only people look at these.
            _log.info("offsets are not shown in Kafka: %s", error.args[0].str())

    def _on_assign(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        found: dict[str, int] | None = None
        while found is None:
            try:
                found = self._store.positions(self._reader)
            except DatabaseDown as error:
                if self.stopping.wait(_PAUSE_S):
                    consumer.assign([])
                    return
                _log.warning("cannot ask the database where to go on: %s", error)
        for partition in partitions:
            partition.offset = self._begin(consumer, partition, found)
        _log.info("reading %s", ", ".join(f"{one.topic}/{one.partition}@{one.offset}" for one in partitions))
        consumer.assign(partitions)

    def _begin(self, consumer: Any, partition: TopicPartition, found: dict[str, int]) -> int:
        subject = f"{partition.topic}/{partition.partition}"
        position = found.get(subject)
        if position is None:
            return int(OFFSET_BEGINNING)
        try:
            low, high = consumer.get_watermark_offsets(partition, timeout=_QUESTION_S)
        except KafkaException:
            return position
        if position > high:
            _log.error(
                "%s ends at %d and was read up to %d: it was made anew, and is read whole",
                subject,
                high,
                position,
            )
            self._store.rewind(CursorKey(self._reader, subject), low)
            return int(low)
        if position < low:
            _log.error(
                "%s begins at %d and was read up to %d: what lay between was deleted unread",
                subject,
                low,
                position,
            )
            return int(low)
        return position

    def _on_revoke(self, _: Any, partitions: list[TopicPartition]) -> None:
        # Stored before they are handed over; whoever gets them goes on from there.
        try:
            if self._pending:
                self._try()
        except DatabaseDown as error:
            _log.warning("partitions are handed over with a batch that is not stored: %s", error)
        self._let_go(partitions, "its partition was handed over")

    def _on_lost(self, _: Any, partitions: list[TopicPartition]) -> None:
        self._let_go(partitions, "its partition was taken away")

    def _let_go(self, partitions: list[TopicPartition], reason: str) -> None:
        gone = {f"{one.topic}/{one.partition}" for one in partitions}
        self._pending = [one for one in self._pending if one.subject not in gone]
        if self._books is not None:
            for one in partitions:
                if one.topic == self._kafka.topic:
                    self._books.forget(one.partition, reason)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal() or error.code() in _REFUSALS:
            raise FeedError(f"Kafka at {self._kafka.bootstrap_servers} refuses us: {error.str()}")
        _log.warning("Kafka: %s", error.str())


_REFUSALS: Final = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    }
)


class _Hint(msgspec.Struct, gc=False, rename="camel"):
    market_ticker: str = ""


_hint_decoder: Final = msgspec.json.Decoder(_Hint)


def _hint(value: bytes) -> str:
    try:
        return _hint_decoder.decode(value).market_ticker
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return ""
