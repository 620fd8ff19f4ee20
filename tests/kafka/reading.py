"""A store that is fed from a real Kafka, and waiting for what comes of it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from kalshibook.feeds.base import FeedHealth, FeedState
from kalshibook.feeds.kafka import KafkaFeed
from kalshibook.feeds.options import KafkaOptions
from kalshibook.store import BookStore
from tests.kafka.gatherer import Gatherer, books_of
from tests.kafka.topics import Topic

__all__ = ["Reading", "eventually", "reading"]

TIMEOUT_S: Final = 45
POLL_S: Final = 0.02

# Recovery is waited for often, so it is made quick; what recovers is the same.
QUICK: Final = {"reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 500}


def eventually(holds: Callable[[], bool], report: Callable[[], Any]) -> None:
    """Wait until something holds; fail with a report when it does not in time."""
    deadline = time.monotonic() + TIMEOUT_S
    pause = threading.Event()
    while not holds():
        assert time.monotonic() < deadline, report()
        pause.wait(POLL_S)


class Reading(NamedTuple):
    """A running feed and its store."""

    store: BookStore
    feed: KafkaFeed

    def reaches(self, *states: FeedState) -> FeedHealth:
        """Wait until the feed is in one of these states, and return its health."""
        eventually(lambda: self.feed.health().state in states, self.feed.health)
        return self.feed.health()

    def consumes(self, topic: Topic) -> None:
        """Wait until everything that the topic holds now is consumed."""
        wanted = {partition: end - 1 for partition, end in topic.ends().items() if end}
        eventually(lambda: self.store.cut().reaches(wanted), lambda: (wanted, self.feed.health()))

    def equals(self, gatherer: Gatherer) -> None:
        """Wait until everything is consumed, and insist on the gatherer's books, nothing lost or doubled."""
        self.consumes(gatherer.topic)
        assert gatherer.books == books_of(self.store.cut())
        statistics = self.store.statistics()
        assert len(gatherer.books) == statistics.live
        applied = {name: count for name, count in statistics.outcomes.items() if count}
        assert {"snapshot", "delta"} >= applied.keys()
        assert gatherer.published == sum(applied.values()) == self.feed.health().records


@contextmanager
def reading(topic: Topic, *, servers: str | None = None, **options: Any) -> Iterator[Reading]:
    """
    Run a feed on a topic.

    Args:
        topic: what is read.
        servers: where, if not at the topic's own address.
        options: of `KafkaOptions`; what is not given is set for quick tests.
    """
    options["extra"] = {"log_level": 0, **QUICK, **options.get("extra", {})}
    options.setdefault("partition_refresh_s", 1)
    store = BookStore()
    kafka = KafkaOptions(bootstrap_servers=servers or topic.bootstrap_servers, topic=topic.name, **options)
    with KafkaFeed(store, kafka) as feed:
        yield Reading(store, feed)
