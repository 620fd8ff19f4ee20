"""The launcher itself: without a broker that does what it says, the suite proves nothing."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from tests.kafka import apache_kafka as launcher
from tests.kafka.apache_kafka import ApacheKafka, KafkaUnavailable
from tests.kafka.reading import eventually
from tests.kafka.topics import Topic

TIMEOUT_S = 30

needs_kafka = pytest.mark.real_kafka


def produce(topic: Topic, value: bytes) -> None:
    """Store a record in partition 0."""
    client = Producer({"bootstrap.servers": topic.bootstrap_servers, "acks": "all", "log_level": 0})
    client.produce(topic.name, value, partition=0)
    assert 0 == client.flush(TIMEOUT_S)


def topics_seen(servers: str, timeout: float = TIMEOUT_S, /, **settings: str) -> set[str]:
    """Return the topics that a client with these settings is shown."""
    config = {name.replace("_", "."): value for name, value in settings.items()}
    client = Producer({"bootstrap.servers": servers, "log_level": 0, **config})
    return set(client.list_topics(timeout=timeout).topics)


def answers(servers: str) -> bool:
    """Tell whether a broker is there."""
    try:
        topics_seen(servers, 1)
    except KafkaException:
        return False
    return True


def refusal(servers: str, **settings: str) -> int:
    """Return the code of the error by which a client with these settings is refused."""
    codes: list[int] = []
    config = {name.replace("_", "."): value for name, value in settings.items()}
    client = Producer(
        {
            "bootstrap.servers": servers,
            "log_level": 0,
            "error_cb": lambda error: codes.append(error.code()),
            **config,
        }
    )
    for _ in range(TIMEOUT_S):
        client.poll(1)
        # A node that hangs up in the middle of the handshake says nothing; the next attempt tells why.
        silent = {KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT}
        known = [code for code in codes if code not in silent]
        if known:
            return known[0]
    pytest.fail("the client was not refused")


@needs_kafka
@pytest.mark.parametrize("end", [ApacheKafka.stop, ApacheKafka.kill])
def test_records_survive(
    end: Callable[[ApacheKafka], None], apache_kafka: ApacheKafka, new_topic: Callable[[], Topic]
) -> None:
    """Stopped or killed and started again, the node is at the same address with its records."""
    topic = new_topic()
    topic.create(1)
    produce(topic, b"before")
    end(apache_kafka)
    try:
        with pytest.raises(KafkaException):
            Producer({"bootstrap.servers": apache_kafka.bootstrap_servers, "log_level": 0}).list_topics(
                timeout=1
            )
    finally:
        apache_kafka.start()
    produce(topic, b"after")
    assert [b"before", b"after"] == topic.values()


@needs_kafka
@pytest.mark.usefixtures("apache_kafka")
def test_node_does_not_outlive_its_starter(tmp_path: Path) -> None:
    """A process that starts a node and is cut off leaves no node behind."""
    script = (
        "import os, sys, pathlib; from tests.kafka.apache_kafka import ApacheKafka;"
        "kafka = ApacheKafka(pathlib.Path(sys.argv[1])); kafka.start();"
        "print(kafka.bootstrap_servers, flush=True); os._exit(0)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        timeout=2 * TIMEOUT_S,
    )
    eventually(lambda: not answers(ended.stdout.strip()), lambda: ended)


@needs_kafka
def test_topic_grows_and_forgets(new_topic: Callable[[], Topic]) -> None:
    """Partitions are added and old records dropped when asked for."""
    topic = new_topic()
    topic.create(1, retention_ms="3600000")
    produce(topic, b"old")
    produce(topic, b"new")
    topic.grow(3)
    topic.drop_before(0, 1)
    assert {0: 2, 1: 0, 2: 0} == topic.ends()
    with Consumer({"bootstrap.servers": topic.bootstrap_servers, "group.id": "x", "log_level": 0}) as client:
        assert (1, 2) == client.get_watermark_offsets(TopicPartition(topic.name, 0), timeout=TIMEOUT_S)


@needs_kafka
def test_tls(apache_kafka: ApacheKafka, new_topic: Callable[[], Topic]) -> None:
    """Who trusts the certificate is served, who does not notices."""
    topic = new_topic()
    topic.create(1)
    ca = str(apache_kafka.ca_file)
    assert topic.name in topics_seen(apache_kafka.tls_servers, security_protocol="ssl", ssl_ca_location=ca)
    assert KafkaError._SSL == refusal(apache_kafka.tls_servers, security_protocol="ssl")


@needs_kafka
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
def test_sasl(mechanism: str, apache_kafka: ApacheKafka, new_topic: Callable[[], Topic]) -> None:
    """The right password is accepted, a wrong one refused."""
    topic = new_topic()
    topic.create(1)
    settings = {
        "security_protocol": "sasl_ssl",
        "ssl_ca_location": str(apache_kafka.ca_file),
        "sasl_mechanism": mechanism,
        "sasl_username": ApacheKafka.USER,
    }
    right = {**settings, "sasl_password": ApacheKafka.PASSWORD}
    wrong = {**settings, "sasl_password": "guess"}
    assert topic.name in topics_seen(apache_kafka.sasl_servers, **right)
    assert KafkaError._AUTHENTICATION == refusal(apache_kafka.sasl_servers, **wrong)


def test_missing_java_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without Java the launcher says so instead of failing somewhere."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KafkaUnavailable, match="needs Java 17"):
        ApacheKafka(tmp_path)


def test_old_java_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A Java that is too old is named with its version."""
    tool = tmp_path / "bin" / "java"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n")
    tool.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(KafkaUnavailable, match=r"11\.0\.2"):
        ApacheKafka(tmp_path)


def test_missing_maven_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without Maven, and without jars resolved before, the launcher says so."""
    tool = tmp_path / "bin" / "java"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'openjdk version \"17.0.15\"' >&2\n")
    tool.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(launcher, "JARS", tmp_path / "jars")
    with pytest.raises(KafkaUnavailable, match="no mvn"):
        ApacheKafka(tmp_path)
