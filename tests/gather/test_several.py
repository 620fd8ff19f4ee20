"""Three gatherers on one topic: different faults, one killed, and a reader whose books stay true."""

import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import trio

from kalshibook.feeds import EmbeddedBroker, KafkaFeed
from kalshibook.gather.gatherer import Gatherer
from kalshibook.simulator.ledger import FaultKind
from kalshibook.simulator.options import SimulatorOptions
from kalshibook.simulator.server import SimulatedExchange
from kalshibook.store import BookStore, Condition, StoreOptions
from tests.gather.gathering import EXCHANGE, TOPICS, gatherer_of, kafka_of, same_books, until
from tests.gather.test_kills import process

pytestmark = pytest.mark.trio

FAULTS = [FaultKind.LOST, FaultKind.CUT, FaultKind.OVERFLOW, FaultKind.REORDERED]


class Downtime:
    """How long each market's book could not be relied on."""

    def __init__(self, store: BookStore, tickers: list[str]) -> None:
        self.seconds = dict.fromkeys(tickers, 0.0)
        self._store = store
        self._seen = time.monotonic()

    async def watch(self) -> None:
        while True:
            await trio.sleep(0.005)
            now = time.monotonic()
            cut = self._store.cut()
            for ticker in self.seconds:
                book = cut.get(ticker)
                if book is None or book.copy is not Condition.LIVE:
                    self.seconds[ticker] += now - self._seen
            self._seen = now


@pytest.mark.timeout(300)
async def test_one_of_three_is_killed_and_the_others_carry_on(tmp_path: Path) -> None:
    """The books equal the truth after every fault, and after the death of the one that most followed."""
    source = random.Random(4)
    with EmbeddedBroker(TOPICS) as broker:
        async with SimulatedExchange(SimulatorOptions(**{**EXCHANGE, "markets": 20})) as exchange:
            store = BookStore(StoreOptions(source_silence_ms=500))
            feed = KafkaFeed(store, kafka_of(broker))
            feed.start()
            first = process(exchange, broker, tmp_path)
            try:
                await until(lambda: same_books(store, exchange))
                others: dict[str, Any] = {"peer_silence_ms": 300}
                async with (
                    gatherer_of(exchange, broker, source="g2", **others) as second,
                    gatherer_of(exchange, broker, source="g3", **others) as third,
                    trio.open_nursery() as nursery,
                ):
                    await until(lambda: second.pool.is_live and third.pool.is_live)
                    down = Downtime(store, exchange.tickers)
                    nursery.start_soon(down.watch)
                    for kind in FAULTS:
                        harm(exchange, kind, source)
                        exchange.step(200)
                        await until(lambda: same_books(store, exchange))
                    followed = sources(store)
                    assert "g1" in followed
                    first.send_signal(signal.SIGKILL)
                    exchange.step(200)
                    await until(lambda: "g1" not in sources(store) and same_books(store, exchange))
                    exchange.step(200)
                    await until(lambda: same_books(store, exchange))
                    assert store.statistics().incidents["source_changed"] >= followed["g1"]
                    nursery.cancel_scope.cancel()
                tell(down, second, third)
                assert max(down.seconds.values()) < 60
            finally:
                first.kill()
                await trio.to_thread.run_sync(first.wait)
                await trio.to_thread.run_sync(feed.stop)


def harm(exchange: SimulatedExchange, kind: FaultKind, source: random.Random) -> None:
    """Do harm to one connection for books, of whichever gatherer."""
    books = [
        number
        for number, session in exchange.venue.sessions.items()
        if any(held.channel.name == "orderbook_delta" for held in session.subscriptions)
    ]
    exchange.inject(kind, channel="orderbook_delta", connection=source.choice(books))


def sources(store: BookStore) -> dict[str, int]:
    """Count the markets by the gatherer that they follow."""
    found: dict[str, int] = {}
    for book in store.cut().values():
        if book.origin is not None:
            found[book.origin.source] = found.get(book.origin.source, 0) + 1
    return found


def tell(down: Downtime, *gatherers: Gatherer) -> None:
    for ticker, seconds in sorted(down.seconds.items()):
        print(f"{ticker}: {seconds * 1_000:,.0f} ms not live")  # noqa: T201 - what the test is for
    for gatherer in gatherers:
        print(gatherer.options.source, gatherer.ledger.counts())  # noqa: T201
