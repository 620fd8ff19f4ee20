from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition
from hypothesis import given, strategies as st

from kalshibook.errors import FeedError
from kalshibook.feeds import EmbeddedBroker, KafkaFeed, KafkaOptions
from kalshibook.feeds.quarantine import (
    FileQuarantine,
    NoQuarantine,
    Quarantine,
    QuarantinedRecord,
    TopicQuarantine,
    open_quarantine,
)
from kalshibook.store import BookStore
from tests.feeds.reading import TIMEOUT_S, options_for, produce

PRODUCE = 0


def rejected(value: bytes = b"no envelope", **fields: Any) -> QuarantinedRecord:
    """Return a record to keep."""
    place: dict[str, Any] = {"topic": "t", "partition": 1, "offset": 2, "key": b"A"}
    return QuarantinedRecord.of(value, **{**place, "reason": "why", "time_us": 3, **fields})


@pytest.fixture
def losses() -> list[str]:
    """What a quarantine said of its losses."""
    return []


class TestRecord:
    @given(st.binary() | st.text().map(str.encode), st.none() | st.binary())
    def test_value_survives(self, value: bytes, key: bytes | None) -> None:
        """Whatever the bytes were, they come back from the JSON to the last one."""
        encoded = msgspec.json.encode(rejected(value, key=key))

        assert value == msgspec.json.decode(encoded, type=QuarantinedRecord).value()

    def test_text_is_readable(self) -> None:
        """A value that is text is kept as text, so that people can read it."""
        fields = msgspec.json.decode(msgspec.json.encode(rejected(b'{"a": 1}')))

        assert '{"a": 1}' == fields["text"]
        assert "base64" not in fields
        assert ("t", 1, 2, "A", "why", 3) == tuple(
            fields[name] for name in ("topic", "partition", "offset", "key", "reason", "time_us")
        )


class TestFile:
    def test_appends(self, tmp_path: Path, losses: list[str]) -> None:
        """Lines of an earlier run stay."""
        path = tmp_path / "rejected.ndjson"
        for offset in (1, 2):
            quarantine = FileQuarantine(str(path), 10_000, losses.append)
            quarantine.put(rejected(offset=offset))
            quarantine.close()

        lines = path.read_bytes().splitlines()
        assert [1, 2] == [msgspec.json.decode(line, type=QuarantinedRecord).offset for line in lines]

    def test_is_bounded(self, tmp_path: Path, losses: list[str]) -> None:
        """What does not fit is counted, told once, and leaves whole lines; an earlier run's bytes count."""
        path = tmp_path / "rejected.ndjson"
        limit = 2 * len(msgspec.json.encode(rejected())) + 2
        first = FileQuarantine(str(path), limit, losses.append)
        first.put(rejected())
        first.close()
        quarantine = FileQuarantine(str(path), limit, losses.append)
        for _ in range(3):
            quarantine.put(rejected())
        quarantine.close()

        assert (1, 2) == (quarantine.kept, quarantine.lost)
        assert limit == path.stat().st_size
        assert 1 == len(losses)
        assert str(path) in losses[0]

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
    def test_survives_a_full_disk(self, losses: list[str]) -> None:
        """A disk that takes nothing is a loss that is counted, not an error."""
        quarantine = FileQuarantine("/dev/full", 10_000, losses.append)
        quarantine.put(rejected())
        quarantine.close()

        assert (0, 1) == (quarantine.kept, quarantine.lost)
        assert ["/dev/full" in reason for reason in losses] == [True]


def values_of(broker: EmbeddedBroker, topic: str, count: int) -> Iterator[bytes]:
    """Read the first records of partition 0."""
    settings = {"bootstrap.servers": str(broker), "group.id": "x", **EmbeddedBroker.CONSUMER_SETTINGS}
    with Consumer(settings) as consumer:
        consumer.assign([TopicPartition(topic, 0, 0)])
        for _ in range(count):
            message = consumer.poll(TIMEOUT_S)
            assert message is not None
            value = message.value()
            assert value is not None
            yield value


class TestTopic:
    def test_keeps_what_a_feed_rejects(self, broker: EmbeddedBroker, store: BookStore) -> None:
        """A record that cannot be read stands in the topic, with its place and its bytes."""
        broker.create_topic("rejected", 1)
        produce(broker, b"\xff\x00", key="A", partition=2)
        with KafkaFeed(store, options_for(broker, quarantine_topic="rejected")) as feed:
            assert feed.wait_ready(TIMEOUT_S)
            (value,) = values_of(broker, "rejected", 1)
        record = msgspec.json.decode(value, type=QuarantinedRecord)

        assert b"\xff\x00" == record.value()
        assert ("market-data-all", 2, 0, "A") == (record.topic, record.partition, record.offset, record.key)
        assert (1, 1, 0) == (
            feed.health().rejected,
            feed.health().quarantined,
            feed.health().quarantine_lost,
        )

    def test_refused_records_are_counted(self, broker: EmbeddedBroker, losses: list[str]) -> None:
        """A record that the broker does not take is lost, and that is told."""
        broker.create_topic("rejected", 1)
        broker.push_errors(PRODUCE, [KafkaError.TOPIC_AUTHORIZATION_FAILED] * 2)
        settings = {"bootstrap.servers": str(broker), "linger.ms": 500}
        quarantine = TopicQuarantine("rejected", 10_000, settings, losses.append)
        quarantine.put(rejected())
        quarantine.put(rejected())
        quarantine._producer.flush(TIMEOUT_S)
        quarantine.close()

        assert (0, 2) == (quarantine.kept, quarantine.lost)
        assert 1 == len(losses)

    def test_is_bounded_and_ends_without_a_broker(self, broker: EmbeddedBroker, losses: list[str]) -> None:
        """With no broker records wait up to the limit; the rest, and at the end all, are counted as lost."""
        broker.down()
        quarantine = TopicQuarantine(
            "rejected", 2_048, {"bootstrap.servers": str(broker), "log_level": 0}, losses.append
        )
        for _ in range(30):
            quarantine.put(rejected(b"x" * 100))
        assert quarantine.lost > 0
        quarantine.close()

        assert (0, 30) == (quarantine.kept, quarantine.lost)
        assert 1 == len(losses)


class TestOpening:
    def test_by_the_options(self, tmp_path: Path, losses: list[str]) -> None:
        """One setting chooses a file, another a topic, none nothing."""
        connection = {"bootstrap.servers": "127.0.0.1:1", "log_level": 0}
        cases: list[tuple[KafkaOptions, type[Quarantine]]] = [
            (KafkaOptions(), NoQuarantine),
            (KafkaOptions(quarantine_file=str(tmp_path / "a")), FileQuarantine),
            (KafkaOptions(quarantine_topic="a"), TopicQuarantine),
        ]
        for options, kind in cases:
            quarantine = open_quarantine(options, connection, losses.append)
            quarantine.poll()
            quarantine.close()
            assert kind is type(quarantine)

    def test_unknown_setting_is_named(self, losses: list[str]) -> None:
        """What librdkafka refuses is an error that names it."""
        with pytest.raises(FeedError, match=r"no\.such\.setting"):
            TopicQuarantine("t", 1_000, {"no.such.setting": "1"}, losses.append)
