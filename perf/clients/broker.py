"""A process that is a Kafka broker for load tests: the embedded one, or Apache Kafka, which keeps more."""

from pathlib import Path
from tempfile import TemporaryDirectory

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from tests.kafka.apache_kafka import ApacheKafka

from kalshibook.feeds import EmbeddedBroker
from perf.clients.worker import answer_commands, settings


def main(topics: dict[str, int], *, apache: bool = False) -> None:
    """Serve until standard input ends."""
    if not apache:
        with EmbeddedBroker(topics) as broker:
            answer_commands({}, {"address": str(broker)})
        return
    with TemporaryDirectory(prefix="perf-kafka-") as folder, ApacheKafka(Path(folder)) as kafka:
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
        made = admin.create_topics([NewTopic(name, partitions, 1) for name, partitions in topics.items()])
        for topic in made.values():
            topic.result(30)
        answer_commands({}, {"address": kafka.bootstrap_servers})


if __name__ == "__main__":
    main(**settings())
