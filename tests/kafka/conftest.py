import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.kafka.apache_kafka import ApacheKafka
from tests.kafka.topics import Topic


@pytest.fixture(scope="session")
def apache_kafka_or_none(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApacheKafka | None]:
    """The Kafka of this run, or None when another one was named."""
    named = request.config.getoption("--bootstrap-servers")
    if named or not request.config.getoption("--real-kafka"):
        yield None
        return
    with ApacheKafka(tmp_path_factory.mktemp("apache-kafka")) as kafka:
        yield kafka


@pytest.fixture
def apache_kafka(apache_kafka_or_none: ApacheKafka | None) -> ApacheKafka:
    """A Kafka that the test may stop, kill and log in to."""
    if apache_kafka_or_none is None:
        pytest.skip("needs a Kafka of its own: run `nox -s kafka`, or pytest with --real-kafka")
    return apache_kafka_or_none


@pytest.fixture(scope="session")
def bootstrap_servers(request: pytest.FixtureRequest, apache_kafka_or_none: ApacheKafka | None) -> str:
    """The address of the Kafka that was started or named."""
    named: str | None = request.config.getoption("--bootstrap-servers")
    if named:
        return named
    if apache_kafka_or_none is None:
        pytest.skip("needs a Kafka: run `nox -s kafka`, or pytest with --real-kafka or --bootstrap-servers")
    return apache_kafka_or_none.bootstrap_servers


@pytest.fixture(scope="session")
def admin(bootstrap_servers: str) -> AdminClient:
    """A client that may do everything."""
    return AdminClient(
        {"bootstrap.servers": bootstrap_servers, "log_level": 0, "reconnect.backoff.max.ms": 500}
    )


@pytest.fixture
def new_topic(bootstrap_servers: str, admin: AdminClient) -> Iterator[Callable[[], Topic]]:
    """A maker of topics that nobody else uses; those that were created are deleted at the end."""
    topics: list[Topic] = []

    def make() -> Topic:
        topics.append(Topic(f"kalshibook-test-{uuid.uuid4().hex[:12]}", bootstrap_servers, admin))
        return topics[-1]

    yield make
    for topic in topics:
        with suppress(KafkaException):
            topic.delete()
