"""Topics of a real Kafka, one for each test."""

from dataclasses import dataclass
from typing import Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its documented names
    AdminClient,
    NewPartitions,
    NewTopic,
)

__all__ = ["Topic"]

TIMEOUT_S: Final = 30


@dataclass(frozen=True)
class Topic:
    """A topic by its name, and what an operator may do to it; every call waits until it is done."""

    name: str
    bootstrap_servers: str
    admin: AdminClient

    def create(self, partitions: int, **settings: str) -> None:
        """Create it; settings are the topic's own, with underscores for dots."""
        config = {key.replace("_", "."): value for key, value in settings.items()}
        topic = NewTopic(self.name, num_partitions=partitions, replication_factor=1, config=config)
        self.admin.create_topics([topic])[self.name].result(TIMEOUT_S)

    def grow(self, partitions: int) -> None:
        """Raise the number of its partitions."""
        self.admin.create_partitions([NewPartitions(self.name, partitions)])[self.name].result(TIMEOUT_S)

    def drop_before(self, partition: int, offset: int) -> None:
        """Delete what lies before an offset, as retention does."""
        place = TopicPartition(self.name, partition, offset)
        for done in self.admin.delete_records([place]).values():
            done.result(TIMEOUT_S)

    def delete(self) -> None:
        """Delete it with its records."""
        self.admin.delete_topics([self.name])[self.name].result(TIMEOUT_S)

    def beginnings(self) -> dict[int, int]:
        """Return the oldest offset that is kept of each partition."""
        return {partition: bounds[0] for partition, bounds in self._bounds().items()}

    def ends(self) -> dict[int, int]:
        """Return the offset after the last record of each partition."""
        return {partition: bounds[1] for partition, bounds in self._bounds().items()}

    def values(self, partition: int = 0) -> list[bytes | None]:
        """Return what a partition holds, from its beginning to its end."""
        settings = {
            "bootstrap.servers": self.bootstrap_servers,
            "group.id": "values",
            "enable.partition.eof": True,
            "log_level": 0,
        }
        with Consumer(settings) as client:
            client.assign([TopicPartition(self.name, partition, OFFSET_BEGINNING)])
            found: list[bytes | None] = []
            while (message := client.poll(TIMEOUT_S)) is not None and message.error() is None:
                found.append(message.value())
            return found

    def _bounds(self) -> dict[int, tuple[int, int]]:
        settings = {"bootstrap.servers": self.bootstrap_servers, "group.id": "bounds", "log_level": 0}
        with Consumer(settings) as client:
            numbers = client.list_topics(self.name, timeout=TIMEOUT_S).topics[self.name].partitions
            places = [TopicPartition(self.name, number) for number in numbers]
            return {
                place.partition: client.get_watermark_offsets(place, timeout=TIMEOUT_S) for place in places
            }
