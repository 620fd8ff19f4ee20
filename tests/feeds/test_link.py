import pytest

from kalshibook.errors import FeedError
from kalshibook.feeds import EmbeddedBroker, FeedState, KafkaOptions
from kalshibook.feeds.link import KafkaLink, connection_settings
from kalshibook.feeds.positions import Bounds
from kalshibook.feeds.watch import Unavailable
from tests.feeds.reading import options_for, produce


def test_unfit_setting_is_named() -> None:
    """A value that librdkafka refuses is an error that names the setting."""
    with pytest.raises(FeedError, match=r"fetch\.wait\.max\.ms"):
        KafkaLink(KafkaOptions(extra={"fetch.wait.max.ms": "soon"}))


def test_answers(broker: EmbeddedBroker) -> None:
    """Partitions, what is kept of each, and the embedded broker's silence about times."""
    produce(broker, b"x", partition=1)
    link = KafkaLink(options_for(broker))

    assert [0, 1, 2] == link.partitions()
    assert {0: Bounds(0, 0), 1: Bounds(0, 1)} == link.bounds([0, 1])
    assert {1: -1} == link.offsets_at([1], 0)
    link.close()


def test_missing_topic(broker: EmbeddedBroker) -> None:
    """A topic that is not there is a state that names it, and asking does not make it."""
    link = KafkaLink(options_for(broker, topic="later"))
    for _ in range(2):
        with pytest.raises(Unavailable, match="'later'") as found:
            link.partitions()
        assert FeedState.TOPIC_MISSING is found.value.state
    link.close()


def test_settings_are_passed_on() -> None:
    """Extra settings go to librdkafka as they are, but for booleans, which it writes in small letters."""
    options = KafkaOptions(
        bootstrap_servers="a:1,b:2", extra={"sasl.password": "p$ @", "enable.x": True, "n": 3}
    )
    settings = connection_settings(options)

    assert {"bootstrap.servers": "a:1,b:2", "sasl.password": "p$ @", "enable.x": "true", "n": 3} == {
        name: value for name, value in settings.items() if name != "logger"
    }
