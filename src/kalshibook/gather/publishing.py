"""
The way into Kafka: a queue that Trio fills and a thread that empties it.

Nothing is dropped to keep pace. When Kafka is slow or away the queue fills, and sockets are no longer
read until it has room; what the exchange then gives up on is found, told and healed like any other loss.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, TypeAlias, final

import msgspec
from confluent_kafka import KafkaError, KafkaException, Producer

from kalshibook.errors import FeedError, WireError
from kalshibook.feeds.librdkafka import librdkafka_logger
from kalshibook.feeds.options import KafkaOptions
from kalshibook.feeds.publisher import Publisher, PublisherStatistics, PublishFailure, PublishReport
from kalshibook.gather import commands
from kalshibook.gather.incidents import GatherIncidentKind, GatherIncidents
from kalshibook.gather.options import GatherOptions
from kalshibook.gather.records import Notice, Received, SinkCounts
from kalshibook.gather.repeats import Repeats
from kalshibook.wire import GapRecord, encode_gap

__all__ = ["KafkaSink", "consumer_settings", "producer_settings"]

_log = logging.getLogger(__name__)

_IDLE_S: Final = 0.02
"""How long the thread waits for a frame before it takes delivery reports."""
_COLLECT_S: Final = 0.002
"""How long a frame waits for others."""

_CHECK_S: Final = 10.0


_OF_CONSUMERS: Final = (
    *("auto.", "check.crcs", "enable.auto.", "enable.partition.eof", "fetch.", "group.", "heartbeat."),
    *("isolation.", "max.partition.fetch", "max.poll.", "partition.assignment.", "queued.", "session."),
)
"""Beginnings of settings that librdkafka would call unfit for a producer."""


def producer_settings(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of the extra settings for librdkafka concerns a producer."""
    return {name: value for name, value in extra.items() if not name.startswith(_OF_CONSUMERS)}


_OF_PRODUCERS: Final = (
    *("acks", "batch.", "compression.", "delivery.", "enable.gapless", "enable.idempotence", "linger.ms"),
    *("message.send", "message.timeout", "partitioner", "queue.buffering.", "request.", "retries"),
    *("sticky.", "transactional."),
)


