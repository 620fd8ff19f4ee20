"""Settings of the Kafka feed."""

import re
from typing import Any, Final, Literal

import msgspec

from kalshibook.errors import SettingsError

__all__ = ["KafkaOptions", "is_secret"]

# The feed's promises rest on these: where reading goes on after a loss, how it knows that it has
# caught up, and that no group's stored offsets are touched.
_RESERVED: Final = {
    "auto.offset.reset": "a loss must be noticed, not jumped over",
    "bootstrap.servers": "it is the setting bootstrap_servers",
    "enable.auto.commit": "offsets live in the store",
    "enable.partition.eof": "readiness is judged by it",
    "metadata.broker.list": "it is the setting bootstrap_servers",
    "statistics.interval.ms": "health is judged by it",
    "topic.metadata.refresh.interval.ms": "it is the setting partition_refresh_s",
}
_AT_LEAST_ONE: Final = (
    "rewind_minutes",
    "batch_records",
    "poll_timeout_ms",
    "partition_refresh_s",
    "quarantine_bytes",
)
_LONGEST_POLL_MS: Final = 100

# A mask too many hides a mechanism's name; a mask too few puts a password into a log.
_SECRET: Final = re.compile(
    r"password|passphrase|secret|token|credential|dsn|key|pem|auth|jaas|\bsasl", re.IGNORECASE
)


def is_secret(name: str) -> bool:
    """Tell whether the value of a librdkafka setting must not be shown, by its name."""
    return _SECRET.search(name) is not None


class KafkaOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Settings of `KafkaFeed`.

    >>> KafkaOptions(extra={"client.id": "books", "sasl.password": "hunter2"}).shown_extra()
    {'client.id': 'books', 'sasl.password': '***'}
    """

    bootstrap_servers: str = "localhost:9092"
    """Comma-separated ``host:port`` of some brokers; the others are learnt from them."""

    topic: str = "market-data-all"
    """The topic that carries envelopes; all its partitions are read."""

    start: Literal["rewind", "beginning", "offsets", "snapshots"] = "rewind"
    """
    Where reading begins: `rewind` minutes back by record time, at the `beginning` of what the
    broker keeps, at the `offsets` given in `start_offsets`, or behind the `snapshots` of books that
    are saved in `snapshots_topic`; without any, as `rewind`.
    """

    snapshots_topic: str = "book-snapshots"
    """The compacted topic in which books are saved."""

    rewind_minutes: int = 60
    """How far `rewind` goes back; it must cover the interval at which snapshots are published."""

    start_offsets: dict[int, int] = {}
    """Partition to next offset, as in `Cut.offsets`; a partition not named begins at its beginning."""

    batch_records: int = 500
    """Most records applied before readers are told; larger is faster to catch up and less even."""

    poll_timeout_ms: int = 50
    """Longest wait for a record before timers run, at most 100; a record that arrives ends it at once."""

    partition_refresh_s: int = 10
    """How often it is looked whether partitions were added, or the topic is gone."""

    silence_limit_s: int = 120
    """
    A feed without any record for so long calls itself silent, and the store behind, until something
    comes; 0 for no limit, for topics that are quiet by nature.
    """

    lag_limit_s: int = 5
    """
    A feed that reads a record so long after it was there calls itself lagging, and the store behind,
    until it has read all; after each relapse it must have kept pace for longer. 0 for no limit.
    """

    quarantine_file: str | None = None
    """NDJSON file to which unreadable records are appended."""

    quarantine_topic: str | None = None
    """Topic of the same brokers to which unreadable records are sent, instead of a file."""

    quarantine_bytes: int = 64 * 1024 * 1024
    """Largest quarantine file, or most bytes waiting for the quarantine topic; more is counted, not kept."""

    extra: dict[str, str | int | bool] = {}
    """librdkafka settings by their own names, such as ``security.protocol`` or ``sasl.password``."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        for name in ("bootstrap_servers", "topic", "snapshots_topic"):
            if not getattr(self, name).strip():
                raise SettingsError(f"kafka.{name} is empty")
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise SettingsError(f"kafka.{name} is {getattr(self, name)}; it must be at least 1")
        if self.poll_timeout_ms > _LONGEST_POLL_MS:
            raise SettingsError(f"kafka.poll_timeout_ms is {self.poll_timeout_ms}; timers need at most 100")
        for name in ("silence_limit_s", "lag_limit_s"):
            if getattr(self, name) < 0:
                raise SettingsError(f"kafka.{name} is {getattr(self, name)}; 0 stands for no limit")
        self._check_start()
        self._check_quarantine()
        for name in self.extra.keys() & _RESERVED.keys():
            raise SettingsError(f"kafka.extra: {name!r} cannot be set: {_RESERVED[name]}")

    def _check_start(self) -> None:
        if self.start_offsets and self.start != "offsets":
            raise SettingsError(f"kafka.start_offsets is for kafka.start 'offsets', which is {self.start!r}")
        if self.start == "offsets" and not self.start_offsets:
            raise SettingsError(
                "kafka.start is 'offsets' without kafka.start_offsets; 'beginning' needs none"
            )
        for partition, offset in self.start_offsets.items():
            if partition < 0 or offset < 0:
                raise SettingsError(f"kafka.start_offsets: {partition} = {offset}; neither is negative")

    def _check_quarantine(self) -> None:
        if self.quarantine_file and self.quarantine_topic:
            raise SettingsError("kafka.quarantine_file and kafka.quarantine_topic are both set; choose one")
        if self.snapshots_topic == self.topic:
            raise SettingsError("kafka.snapshots_topic is kafka.topic; saved books are no envelopes")
        if self.quarantine_topic == self.topic:
            raise SettingsError("kafka.quarantine_topic is kafka.topic; rejected records would come back")

    def shown_extra(self) -> dict[str, str | int | bool]:
        """Return `extra` with secrets masked, fit for a log."""
        return {name: "***" if is_secret(name) else value for name, value in self.extra.items()}

    # A struct's own representations would put passwords into every log line that shows settings.
    def __repr__(self) -> str:
        return f"KafkaOptions({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        values = msgspec.structs.asdict(self) | {"extra": self.shown_extra()}
        return list(values.items())
