"""Topics of a real Kafka, one for each test."""

from dataclasses import dataclass
from typing import Final

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic

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

    def ends(self) -> dict[int, int]:
        """Return the offset after the last record of each partition."""
        with Consumer(
            {"bootstrap.servers": self.bootstrap_servers, "group.id": "ends", "log_level": 0}
        ) as client:
            numbers = client.list_topics(self.name, timeout=TIMEOUT_S).topics[self.name].partitions
            places = [TopicPartition(self.name, number) for number in numbers]
            return {
                place.partition: client.get_watermark_offsets(place, timeout=TIMEOUT_S)[1] for place in places
            }
