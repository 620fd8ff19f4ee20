from collections.abc import Iterator

import pytest

from kalshibook.feeds import EmbeddedBroker
from kalshibook.store import BookStore
from tests.feeds.reading import TOPIC, topic_of
from tests.kafka.gatherer import Gatherer


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    """A broker with a topic of three partitions."""
    with EmbeddedBroker({TOPIC: 3}) as broker:
        yield broker


@pytest.fixture
def gatherer(broker: EmbeddedBroker) -> Iterator[Gatherer]:
    """What publishes to that topic."""
    with Gatherer(topic_of(broker)) as gatherer:
        yield gatherer


@pytest.fixture
def store() -> BookStore:
    """An empty store."""
    return BookStore()
