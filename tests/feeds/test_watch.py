from typing import Any

import msgspec
import pytest
from confluent_kafka import KafkaError

from kalshibook.feeds import FeedState
from kalshibook.feeds.watch import BrokerWatch, state_of

UP = {"nodeid": 1, "state": "UP"}
TRYING = {"nodeid": 1, "state": "TRY_CONNECT"}
# A logical broker: it is up while its real one is, and says nothing of the partitions' leaders.
COORDINATOR = {"nodeid": -1, "state": "UP"}


@pytest.fixture
def watch() -> BrokerWatch:
    """A watch that has seen nothing yet."""
    return BrokerWatch("t")


def statistics(*brokers: dict[str, Any], **partitions: dict[str, Any]) -> str:
    """Return statistics as librdkafka writes them, as far as they are read."""
    topics = {"t": {"topic": "t", "partitions": {name[1:]: one for name, one in partitions.items()}}}
    brokers_by_name = {f"b{number}": broker for number, broker in enumerate(brokers)}
    return msgspec.json.encode({"brokers": brokers_by_name, "topics": topics, "ts": 1.5}).decode()


def trouble(watch: BrokerWatch) -> tuple[FeedState, str] | None:
    """Return the state and the reason of the trouble that is seen."""
    return None if watch.trouble is None else (watch.trouble.state, watch.trouble.reason)


class TestTrouble:
    def test_all_brokers_down(self, watch: BrokerWatch) -> None:
        """The reason of an outage is the last connection's error; a broker that is up ends it."""
        watch.on_error(KafkaError(KafkaError._TRANSPORT, "connection refused"))
        assert trouble(watch) is None
        watch.on_error(KafkaError(KafkaError._ALL_BROKERS_DOWN))
        assert (FeedState.BROKER_DOWN, "connection refused") == trouble(watch)
        watch.on_statistics(statistics(TRYING, UP))

        assert trouble(watch) is None

    def test_a_refused_login_is_not_hidden(self, watch: BrokerWatch) -> None:
        """After a refusal all brokers are down too, but the refusal is the reason."""
        watch.on_error(KafkaError(KafkaError._AUTHENTICATION, "wrong password"))
        watch.on_error(KafkaError(KafkaError._ALL_BROKERS_DOWN))
        watch.on_statistics(statistics(TRYING))

        assert (FeedState.AUTHENTICATION_FAILED, "wrong password") == trouble(watch)

    def test_a_connection_that_hangs(self, watch: BrokerWatch) -> None:
        """Without any broker for two statistics in a row the brokers are down, error or not."""
        watch.on_statistics(statistics(TRYING, COORDINATOR))
        assert trouble(watch) is None
        watch.on_statistics(statistics(TRYING, COORDINATOR))

        assert (FeedState.BROKER_DOWN, "no broker answers") == trouble(watch)

    @pytest.mark.parametrize("leader", [-1, 2, 3])
    def test_one_of_several_brokers_is_gone(self, watch: BrokerWatch, leader: int) -> None:
        """A partition that no connected broker serves is trouble, although others are read on."""
        others = {"broker": 1, "fetch_state": "active"}
        for number in range(2):
            assert trouble(watch) is None, number
            watch.on_statistics(
                statistics(UP, TRYING | {"nodeid": 2}, p0=others, p1=others | {"broker": leader})
            )
        found = trouble(watch)

        assert found is not None
        assert (FeedState.BROKER_DOWN, "partitions [1] cannot be read: no broker answers") == found
        watch.on_statistics(statistics(UP, p0=others, p1=others))
        assert trouble(watch) is None

    def test_a_partition_that_is_not_read_needs_no_broker(self, watch: BrokerWatch) -> None:
        """Partitions that are not assigned, or gone with their topic, are no trouble of the brokers."""
        for _ in range(3):
            watch.on_statistics(
                statistics(
                    UP,
                    p0={"fetch_state": "none"},
                    p1={"fetch_state": "active", "unknown": True},
                )
            )

        assert trouble(watch) is None

    @pytest.mark.parametrize(
        ("waiting", "idle_us", "hangs"), [(1, 7_000_000, False), (1, 8_000_000, True), (0, 10**9, False)]
    )
    def test_a_broker_that_hangs(self, watch: BrokerWatch, waiting: int, idle_us: int, hangs: bool) -> None:
        """A connected broker that leaves a request unanswered for seconds counts as gone; an idle one not."""
        watch.longest_wait_us = 2_500_000
        for _ in range(2):
            watch.on_statistics(statistics(UP | {"waitresp_cnt": waiting, "rxidle": idle_us}))

        assert hangs is (watch.trouble is not None)

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
    def test_partitions_and_ends(self, watch: BrokerWatch) -> None:
        """Partitions that are not read yet are known; an end that is not known is not told."""
        watch.on_statistics(
            statistics(
                UP,
                p0={"ls_offset": 17, "fetchq_cnt": 4},
                p1={"ls_offset": -1001, "fetchq_cnt": 0},
                **{"p-1": {"ls_offset": -1001, "fetchq_cnt": 9}},
            )
        )

        assert frozenset({0, 1}) == watch.known_partitions
        assert {0: 17} == watch.ends
        assert 4 == watch.queued

    def test_a_topic_that_vanishes(self, watch: BrokerWatch) -> None:
        """Only when every partition is unknown for two statistics in a row has the topic vanished."""
        gone, there = {"unknown": True}, {"unknown": False}
        for _ in range(3):
            watch.on_statistics(statistics(UP, p0=gone, p1=there))
            assert not watch.vanished
        watch.on_statistics(statistics(UP, p0=gone, p1=gone))
        assert not watch.vanished
        watch.on_statistics(statistics(UP, p0=gone, p1=gone))

        assert watch.vanished
