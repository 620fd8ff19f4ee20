"""A process that is a Kafka broker: the embedded one, for load tests."""

from kalshibook.feeds import EmbeddedBroker
from perf.clients.worker import answer_commands, settings


def main(topics: dict[str, int]) -> None:
    """Serve until standard input ends."""
    with EmbeddedBroker(topics) as broker:
        answer_commands({}, {"address": str(broker)})


if __name__ == "__main__":
    main(**settings())
