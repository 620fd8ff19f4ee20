"""What librdkafka says of itself, and what that means: the state of brokers and topic. Asks nobody."""

from collections.abc import Mapping
from typing import Final, final

import msgspec
from confluent_kafka import KafkaError

from kalshibook.feeds.base import FeedState

__all__ = ["BrokerWatch", "Unavailable", "state_of"]

_REFUSED: Final = frozenset(
    {
        KafkaError._AUTHENTICATION,  # noqa: SLF001 - so named in librdkafka: a local error
        KafkaError._SSL,  # noqa: SLF001
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)
_MISSING: Final = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
    }
)


class _Broker(msgspec.Struct, gc=False):
    nodeid: int = -1
    state: str = ""
    waitresp_cnt: int = 0
    """Requests that wait for an answer."""
    rxidle: int = -1
    """Microseconds since the last byte came."""


class _Partition(msgspec.Struct, gc=False):
    unknown: bool = False
    broker: int = -1
    """Which broker it is read from, or -1."""
    fetch_state: str = ""
    ls_offset: int = -1
    fetchq_cnt: int = 0


class _Topic(msgspec.Struct, gc=False):
    partitions: dict[int, _Partition] = {}


class _Statistics(msgspec.Struct, gc=False):
    brokers: dict[str, _Broker] = {}
    topics: dict[str, _Topic] = {}


_NO_TOPIC: Final = _Topic()
_PATIENCE_US: Final = 5_000_000
"""How long a request may wait beyond what it asks for until its broker counts as hanging."""

_statistics_decoder: Final = msgspec.json.Decoder(_Statistics, strict=False)


class Unavailable(Exception):  # noqa: N818 - names a state, which passes
    """
    A question was not answered; it is asked again later.

    Attributes:
        state: what this means for the feed.
        reason: for people.
    """

    def __init__(self, state: FeedState, reason: str) -> None:
        super().__init__(reason)
        self.state = state
        self.reason = reason


def state_of(error: KafkaError) -> FeedState:
    """Return the state of a feed that meets this error."""
    if error.code() in _REFUSED:
        return FeedState.AUTHENTICATION_FAILED
    return FeedState.TOPIC_MISSING if error.code() in _MISSING else FeedState.BROKER_DOWN


@final
class BrokerWatch:
    """
    Judges by errors and statistics whether brokers and topic are there.

    Args:
        topic: the topic that is read.
    """

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._without_broker = 0
        self._without_topic = 0
        self.last_reason = ""
        """What the last connection failed of, or nothing since a broker is connected."""
        self.trouble: Unavailable | None = None
        """Why no broker can be reached, or None."""
        self.ends: dict[int, int] = {}
        """Newest known end by partition."""
        self.known_partitions: frozenset[int] = frozenset()
        """All partitions that the topic is known to have, those that are not read included."""
        self.queued = 0
        """Records fetched and not yet polled."""
        self.longest_wait_us = 0
        """How long a broker may keep a fetch waiting for records."""

    @property
    def vanished(self) -> bool:
        """
        Whether the topic seems to be gone while it is read.

        librdkafka raises no error then. It would also go on at the old offset if a new topic took
        the name, and pass over that topic's first records.
        """
        return self._without_topic > 1

    def topic_found(self) -> None:
        """Forget that the topic had vanished."""
        self._without_topic = 0

    def on_error(self, error: KafkaError) -> None:
        """Take over an error that concerns no partition."""
        code = error.code()
        if code in _REFUSED:
            self.trouble = Unavailable(FeedState.AUTHENTICATION_FAILED, error.str())
        elif code != KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001
            self.last_reason = error.str()
        elif self.trouble is None or self.trouble.state is FeedState.BROKER_DOWN:
            # A refused login also ends the connection; the refusal is what people need to know.
            self.trouble = Unavailable(FeedState.BROKER_DOWN, self.last_reason or error.str())

    def on_statistics(self, text: str) -> None:
        """Take over librdkafka's statistics, as JSON."""
        statistics = _statistics_decoder.decode(text)
        topic = statistics.topics.get(self._topic, _NO_TOPIC)
        partitions = {number: one for number, one in topic.partitions.items() if number >= 0}
        answering = {broker.nodeid for broker in statistics.brokers.values() if self._answers(broker)}
        # One broker that is gone, of several, raises no error: its partitions just say nothing more.
        unread = sorted(
            number
            for number, one in partitions.items()
            if one.fetch_state == "active" and not one.unknown and one.broker not in answering
        )
        if answering and not unread:
            self.trouble = None
            self._without_broker = 0
            self.last_reason = ""
        else:
            self._without_broker += 1
            # A connection that hangs reports no error for a minute.
            if self._without_broker > 1 and self.trouble is None:
                reason = self.last_reason or "no broker answers"
                if answering:
                    reason = f"partitions {unread} cannot be read: {reason}"
                self.trouble = Unavailable(FeedState.BROKER_DOWN, reason)
        if partitions:
            self._on_topic(partitions)

    def _answers(self, broker: _Broker) -> bool:
        hangs = broker.waitresp_cnt > 0 and broker.rxidle > _PATIENCE_US + self.longest_wait_us
        return broker.nodeid >= 0 and broker.state == "UP" and not hangs

    def _on_topic(self, partitions: Mapping[int, _Partition]) -> None:
        self.known_partitions = frozenset(partitions)
        self.ends = {number: one.ls_offset for number, one in partitions.items() if one.ls_offset >= 0}
        self.queued = sum(one.fetchq_cnt for one in partitions.values())
        gone = bool(partitions) and all(one.unknown for one in partitions.values())
        self._without_topic = self._without_topic + 1 if gone else 0