def consumer_settings(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of the extra settings for librdkafka concerns a consumer."""
    return {name: value for name, value in extra.items() if not name.startswith(_OF_PRODUCERS)}


class _Forget(msgspec.Struct, frozen=True):
    connection: str


_Item: TypeAlias = Received | Notice | GapRecord | _Forget


@final
class KafkaSink:
    """
    A sink that publishes everything and drops nothing, but for what is no frame.

    `start` and `stop` block; the other methods return at once and are called on one thread.
    """

    name: Final = "kafka"
    types: Final[frozenset[str] | None] = None

    def __init__(
        self,
        kafka: KafkaOptions,
        options: GatherOptions,
        incidents: GatherIncidents,
        *,
        on_lost: Callable[[str], None] = lambda _: None,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1_000,
    ) -> None:
        """
        Make it; no broker is needed for that.

        Args:
            kafka: where to; `extra` goes to librdkafka.
            options: the gatherer's.
            incidents: where losses are told.
            on_lost: called in the thread with the key of each record that Kafka has refused for good.
            clock_us: the time of publication, microseconds since the epoch.

        Raises:
            FeedError: librdkafka does not take its settings.
        """
        self._options = options
        self._incidents = incidents
        self._on_lost = on_lost
        # Without an end to its patience: a record that is given up after five minutes, librdkafka's
        # default, is a loss that waiting would have prevented.
        settings = {"message.timeout.ms": 0, **producer_settings(kafka.extra)}
        self._publisher = Publisher(
            kafka.bootstrap_servers,
            source=options.source,
            topic=kafka.topic,
            settings=settings,
            on_failure=self._on_failure,
            clock_us=clock_us,
        )
        self._gaps = None if not options.gap_topic else _GapWriter(kafka, options.gap_topic, settings)
        self._repeats = Repeats() if options.suppress_repeats else None
        self._queue: deque[_Item] = deque()
        self._arrived = threading.Event()
        self._stopping = threading.Event()
        self._give_up_at = float("inf")
        self._thread = threading.Thread(target=self._run, name="kalshibook-publisher", daemon=True)
        self._offered = self._processed = self._dropped = 0
        self._notices = 0
        self._alive_waits = False
        self.failure: BaseException | None = None
        """Why it can publish no more, or None."""
        self.capacity: Final = options.queue_frames

    def start(self) -> None:
        """
        Check the topics, say that all books of an earlier run are in doubt, and begin.

        Raises:
            FeedError: no broker answers, or a topic is missing.
        """
        self._publisher.check(_CHECK_S)
        if self._gaps is not None:
            self._gaps.check(_CHECK_S)
        self._publisher.notify("stale", reason="started", detail="a gatherer of this name has started")
        self._thread.start()

    def stop(self, timeout_s: float, *, reason: str = "stopped") -> int:
        """
        Publish what waits, say that this source ends, and return how many records Kafka did not take.

        Args:
            timeout_s: when to give up; what is left then is counted as failed.
            reason: of the end, as readers are told it.
        """
        if self._thread.is_alive():
            self.notify(Notice("ended", reason, "the gatherer was stopped"))
            # Bounded although librdkafka's own patience is not.
            self._give_up_at = time.monotonic() + timeout_s
            self._stopping.set()
            self._arrived.set()
            self._thread.join(timeout_s + 5)
        left = sum(isinstance(item, Received) for item in self._queue)
        return left + self._publisher.statistics().failed

    # The sink.

    @property
    def is_full(self) -> bool:
        """Whether the queue is."""
        return len(self._queue) >= self.capacity

    def offer(self, received: Received) -> None:
        """Queue a frame."""
        self._offered += 1
        self._put(received)

    def notify(self, notice: Notice) -> None:
        """Queue a notice."""
        self._put(notice)

    def counts(self) -> SinkCounts:
        """Return the counts; `processed` is what was handed to Kafka, or concerns only its connection."""
        processed, dropped = self._processed, self._dropped
        return SinkCounts(self._offered, processed, dropped, self._offered - processed - dropped)

    def alive(self) -> None:
        """Say that this gatherer is at work; skipped while the last one still waits."""
        if not self._alive_waits:
            self._alive_waits = True
            self._put(Notice("alive", interval_ms=self._options.heartbeat_ms))

    def record(self, gap: GapRecord) -> None:
        """Write an entry of the gap ledger."""
        if self._gaps is not None:
            self._put(gap)

    def forget(self, connection: str) -> None:
        """Drop what is remembered of a connection, after what was received on it."""
        self._put(_Forget(connection))

    def statistics(self) -> PublisherStatistics:
        """Return what became of the records, notices among them."""
        return self._publisher.statistics()

    @property
    def waiting(self) -> int:
        """How many items wait in the queue."""
        return len(self._queue)

    @property
    def suppressed(self) -> int:
        """How many refreshes were left out because they said nothing new."""
        return 0 if self._repeats is None else self._repeats.suppressed

    def _put(self, item: _Item) -> None:
        self._queue.append(item)
        if not self._arrived.is_set():
            self._arrived.set()

    # The thread.

    def _run(self) -> None:
        try:
            self._publish_all()
        except Exception as error:  # noqa: BLE001 - the gatherer ends with it
            _log.exception("publishing has failed")
            self.failure = error
        finally:
            left = max(self._give_up_at - time.monotonic(), 0.1) if self._stopping.is_set() else 1.0
            self._publisher.close(left)
            if self._gaps is not None:
                self._gaps.close(min(left, 5.0))

    def _publish_all(self) -> None:
        queue = self._queue
        while True:
            while queue:
                self._publish(queue[0])
                # Removed afterwards, so that what is being published counts as waiting.
                queue.popleft()
                if self._gives_up():
                    return
            if self._stopping.is_set():
                return
            self._arrived.clear()
            # Looked at again after clearing: what came in between has set nothing.
            if not queue:
                self._arrived.wait(_IDLE_S)
                # Frames come one by one, and to wake this thread for each would take the interpreter from
                # the sockets each time. librdkafka collects for longer than this.
                self._stopping.wait(_COLLECT_S)
            self._publisher.poll()
            if self._gaps is not None:
                self._gaps.poll()

    def _publish(self, item: _Item) -> None:
        if isinstance(item, Received):
            self._publish_frame(item)
        elif isinstance(item, Notice):
            self._publish_notice(item)
        elif isinstance(item, GapRecord):
            assert self._gaps is not None
            self._gaps.write(item)
        else:
            self._publisher.forget(item.connection)
            if self._repeats is not None:
                self._repeats.doubted(item.connection)

    def _publish_notice(self, notice: Notice) -> None:
        if notice.notice == "alive":
            self._alive_waits = False
        elif self._repeats is not None:
            self._repeats.doubted(notice.connection, notice.sid, notice.market_ticker)
        self._publisher.notify(
            notice.notice,
            reason=notice.reason,
            detail=notice.detail,
            interval_ms=notice.interval_ms,
            connection=notice.connection,
            sid=notice.sid,
            market_ticker=notice.market_ticker,
            gives_up=self._gives_up,
        )

    def _gives_up(self) -> bool:
        return self._stopping.is_set() and time.monotonic() > self._give_up_at

    def _publish_frame(self, received: Received) -> None:
        on_report = None
        if self._repeats is not None:
            is_told, on_report = self._judged(received)
            if is_told:
                self._processed += 1
                return
        try:
            self._insist(received, on_report)
        except WireError as error:
            self._dropped += 1
            detail = f"{error}: {received.frame[:100]!r}"
            self._incidents.record(GatherIncidentKind.UNREADABLE, detail, connection=received.connection)
            return
        self._processed += 1

    def _insist(self, received: Received, on_report: Callable[[PublishReport], None] | None) -> None:
        # Not `publish`, which waits as long as Kafka does: a stop has an end.
        while not self._publisher.publish_nowait(
            received.frame,
            connection=received.connection,
            received_us=received.received_us,
            doubt=received.doubt or None,
            on_report=on_report,
        ):
            self._publisher.poll(0.05)
            if self._gives_up():
                raise FeedError("Kafka did not take everything before the stop's end")

    def _judged(self, received: Received) -> tuple[bool, Callable[[PublishReport], None] | None]:
        repeats = self._repeats
        assert repeats is not None
        if received.type == "orderbook_delta":
            ticker = commands.decode_ticker(commands.decode_head(received.frame))
            if ticker is not None:
                repeats.changed(ticker)
            return False, None
        if received.type != "orderbook_snapshot":
            return False, None
        head = commands.decode_head(received.frame)
        ticker, body = commands.decode_ticker(head), bytes(head.msg)
        if ticker is None:
            return False, None
        if received.is_refresh and repeats.is_repeat(ticker, received.connection, received.sid, body):
            return True, None
        turn = repeats.published(ticker, received.connection, received.sid, body)
        return False, partial(_note_report, repeats, ticker, turn)

    def _on_failure(self, failure: PublishFailure) -> None:
        self._incidents.record(GatherIncidentKind.UNPUBLISHED, failure.reason, ticker=failure.key)
        self._on_lost(failure.key)


def _note_report(repeats: Repeats, ticker: str, turn: int, report: PublishReport) -> None:
    if report.reason is None:
        repeats.acknowledged(ticker, turn)


@final
class _GapWriter:
    """Writes the gap ledger to its topic; used by the publishing thread."""

    def __init__(self, kafka: KafkaOptions, topic: str, settings: Mapping[str, Any]) -> None:
        self._topic = topic
        self._servers = kafka.bootstrap_servers
        configuration = {
            "bootstrap.servers": kafka.bootstrap_servers,
            "enable.idempotence": True,
            "acks": "all",
            "compression.type": "zstd",
            **settings,
            "logger": librdkafka_logger(),
        }
        try:
            self._producer = Producer(configuration)
        except KafkaException as error:
            raise FeedError(f"Kafka cannot be written with these settings: {error.args[0].str()}") from None

    def check(self, timeout_s: float) -> None:
        try:
            found = self._producer.list_topics(timeout=timeout_s).topics.get(self._topic)
        except KafkaException as error:
            raise FeedError(f"no Kafka broker answers at {self._servers}: {error.args[0].str()}") from None
        if found is None or found.error is not None:
            raise FeedError(
                f"topic {self._topic!r} does not exist at {self._servers}; create it with"
                " cleanup.policy=compact, or set gather.gap_topic to another name, or to nothing"
            )

    def write(self, gap: GapRecord) -> None:
        try:
            self._producer.produce(self._topic, encode_gap(gap), gap.id, on_delivery=_note_gap)
        except (BufferError, KafkaException) as error:
            # The ledger is told in memory and in the log; frames must not wait for it.
            _log.error("gap %s was not written to %s: %s", gap.id, self._topic, error)

    def poll(self) -> None:
        self._producer.poll(0)

    def close(self, timeout_s: float) -> None:
        if self._producer.flush(timeout_s):
            self._producer.purge()
            self._producer.flush(1)


def _note_gap(error: KafkaError | None, _: Any) -> None:
    if error is not None:
        _log.error("an entry of the gap ledger was not written: %s", error.str())
