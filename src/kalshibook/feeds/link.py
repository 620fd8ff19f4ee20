"""
The connection to Kafka: one librdkafka consumer, and what is asked of it.

Whatever can be cured by waiting becomes `Unavailable`, with the state that names it.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, final

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from kalshibook.errors import FeedError
from kalshibook.feeds.base import FeedState
from kalshibook.feeds.librdkafka import librdkafka_logger
from kalshibook.feeds.options import KafkaOptions
from kalshibook.feeds.positions import Bounds
from kalshibook.feeds.watch import BrokerWatch, Unavailable, state_of

__all__ = ["KafkaLink", "connection_settings"]

# Short, because a stop waits for it: while no broker answers every question takes so long.
_FIRST_PATIENCE_S: Final = 0.5
_MOST_PATIENCE_S: Final = 8.0

_STATISTICS_MS: Final = 1_000
_DEFAULTS: Final[Mapping[str, str | int | bool]] = {
    "client.id": "kalshibook",
    # No group is joined and nothing is committed; librdkafka wants the name none the less.
    "group.id": "kalshibook",
    # Kafka wakes a waiting fetch when a record arrives, so this costs no latency there.
    "fetch.wait.max.ms": 50,
    # By default a full local queue pauses fetching for a whole second.
    "fetch.queue.backoff.ms": 10,
    "queued.max.messages.kbytes": 32 * 1024,
    "reconnect.backoff.max.ms": 2_000,
    # How long a topic that has vanished is given to come back before that is said.
    "topic.metadata.propagation.max.ms": 10_000,
}


def connection_settings(options: KafkaOptions) -> dict[str, Any]:
    """Return the librdkafka settings that any client of these brokers needs."""
    extra = {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in options.extra.items()
    }
    return {"logger": librdkafka_logger(), **extra, "bootstrap.servers": options.bootstrap_servers}


@final
class KafkaLink:
    """
    A consumer of all partitions of one topic. For one thread; nothing in it blocks for long.

    Args:
        options: the feed's settings.
        topic: which topic, if not the feed's own.

    Raises:
        FeedError: librdkafka refuses a setting; the message names it.
    """

    def __init__(self, options: KafkaOptions, *, topic: str | None = None) -> None:
        self._topic = topic or options.topic
        self._patience_s = _FIRST_PATIENCE_S
        self.watch: Final = BrokerWatch(self._topic)
        settings = {
            **_DEFAULTS,
            **connection_settings(options),
            "auto.offset.reset": "error",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "statistics.interval.ms": _STATISTICS_MS,
            "topic.metadata.refresh.interval.ms": options.partition_refresh_s * 1_000,
            "error_cb": self.watch.on_error,
            "stats_cb": self.watch.on_statistics,
        }
        try:
            self._consumer = Consumer(settings)
        except KafkaException as error:
            raise FeedError(f"librdkafka refuses a setting: {error.args[0].str()}") from error
        except (TypeError, ValueError) as error:
            raise FeedError(f"librdkafka refuses a setting: {error}") from error
        self.watch.longest_wait_us = int(settings["fetch.wait.max.ms"]) * 1_000

    def partitions(self) -> list[int]:
        """
        Ask which partitions the topic has.

        Raises:
            Unavailable: no answer, or no such topic.
        """
        try:
            topic = self._consumer.list_topics(self._topic, timeout=_FIRST_PATIENCE_S).topics[self._topic]
        except KafkaException as error:
            raise self._unavailable(error.args[0]) from None
        if topic.error is not None:
            state = state_of(topic.error)
            known = "the brokers do not know it" if state is FeedState.TOPIC_MISSING else topic.error.str()
            raise Unavailable(state, f"topic {self._topic!r}: {known}")
        if not topic.partitions:
            raise Unavailable(FeedState.CONNECTING, f"topic {self._topic!r} has no partitions yet")
        return sorted(topic.partitions)

    def bounds(self, partitions: Iterable[int]) -> dict[int, Bounds]:
        """
        Ask what is kept of each partition.

        Raises:
            Unavailable: no answer in time; the next call waits longer.
        """
        found: dict[int, Bounds] = {}
        for partition in partitions:
            try:
                answer = self._consumer.get_watermark_offsets(
                    TopicPartition(self._topic, partition), timeout=self._patience_s
                )
            except KafkaException as error:
                raise self._impatient(error.args[0]) from None
            found[partition] = Bounds(*answer)
        return found

    def offsets_at(self, partitions: Iterable[int], time_ms: int) -> dict[int, int]:
        """
        Ask for the first record of each partition that is not older; -1 where there is none.

        Args:
            partitions: which.
            time_ms: Unix milliseconds.

        Raises:
            Unavailable: no answer in time; the next call waits longer.
        """
        wanted = [TopicPartition(self._topic, partition, time_ms) for partition in partitions]
        try:
            answers = self._consumer.offsets_for_times(wanted, timeout=self._patience_s)
        except KafkaException as error:
            raise self._impatient(error.args[0]) from None
        for answer in answers:
            if answer.error is not None:
                raise self._impatient(answer.error)
        return {answer.partition: answer.offset for answer in answers}

    def assign(self, offsets: Mapping[int, int]) -> None:
        """Read these partitions from these offsets, and no others."""
        self._patience_s = _FIRST_PATIENCE_S
        self._consumer.poll(0)  # old statistics tell of the topic as it was
        self.watch.topic_found()
        self._consumer.assign(
            [TopicPartition(self._topic, partition, offset) for partition, offset in offsets.items()]
        )

    def unassign(self) -> None:
        """Read nothing."""
        self._consumer.unassign()

    def add(self, partition: int) -> None:
        """Read one more partition, from its beginning."""
        self._consumer.incremental_assign([TopicPartition(self._topic, partition, OFFSET_BEGINNING)])

    def restart(self, partition: int) -> None:
        """Read a partition from its beginning again."""
        # Not `seek`: librdkafka refuses it for a partition whose offset was out of range.
        self._consumer.incremental_unassign([TopicPartition(self._topic, partition)])
        self.add(partition)

    def poll(self, most: int, timeout_s: float) -> list[Message]:
        """
        Return records and events as soon as there are some.

        Args:
            most: how many at most.
            timeout_s: how long to wait for the first.
        """
        # `consume` alone would wait for a full batch or for the whole timeout, with records in hand.
        first = self._consumer.poll(timeout_s)
        if first is None:
            return []
        return [first, *self._consumer.consume(most - 1, timeout=0)] if most > 1 else [first]

    def close(self) -> None:
        """Disconnect; it takes milliseconds, whatever the brokers do."""
        self._consumer.close()

    def _impatient(self, error: KafkaError) -> Unavailable:
        # Brokers do answer (the partitions are known), but a search by time may read cold disks.
        self._patience_s = min(self._patience_s * 2, _MOST_PATIENCE_S)
        return self._unavailable(error)

    def _unavailable(self, error: KafkaError) -> Unavailable:
        self._consumer.poll(0)  # serves the callbacks, which know the reason better
        if self.watch.trouble is not None:
            return self.watch.trouble
        return Unavailable(state_of(error), self.watch.last_reason or error.str())
