"""A feed on the embedded broker, and waiting for what comes of it."""

from collections.abc import Callable
from typing import Any, Final

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from kalshibook.feeds import EmbeddedBroker, KafkaOptions
from kalshibook.store import BookStore, Cut
from tests.kafka.topics import Topic

__all__ = ["TIMEOUT_S", "TOPIC", "options_for", "produce", "reaches", "topic_of"]

TIMEOUT_S: Final = 30
TOPIC: Final = "market-data-all"


def topic_of(broker: EmbeddedBroker, name: str = TOPIC) -> Topic:
    """Return a topic of the embedded broker, for a gatherer."""
    return Topic(name, str(broker), AdminClient({"bootstrap.servers": str(broker), "log_level": 0}))


def options_for(broker: EmbeddedBroker, **options: Any) -> KafkaOptions:
    """Return options for a quick feed; what is not given begins at the beginning."""
    options["extra"] = {**EmbeddedBroker.CONSUMER_SETTINGS, **options.get("extra", {})}
    return KafkaOptions(
        **{
            "bootstrap_servers": str(broker),
            "topic": TOPIC,
            "start": "beginning",
            "poll_timeout_ms": 10,
            **options,
        }
    )


def produce(
    broker: EmbeddedBroker,
    value: bytes | None,
    *,
    key: str | None = None,
    partition: int = 0,
    topic: str = TOPIC,
) -> None:
    """Store one record, whatever it is."""
    client = Producer({"bootstrap.servers": str(broker), "log_level": 0})
    client.produce(topic, value, key=key, partition=partition)
    assert 0 == client.flush(TIMEOUT_S)


def reaches(store: BookStore, holds: Callable[[Cut], bool]) -> Cut:
    """Wait until a version of which something holds, and return it; each wait is for a change."""
    with store.changes() as reader:
        while not holds(cut := store.cut()):
            assert reader.take(TIMEOUT_S) is not None, (cut.offsets, store.incidents.recent(20))
        return cut
