"""
Frames into Kafka: envelope version 1, keyed by market, counted when the brokers have acknowledged.

Nothing is dropped to keep going: a full queue is waited for. What the brokers refuse in the end is
counted, logged and told to whoever asked, and the next envelope of the market shows the loss.
"""

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self, final

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from kalshibook.errors import FeedError
from kalshibook.feeds.enveloper import Enveloper, Route
from kalshibook.feeds.librdkafka import count_partitions, librdkafka_logger
from kalshibook.feeds.options import KafkaOptions
from kalshibook.wire import NoticeKind

__all__ = ["DEFAULT_TOPIC", "PublishFailure", "PublishReport", "Publisher", "PublisherStatistics"]

_log = logging.getLogger(__name__)

DEFAULT_TOPIC: Final = KafkaOptions().topic
"""The topic that a `KafkaFeed` reads unless it is told otherwise."""

_SETTINGS: Final[Mapping[str, str | int | bool]] = MappingProxyType(
    {
        # Idempotence: a retry after a lost acknowledgement neither doubles nor reorders records.
        "enable.idempotence": True,
        "acks": "all",
        "compression.type": "zstd",
        # Java's partitioner. librdkafka's own would send a market's records of a Java producer and
        # of this one to different partitions, and their order would be lost.
        "partitioner": "murmur2_random",
        "linger.ms": 5,
        # A partition that was added gets records from then on, and must get notices too.
        "topic.metadata.refresh.interval.ms": 10_000,
        "statistics.interval.ms": 1_000,
    }
)
_FIXED: Final = frozenset(
    {"enable.idempotence", "acks", "bootstrap.servers", "statistics.interval.ms", "stats_cb"}
)
_POLL_S: Final = 0.1
_BY_KEY: Final = -1
"""A record's partition where its key chooses it."""


class PublishFailure(msgspec.Struct, frozen=True):
    """A record that Kafka has refused for good."""

    key: str
    """The market's ticker, or the event's."""
    reason: str


class PublishReport(msgspec.Struct, frozen=True, gc=False):
    """What became of one record, for who asked at `publish` or `notify`."""

    key: str
    partition: int | None
    """Where it is, or None when it was refused."""
    offset: int | None
    reason: str | None
    """Why Kafka has refused it for good, or None when all in-sync replicas have it."""


class PublisherStatistics(msgspec.Struct, frozen=True):
    """Counters since the start; ``offered == delivered + failed + in_flight`` at any moment."""

    offered: int
    """Records taken over from the caller."""
    delivered: int
    """Records that the brokers have acknowledged."""
    failed: int
    """Records refused for good, or given up at the close."""
    ignored: int
    """Frames that concern only their connection, such as `ok`."""
    waits: int
    """How often the queue was full."""

    @property
    def in_flight(self) -> int:
        """Return how many records have no report yet."""
        return self.offered - self.delivered - self.failed


