"""
Where records go that cannot be read: an NDJSON file, or a topic. Bounded; it never holds up the feed.

One line, or one record's value, is the JSON of a `QuarantinedRecord`. What does not fit or cannot
be written is counted as lost; the store's incidents still tell where it stood.
"""

import base64
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol, Self, final

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from kalshibook.errors import FeedError
from kalshibook.feeds.options import KafkaOptions

__all__ = [
    "FileQuarantine",
    "NoQuarantine",
    "Quarantine",
    "QuarantinedRecord",
    "TopicQuarantine",
    "open_quarantine",
]

_FLUSH_S: Final = 0.3
"""What a stop waits for a quarantine topic."""
_LARGEST_RECORD: Final = 16 * 1024 * 1024
_KIB: Final = 1024

_encode = msgspec.json.Encoder().encode


class QuarantinedRecord(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A Kafka record that could not be read, and why."""

    topic: str
    partition: int
    offset: int
    key: str | None
    """As text; bytes that are none are escaped."""
    reason: str
    time_us: int
    """When it was rejected, microseconds since the epoch."""
    text: str | None = None
    """Its value, when that is UTF-8."""
    base64: str | None = None
    """Its value otherwise."""

    @classmethod
    def of(
        cls,
        value: bytes,
        *,
        topic: str,
        partition: int,
        offset: int,
        key: bytes | None,
        reason: str,
        time_us: int,
    ) -> Self:
        """Describe a record; its value is kept to the last byte."""
        name = None if key is None else key.decode(errors="backslashreplace")
        try:
            text, encoded = value.decode(), None
        except UnicodeDecodeError:
            text, encoded = None, base64.b64encode(value).decode()
        return cls(topic, partition, offset, name, reason, time_us, text, encoded)

    def value(self) -> bytes:
        """Return the record's value as it came."""
        return base64.b64decode(self.base64) if self.base64 is not None else (self.text or "").encode()


class Quarantine(Protocol):
    """Keeps rejected records; used by the feed's thread only, but its counters may be read by any."""

    kept: int
    """Records it has taken."""
    lost: int
    """Records it could not take, or could not write."""

    def put(self, record: QuarantinedRecord) -> None:
        """Keep a record, or count it as lost; never blocks on a broker, never raises."""

    def poll(self) -> None:
        """Learn what became of earlier records."""

    def close(self) -> None:
        """Write what waits, for a fraction of a second, and count the rest as lost."""


class NoQuarantine:
    """Keeps nothing: rejected records are counted by the feed and the store alone."""

    kept = 0
    lost = 0

    def put(self, record: QuarantinedRecord) -> None:
        """Let it go."""

    def poll(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class _Counting:
    """
    Counts, and calls `on_loss` when records begin to be lost.

    Args:
        on_loss: called once per series of losses, with the reason.
    """

    def __init__(self, on_loss: Callable[[str], None]) -> None:
        self.kept = 0
        self.lost = 0
        self._on_loss = on_loss
        self._losing = False

    def _count_kept(self) -> None:
        self.kept += 1
        self._losing = False

    def _count_lost(self, reason: str, count: int = 1) -> None:
        self.lost += count
        if not self._losing:
            self._losing = True
            self._on_loss(f"the quarantine loses records: {reason}")


@final
class FileQuarantine(_Counting):
    """
    Appends to an NDJSON file until it has reached its size; then it is to be moved away.

    Raises:
        FeedError: the file cannot be opened.
    """

    def __init__(self, path: str, limit: int, on_loss: Callable[[str], None]) -> None:
        super().__init__(on_loss)
        self._path = path
        self._limit = limit
        try:
            # Unbuffered: a record is in the file, whole or not at all, when `put` returns.
            self._file = Path(path).open("ab", buffering=0)  # noqa: SIM115 - `close` closes it
            self._size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise FeedError(f"quarantine file {path!r} cannot be opened: {error.strerror}") from error

    def put(self, record: QuarantinedRecord) -> None:
        """Append one line, or count the record as lost."""
        line = _encode(record) + b"\n"
        if self._size + len(line) > self._limit:
            self._count_lost(
                f"{self._path} has reached {self._limit} bytes; move it away and restart the feed"
            )
            return
        try:
            written = self._file.write(line)
            if written != len(line):
                # A full disk takes a part; half a line would spoil the file for its readers.
                self._file.truncate(self._size)
                self._count_lost(f"{self._path}: the disk is full")
                return
        except OSError as error:
            self._count_lost(f"{self._path}: {error.strerror}")
            return
        self._size += len(line)
        self._count_kept()

    def poll(self) -> None:
        """Do nothing: what became of a record is known at once."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@final
class TopicQuarantine(_Counting):
    """
    Produces to a topic, from a bounded queue.

    Raises:
        FeedError: librdkafka refuses the settings.
    """

    def __init__(
        self, topic: str, limit: int, connection: Mapping[str, Any], on_loss: Callable[[str], None]
    ) -> None:
        super().__init__(on_loss)
        self._topic = topic
        settings = {
            "linger.ms": 20,
            "message.timeout.ms": 30_000,
            "message.max.bytes": _LARGEST_RECORD,
            **connection,
            "queue.buffering.max.kbytes": max(limit // _KIB, 1),
        }
        try:
            self._producer = Producer(settings)
        except KafkaException as error:
            raise FeedError(f"quarantine topic {topic!r}: {error.args[0].str()}") from error

    def put(self, record: QuarantinedRecord) -> None:
        """Queue one record, keyed as it was, or count it as lost."""
        try:
            self._producer.produce(
                self._topic, _encode(record), key=record.key, on_delivery=self._on_delivery
            )
        except BufferError:
            self._count_lost(f"too many wait for topic {self._topic!r}")
        except KafkaException as error:
            self._count_lost(f"topic {self._topic!r}: {error.args[0].str()}")

    def poll(self) -> None:
        """Count deliveries."""
        self._producer.poll(0)

    def close(self) -> None:
        """Flush for a fraction of a second and count the rest as lost."""
        left = self._producer.flush(_FLUSH_S)
        if left:
            self._count_lost(f"topic {self._topic!r} did not take them before the end", left)
            # Without this the producer would go on trying while it is destroyed.
            self._producer.purge()

    def _on_delivery(self, error: KafkaError | None, _: Message) -> None:
        if error is None:
            self._count_kept()
        else:
            self._count_lost(f"topic {self._topic!r}: {error.str()}")


def open_quarantine(
    options: KafkaOptions, connection: Mapping[str, Any], on_loss: Callable[[str], None]
) -> Quarantine:
    """
    Open the quarantine that the options name.

    Args:
        options: the feed's settings.
        connection: librdkafka settings that reach the brokers.
        on_loss: called with a reason when records begin to be lost.

    Raises:
        FeedError: it cannot be opened.
    """
    if options.quarantine_file:
        return FileQuarantine(options.quarantine_file, options.quarantine_bytes, on_loss)
    if options.quarantine_topic:
        return TopicQuarantine(options.quarantine_topic, options.quarantine_bytes, connection, on_loss)
    return NoQuarantine()
