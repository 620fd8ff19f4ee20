"""
Frames into Kafka: envelope version 1, keyed by market, counted when the brokers have acknowledged.

Nothing is dropped to keep going: a full queue is waited for. What the brokers refuse in the end is
counted, logged and told to whoever asked, and the next envelope of the market shows the loss.
"""

import logging
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self, final

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from kalshibook.errors import FeedError
from kalshibook.feeds.enveloper import Enveloper, Route
from kalshibook.feeds.librdkafka import librdkafka_logger
from kalshibook.feeds.options import KafkaOptions

__all__ = ["DEFAULT_TOPIC", "PublishFailure", "Publisher", "PublisherStatistics"]

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
    }
)
_FIXED: Final = frozenset({"enable.idempotence", "acks", "bootstrap.servers"})
_POLL_S: Final = 0.1


class PublishFailure(msgspec.Struct, frozen=True):
    """A record that Kafka has refused for good."""

    key: str
    """The market's ticker, or the event's."""
    reason: str


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
        self._producer = _producer(bootstrap_servers, settings or {})

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
        return len(found.partitions)

    def publish(self, frame: bytes, *, connection: str, received_us: int) -> bool:
        """
        Hand a frame to Kafka, and wait while its queue is full.

        The wait ends at the latest when librdkafka's ``message.timeout.ms`` fails older records.

        Args:
            frame: as received.
            connection: id of the socket epoch, unique for ever.
            received_us: when the frame came off the socket, microseconds since the epoch.

        Returns:
            False for a frame that concerns only its connection, such as `ok`: it is not published.

        Raises:
            WireError: it is no frame, or a market's frame that names no market.
            FeedError: the producer cannot go on, for example because it may not write the topic.
        """
        route = self._routed(frame)
        if route is None:
            return False
        while not self._offer(frame, route, connection, received_us):
            self._producer.poll(_POLL_S)
        return True

    def publish_nowait(self, frame: bytes, *, connection: str, received_us: int) -> bool:
        """
        Hand a frame to Kafka if its queue has room; never blocks.

        Returns:
            False when the queue is full: nothing has happened, call `poll` and try again.

        Raises:
            WireError: as `publish`.
            FeedError: as `publish`.
        """
        route = self._routed(frame)
        return route is None or self._offer(frame, route, connection, received_us)

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

    def _offer(self, frame: bytes, route: Route, connection: str, received_us: int) -> bool:
        value = self._enveloper.wrap(frame, route, connection=connection, received_us=received_us)
        try:
            self._producer.produce(self.topic, value, route.key, on_delivery=self._report)
        except BufferError:
            self._waits += 1
            return False
        except KafkaException as error:
            self._refused(error.args[0], route, connection)
            return True
        self._offered += 1
        self._enveloper.accept(route, connection=connection)
        self._producer.poll(0)
        return True

    def _refused(self, error: KafkaError, route: Route, connection: str) -> None:
        if error.code() != KafkaError.MSG_SIZE_TOO_LARGE:
            raise FeedError(f"cannot publish to {self.topic!r} at {self._servers}: {error.str()}")
        # One frame that Kafka will never take is lost, and said to be; the others go on.
        self._offered += 1
        self._enveloper.accept(route, connection=connection)
        self._lost(route.key, error)

    def _report(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._lost((message.key() or b"").decode(errors="replace"), error)
            return
        self._delivered += 1
        partition, offset = message.partition(), message.offset()
        if partition is not None and offset is not None:
            self._ends[partition] = max(offset + 1, self._ends.get(partition, 0))

    def _lost(self, key: str, error: KafkaError) -> None:
        self._failed += 1
        failure = PublishFailure(key, error.str())
        _log.error("a record of %s was not published to %s: %s", key, self.topic, failure.reason)
        if self._on_failure is not None:
            self._on_failure(failure)


def _producer(bootstrap_servers: str, settings: Mapping[str, Any]) -> Producer:
    for name in _FIXED & settings.keys():
        raise FeedError(f"publisher setting {name!r} cannot be changed: records would be lost or doubled")
    configuration = {
        "bootstrap.servers": bootstrap_servers,
        **_SETTINGS,
        **settings,
        "logger": librdkafka_logger(),
    }
    try:
        return Producer(configuration)
    except KafkaException as error:
        raise FeedError(f"Kafka cannot be written with these settings: {error.args[0].str()}") from None
