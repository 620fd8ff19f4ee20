"""Who a real Kafka lets in: refusals are a state with its reason, and end when the cause does."""

from collections.abc import Callable
from typing import Any, Final

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its documented names
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from kalshibook.feeds.base import FeedState
from tests.kafka.apache_kafka import ApacheKafka
from tests.kafka.gatherer import Gatherer
from tests.kafka.reading import reading
from tests.kafka.topics import Topic

pytestmark = pytest.mark.real_kafka

TIMEOUT_S: Final = 30


@pytest.fixture
def topic(new_topic: Callable[[], Topic]) -> Topic:
    """A topic of two partitions."""
    topic = new_topic()
    topic.create(2)
    return topic


def tls(kafka: ApacheKafka) -> dict[str, Any]:
    return {"security.protocol": "ssl", "ssl.ca.location": str(kafka.ca_file)}


def sasl(kafka: ApacheKafka, mechanism: str, password: str, user: str = ApacheKafka.USER) -> dict[str, Any]:
    return {
        "security.protocol": "sasl_ssl",
        "ssl.ca.location": str(kafka.ca_file),
        "sasl.mechanism": mechanism,
        "sasl.username": user,
        "sasl.password": password,
    }


def test_tls_accepted(apache_kafka: ApacheKafka, topic: Topic) -> None:
    """With the right certificate authority everything is read."""
    with Gatherer(topic) as gatherer:
        gatherer.snapshot("A", 0)
        gatherer.flush()
        with reading(topic, servers=apache_kafka.tls_servers, extra=tls(apache_kafka)) as read:
            read.equals(gatherer)


def test_tls_refused(apache_kafka: ApacheKafka, topic: Topic) -> None:
    """A certificate that nobody vouches for is refused, and the reason says that it is the certificate."""
    with reading(topic, servers=apache_kafka.tls_servers, extra={"security.protocol": "ssl"}) as read:
        assert "certificate" in read.reaches(FeedState.AUTHENTICATION_FAILED).reason
        assert not read.store.ready


def test_plain_text_to_a_tls_port(apache_kafka: ApacheKafka, topic: Topic) -> None:
    """A feed that forgot TLS never connects; it says so instead of waiting in silence."""
    with reading(topic, servers=apache_kafka.tls_servers) as read:
        assert read.reaches(FeedState.BROKER_DOWN, FeedState.AUTHENTICATION_FAILED).reason
        assert not read.store.ready


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
def test_sasl_accepted(mechanism: str, apache_kafka: ApacheKafka, topic: Topic) -> None:
    """With the right password everything is read."""
    extra = sasl(apache_kafka, mechanism, ApacheKafka.PASSWORD)
    with Gatherer(topic) as gatherer:
        gatherer.snapshot("A", 0)
        gatherer.flush()
        with reading(topic, servers=apache_kafka.sasl_servers, extra=extra) as read:
            read.equals(gatherer)


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
def test_sasl_refused(mechanism: str, apache_kafka: ApacheKafka, topic: Topic) -> None:
    """A wrong password is a state of its own, and its reason does not give the password away."""
    extra = sasl(apache_kafka, mechanism, "hunter2-is-wrong")
    with reading(topic, servers=apache_kafka.sasl_servers, extra=extra) as read:
        health = read.reaches(FeedState.AUTHENTICATION_FAILED)
        assert "uthentication" in health.reason
        assert "hunter2" not in repr(health)
        assert not read.store.ready


def test_sasl_refused_until_the_user_exists(
    apache_kafka: ApacheKafka, admin: AdminClient, topic: Topic
) -> None:
    """A feed that was refused comes in, without a restart, once its user has been created."""
    user, password = topic.name, "new-password"
    extra = sasl(apache_kafka, "SCRAM-SHA-256", password, user)
    with Gatherer(topic) as gatherer:
        gatherer.snapshot("A", 0)
        gatherer.flush()
        with reading(topic, servers=apache_kafka.sasl_servers, extra=extra) as read:
            read.reaches(FeedState.AUTHENTICATION_FAILED)
            credential = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096)
            wish = UserScramCredentialUpsertion(user, credential, password.encode())
            admin.alter_user_scram_credentials([wish])[user].result(TIMEOUT_S)
            read.reaches(FeedState.LIVE)
            read.equals(gatherer)


def test_reading_is_forbidden_and_allowed_again(
    apache_kafka: ApacheKafka, admin: AdminClient, topic: Topic
) -> None:
    """A user that may not read the topic is told so, and reads it once it may."""
    rule = (ResourceType.TOPIC, topic.name, ResourcePatternType.LITERAL, f"User:{ApacheKafka.USER}", "*")
    denied = (AclOperation.READ, AclPermissionType.DENY)
    for done in admin.create_acls([AclBinding(*rule, *denied)]).values():
        done.result(TIMEOUT_S)
    extra = sasl(apache_kafka, "PLAIN", ApacheKafka.PASSWORD)
    with Gatherer(topic) as gatherer:
        gatherer.snapshot("A", 0)
        gatherer.flush()
        with reading(topic, servers=apache_kafka.sasl_servers, extra=extra) as read:
            assert topic.name in read.reaches(FeedState.AUTHENTICATION_FAILED).reason
            for removed in admin.delete_acls([AclBindingFilter(*rule, *denied)]).values():
                removed.result(TIMEOUT_S)
            read.reaches(FeedState.LIVE)
            read.equals(gatherer)