@final
class Publisher:
    """
    Publishes frames; one thread at a time uses it.

    Reports arrive while `publish`, `poll` or `flush` runs, so who publishes nothing for a while
    calls `poll` now and then.

    Example:
        >>> from kalshibook.feeds import EmbeddedBroker
        >>> frame = b'{"type":"trade","sid":2,"seq":9,"msg":{"market_ticker":"KXFROG-T40"}}'
        >>> with EmbeddedBroker({"market-data-all": 4}) as broker:
        ...     with Publisher(str(broker), source="gatherer-1") as publisher:
        ...         publisher.publish(frame, connection="c1", received_us=1_790_000_000_000_000)
        ...     publisher.statistics().delivered
        True
        1
    """

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        source: str,
        topic: str = DEFAULT_TOPIC,
        settings: Mapping[str, Any] | None = None,
        on_failure: Callable[[PublishFailure], None] | None = None,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1_000,
    ) -> None:
        """
        Make a producer; no broker is needed for that.

        Args:
            bootstrap_servers: comma-separated ``host:port``.
            source: which gatherer this is, the same after a restart.
            topic: where records go.
            settings: librdkafka's, by their own names.
            on_failure: told of each record that was refused for good, on the calling thread.
            clock_us: the time of publication, microseconds since the epoch.

        Raises:
            FeedError: a setting is unknown, unfit, or takes back what is promised here.
        """
        self.topic: Final = topic
        self._servers = bootstrap_servers
        self._enveloper = Enveloper(source, clock_us=clock_us)
        self._on_failure = on_failure
        self._offered = self._delivered = self._failed = self._ignored = self._waits = 0
        self._ends: dict[int, int] = {}
        self._partitions = 0
        self._producer = _producer(bootstrap_servers, settings or {}, self._on_statistics)

    def check(self, timeout: float = 10.0) -> int:
        """
        Return the number of the topic's partitions.

        Raises:
            FeedError: no broker answers within `timeout` seconds, or none shows the topic.
        """
        try:
            # All topics are asked for: a request that names one creates it on many brokers, with
            # whatever number of partitions they like.
            topics = self._producer.list_topics(timeout=timeout).topics
        except KafkaException as error:
            reason = error.args[0].str()
            raise FeedError(f"no Kafka broker answers at {self._servers}: {reason}") from None
        found = topics.get(self.topic)
        if found is None or found.error is not None:
            raise FeedError(
                f"topic {self.topic!r} does not exist at {self._servers}, or may not be seen by this user;"
                " create it, or set the right name on both ends"
            )
        self._partitions = max(self._partitions, len(found.partitions))
        return self._partitions

    def publish(
        self,
        frame: bytes,
        *,
        connection: str,
        received_us: int,
        doubt: str | None = None,
        on_report: Callable[[PublishReport], None] | None = None,
    ) -> bool:
        """
        Hand a frame to Kafka, and wait while its queue is full.

        The wait ends at the latest when librdkafka's ``message.timeout.ms`` fails older records.

        Args:
            frame: as received.
            connection: id of the socket epoch, unique for ever.
            received_us: when the frame came off the socket, microseconds since the epoch.
            doubt: why the market's book is not to be trusted although the frame is applied, for
                example because it is older than what the socket lost.
            on_report: told what became of this record, on the thread that uses the publisher, before
                or after this call returns; it must not raise. What a gatherer leaves out next time
                because it was published rests on this, never on the call itself.

        Returns:
            False for a frame that concerns only its connection, such as `ok`: it is not published.

        Raises:
            WireError: it is no frame, or a market's frame that names no market.
            FeedError: the producer cannot go on, for example because it may not write the topic.
        """
        route = self._routed(frame)
        if route is None:
            return False
        while not self._offer(frame, route, connection, received_us, doubt, on_report):
            self._producer.poll(_POLL_S)
        return True

    def publish_nowait(
        self,
        frame: bytes,
        *,
        connection: str,
        received_us: int,
        doubt: str | None = None,
        on_report: Callable[[PublishReport], None] | None = None,
    ) -> bool:
        """
        Hand a frame to Kafka if its queue has room; never blocks. Arguments as `publish`.

        Returns:
            False when the queue is full: nothing has happened, call `poll` and try again.

        Raises:
            WireError: as `publish`.
            FeedError: as `publish`.
        """
        route = self._routed(frame)
        return route is None or self._offer(frame, route, connection, received_us, doubt, on_report)

    def notify(
        self,
        notice: NoticeKind,
        *,
        reason: str = "",
        detail: str = "",
        interval_ms: int | None = None,
        connection: str | None = None,
        sid: int | None = None,
        market_ticker: str = "",
        on_report: Callable[[PublishReport], None] | None = None,
        gives_up: Callable[[], bool] = lambda: False,
    ) -> int:
        """
        Say something of this gatherer to all who read its records; see `wire.GathererNotice`.

        It goes to every partition, behind the records published so far, so that each reader meets it
        between the right ones; about one market, to that market's partition. A full queue is waited for.

        Args:
            notice: `alive`, at intervals that the caller keeps; `stale` or `ended`.
            reason: one of a few words, such as ``gap``.
            detail: what was found, for people.
            interval_ms: of `alive`: when the next is due at the latest.
            connection: only the books of this socket epoch, or None for all of this gatherer.
            sid: only those of this subscription of the connection.
            market_ticker: only this market.
            on_report: told what became of each of the records; see `publish`.
            gives_up: asked while the queue is full, whether to wait no longer.

        Returns:
            How many records were handed over.

        Raises:
            FeedError: the topic is not known yet and no broker tells of it, the wait was given up, or as
                `publish`.
        """
        value = self._enveloper.notice(
            notice,
            reason=reason,
            detail=detail,
            interval_ms=interval_ms,
            connection=connection,
            sid=sid,
            market_ticker=market_ticker,
        )
        if market_ticker:
            self._insist(value, market_ticker, _BY_KEY, on_report, gives_up)
            return 1
        partitions = self._partitions or self.check()
        for number in range(partitions):
            self._insist(value, self._enveloper.source, number, on_report, gives_up)
        return partitions

    def poll(self, timeout: float = 0.0) -> None:
        """Take delivery reports, waiting up to `timeout` seconds for the first."""
        self._producer.poll(timeout)

    def flush(self, timeout: float = 10.0) -> int:
        """Wait until everything is reported, and return how many records are not after `timeout` seconds."""
        self._producer.flush(timeout)
        return self.statistics().in_flight

    def forget(self, connection: str) -> None:
        """Drop what is remembered of a connection that has ended."""
        self._enveloper.forget(connection)

    def ends(self) -> Mapping[int, int]:
        """Return, by partition, the offset after the last record of ours that was acknowledged."""
        return MappingProxyType(self._ends)

    def statistics(self) -> PublisherStatistics:
        """Return the counters."""
        return PublisherStatistics(self._offered, self._delivered, self._failed, self._ignored, self._waits)

    def close(self, timeout: float = 10.0) -> None:
        """Wait up to `timeout` seconds for the last reports; give up what is left then, counted as failed."""
        if self.flush(timeout):
            self._producer.purge()
            # Purged records are reported too, which is what makes the counters add up.
            self._producer.flush(timeout)

    def __enter__(self) -> Self:
        """
        Check that the topic is there.

        Raises:
            FeedError: as `check`.
        """
        self.check()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # In haste when something is wrong already: nobody waits ten seconds for a Ctrl-C.
        self.close(10.0 if error is None else 1.0)

    def _routed(self, frame: bytes) -> Route | None:
        route = self._enveloper.route(frame)
        if route is None:
            self._ignored += 1
        return route

    def _offer(
        self,
        frame: bytes,
        route: Route,
        connection: str,
        received_us: int,
        doubt: str | None,
        on_report: Callable[[PublishReport], None] | None,
    ) -> bool:
        value = self._enveloper.wrap(
            frame, route, connection=connection, received_us=received_us, doubt=doubt
        )
        if not self._produce(value, route.key, _BY_KEY, on_report):
            return False
        self._enveloper.accept(route, connection=connection)
        return True

    def _insist(
        self,
        value: bytes,
        key: str,
        partition: int,
        on_report: Callable[[PublishReport], None] | None,
        gives_up: Callable[[], bool],
    ) -> None:
        while not self._produce(value, key, partition, on_report):
            self._producer.poll(_POLL_S)
            if gives_up():
                raise FeedError(f"{self.topic!r} at {self._servers} takes nothing more: its queue is full")

    def _produce(
        self, value: bytes, key: str, partition: int, on_report: Callable[[PublishReport], None] | None
    ) -> bool:
        report = self._report if on_report is None else partial(self._report, on_report=on_report)
        try:
            self._producer.produce(self.topic, value, key, partition, on_delivery=report)
        except BufferError:
            self._waits += 1
            return False
        except KafkaException as error:
            self._refused(error.args[0], key, on_report)
            return True
        self._offered += 1
        self._producer.poll(0)
        return True

    def _refused(
        self, error: KafkaError, key: str, on_report: Callable[[PublishReport], None] | None
    ) -> None:
        if error.code() != KafkaError.MSG_SIZE_TOO_LARGE:
            raise FeedError(f"cannot publish to {self.topic!r} at {self._servers}: {error.str()}")
        # One frame that Kafka will never take is lost, and said to be; the others go on.
        self._offered += 1
        self._lost(key, error, on_report)

    def _report(
        self,
        error: KafkaError | None,
        message: Message,
        on_report: Callable[[PublishReport], None] | None = None,
    ) -> None:
        if error is not None:
            self._lost(_key_of(message), error, on_report)
            return
        self._delivered += 1
        partition, offset = message.partition(), message.offset()
        if partition is not None and offset is not None:
            self._ends[partition] = max(offset + 1, self._ends.get(partition, 0))
            self._partitions = max(self._partitions, partition + 1)
        if on_report is not None:
            on_report(PublishReport(_key_of(message), partition, offset, None))

    def _on_statistics(self, text: str) -> None:
        self._partitions = max(self._partitions, count_partitions(text, self.topic))

    def _lost(self, key: str, error: KafkaError, on_report: Callable[[PublishReport], None] | None) -> None:
        self._failed += 1
        failure = PublishFailure(key, error.str())
        _log.error("a record of %s was not published to %s: %s", key, self.topic, failure.reason)
        if self._on_failure is not None:
            self._on_failure(failure)
        if on_report is not None:
            on_report(PublishReport(key, None, None, failure.reason))


def _key_of(message: Message) -> str:
    return (message.key() or b"").decode(errors="replace")


def _producer(
    bootstrap_servers: str, settings: Mapping[str, Any], on_statistics: Callable[[str], None]
) -> Producer:
    for name in _FIXED & settings.keys():
        raise FeedError(f"publisher setting {name!r} cannot be changed: records would be lost or doubled")
    configuration = {
        "bootstrap.servers": bootstrap_servers,
        **_SETTINGS,
        **settings,
        "logger": librdkafka_logger(),
        "stats_cb": on_statistics,
    }
    try:
        return Producer(configuration)
    except KafkaException as error:
        raise FeedError(f"Kafka cannot be written with these settings: {error.args[0].str()}") from None
