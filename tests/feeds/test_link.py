"""What librdkafka says of itself, and what the feed makes of it; no broker is asked."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from confluent_kafka import KafkaError

from kalshibook.feeds import FeedState, KafkaOptions
from kalshibook.feeds.link import KafkaLink, connection_settings, state_of

UP = {"nodeid": 1, "state": "UP"}
TRYING = {"nodeid": 1, "state": "TRY_CONNECT"}
# A logical broker: it is up while its real one is, and says nothing of the partitions' leaders.
COORDINATOR = {"nodeid": -1, "state": "UP"}


@pytest.fixture
def link() -> Iterator[KafkaLink]:
    """A link to nobody."""
    link = KafkaLink(KafkaOptions(bootstrap_servers="127.0.0.1:1", topic="t", extra={"log_level": 0}))
    yield link
    link.close()


def statistics(*brokers: dict[str, Any], **partitions: dict[str, Any]) -> str:
    """Return statistics as librdkafka writes them, as far as they are read."""
    topics = {"t": {"topic": "t", "partitions": {name[1:]: one for name, one in partitions.items()}}}
    brokers_by_name = {f"b{number}": broker for number, broker in enumerate(brokers)}
    return msgspec.json.encode({"brokers": brokers_by_name, "topics": topics, "ts": 1.5}).decode()


def trouble(link: KafkaLink) -> tuple[FeedState, str] | None:
    """Return the state and the reason of the link's trouble."""
    return None if link.trouble is None else (link.trouble.state, link.trouble.reason)


class TestTrouble:
    def test_all_brokers_down(self, link: KafkaLink) -> None:
        """The reason of an outage is the last connection's error; a broker that is up ends it."""
        link._on_error(KafkaError(KafkaError._TRANSPORT, "connection refused"))
        assert trouble(link) is None
        link._on_error(KafkaError(KafkaError._ALL_BROKERS_DOWN))
        assert (FeedState.BROKER_DOWN, "connection refused") == trouble(link)
        link._on_statistics(statistics(TRYING, UP))

        assert trouble(link) is None

    def test_a_refused_login_is_not_hidden(self, link: KafkaLink) -> None:
        """After a refusal all brokers are down too, but the refusal is the reason."""
        link._on_error(KafkaError(KafkaError._AUTHENTICATION, "wrong password"))
        link._on_error(KafkaError(KafkaError._ALL_BROKERS_DOWN))
        link._on_statistics(statistics(TRYING))

        assert (FeedState.AUTHENTICATION_FAILED, "wrong password") == trouble(link)

    def test_a_connection_that_hangs(self, link: KafkaLink) -> None:
        """Without any broker for two statistics in a row the brokers are down, error or not."""
        link._on_statistics(statistics(TRYING, COORDINATOR))
        assert trouble(link) is None
        link._on_statistics(statistics(TRYING, COORDINATOR))

        assert (FeedState.BROKER_DOWN, "no broker is connected") == trouble(link)

    @pytest.mark.parametrize(
        ("code", "expected"),
        [
            (KafkaError.SASL_AUTHENTICATION_FAILED, FeedState.AUTHENTICATION_FAILED),
            (KafkaError.TOPIC_AUTHORIZATION_FAILED, FeedState.AUTHENTICATION_FAILED),
            (KafkaError._SSL, FeedState.AUTHENTICATION_FAILED),
            (KafkaError.UNKNOWN_TOPIC_OR_PART, FeedState.TOPIC_MISSING),
            (KafkaError._UNKNOWN_TOPIC, FeedState.TOPIC_MISSING),
            (KafkaError._TRANSPORT, FeedState.BROKER_DOWN),
            (KafkaError.LEADER_NOT_AVAILABLE, FeedState.BROKER_DOWN),
        ],
    )
    def test_states_of_errors(self, code: int, expected: FeedState) -> None:
        """Each error belongs to the state that tells people where to look."""
        assert expected is state_of(KafkaError(code))


class TestTopic:
    def test_partitions_and_ends(self, link: KafkaLink) -> None:
        """Partitions that are not read yet are known; an end that is not known is not told."""
        link._on_statistics(
            statistics(
                UP,
                p0={"ls_offset": 17, "fetchq_cnt": 4},
                p1={"ls_offset": -1001, "fetchq_cnt": 0},
                **{"p-1": {"ls_offset": -1001, "fetchq_cnt": 9}},
            )
        )

        assert frozenset({0, 1}) == link.known_partitions
        assert {0: 17} == link.ends
        assert 4 == link.queued

    def test_a_topic_that_vanishes(self, link: KafkaLink) -> None:
        """Only when every partition is unknown for two statistics in a row has the topic vanished."""
        gone, there = {"unknown": True}, {"unknown": False}
        for _ in range(3):
            link._on_statistics(statistics(UP, p0=gone, p1=there))
            assert not link.vanished
        link._on_statistics(statistics(UP, p0=gone, p1=gone))
        assert not link.vanished
        link._on_statistics(statistics(UP, p0=gone, p1=gone))

        assert link.vanished


def test_settings_are_passed_on() -> None:
    """Extra settings go to librdkafka as they are, but for booleans, which it writes in small letters."""
    options = KafkaOptions(
        bootstrap_servers="a:1,b:2", extra={"sasl.password": "p$ @", "enable.x": True, "n": 3}
    )
    settings = connection_settings(options)

    assert {"bootstrap.servers": "a:1,b:2", "sasl.password": "p$ @", "enable.x": "true", "n": 3} == {
        name: value for name, value in settings.items() if name != "logger"
    }
