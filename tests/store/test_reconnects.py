"""Many connections one after the other: every sid used again, nothing doubted that is sound."""

import random
from collections import Counter

from kalshibook.store import Arrival, BookStore
from kalshibook.wire import BookDelta, BookSnapshot
from tests.store.builders import levels

SID = 1
MARKETS = [f"KXAGAIN-{number}" for number in range(40)]
CONNECTIONS = 300
MESSAGES = 300


class Connection:
    """One socket epoch: a new connection id, numbers from 1, the same sid as every time."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sequence = 0
        self.last: dict[str, int] = {}

    def arrival(self, ticker: str, time_us: int, offset: int) -> Arrival:
        """Return the next message's, as a gatherer numbers it."""
        self.sequence += 1
        previous, self.last[ticker] = self.last.get(ticker, 0), self.sequence
        return Arrival(
            "g1", self.name, SID, self.sequence, previous, time_us, time_us, time_us, time_us, 0, offset
        )


def test_no_false_alarm_over_hundreds_of_reconnects() -> None:
    """
    After 300 connections every book is live and right, and not one incident stands in the log.

    Each begins with snapshots in any order, some of its last messages come after the next has begun,
    as they do when two sockets overlap, and are told apart as old.
    """
    choice, store = random.Random(13), BookStore()
    sizes = dict.fromkeys(MARKETS, 0)
    outcomes: Counter[str] = Counter()
    late: list[tuple[BookDelta, Arrival]] = []
    time_us = offset = 0
    with store.writer() as writer:
        for number in range(CONNECTIONS):
            connection = Connection(f"c{number}")
            for ticker in choice.sample(MARKETS, len(MARKETS)):
                time_us, offset = time_us + 1_000, offset + 1
                sizes[ticker] = choice.randint(1_000, 2_000)
                snapshot = BookSnapshot(ticker, ((4_000, sizes[ticker]),), (), time_us)
                outcomes[writer.apply(snapshot, connection.arrival(ticker, time_us, offset))] += 1
            for delta, arrival in late:
                outcomes[writer.apply(delta, arrival)] += 1
            late.clear()
            for message in range(MESSAGES):
                time_us, offset = time_us + 1_000, offset + 1
                ticker, change = choice.choice(MARKETS), choice.randint(1, 9)
                delta = BookDelta(ticker, "yes", 4_000, change, time_us)
                arrival = connection.arrival(ticker, time_us, offset)
                if message >= MESSAGES - 5:
                    late.append((delta, arrival))
                    continue
                sizes[ticker] += change
                outcomes[writer.apply(delta, arrival)] += 1
            writer.commit()

    assert sizes == {book.ticker: levels(book.yes)[4_000] for book in store.cut().books()}
    assert len(MARKETS) == store.cut().counts.live
    assert {
        "snapshot": CONNECTIONS * len(MARKETS),
        "delta": CONNECTIONS * (MESSAGES - 5),
        "replayed": (CONNECTIONS - 1) * 5,
    } == outcomes
    assert [] == store.incidents.recent()
