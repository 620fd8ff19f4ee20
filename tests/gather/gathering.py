"""A simulated exchange, a broker, a gatherer and a reader, all in this process."""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import trio

from kalshibook.feeds import EmbeddedBroker, KafkaFeed, KafkaOptions
from kalshibook.gather.gatherer import Gatherer
from kalshibook.gather.options import GatherOptions
from kalshibook.simulator.options import SimulatorOptions
from kalshibook.simulator.server import SimulatedExchange
from kalshibook.store import BookStore

__all__ = ["TOPICS", "gatherer_of", "gathering", "kafka_of", "same_books", "store_of", "until"]

TIMEOUT_S: Final = 90
TOPICS: Final = {"market-data-all": 3, "market-data-gaps": 1}

EXCHANGE: Final[dict[str, Any]] = {
    "open": True,
    "markets": 30,
    # Its clock all but stands still: only `step` moves it, and in between everything is as it was.
    "messages_per_second": 1_000,
    "speed": 1e-6,
    "short_lived": 0,
    "subscription_commands_per_second": 10_000,
}
GATHERER: Final[dict[str, Any]] = {
    "backoff_first_s": 0.02,
    "backoff_limit_s": 0.2,
    "book_connections": 2,
    "heartbeat_ms": 50,
    "refresh_minutes": 0,
    "source": "g1",
}


async def until(condition: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
    """Wait until something is true."""
    with trio.fail_after(timeout_s):
        while not condition():  # noqa: ASYNC110 - what changes it sets no event
            await trio.sleep(0.005)


def kafka_of(broker: EmbeddedBroker, **more: int) -> KafkaOptions:
    """Return the settings for both ends of the topic."""
    more = {name.replace("_", "."): value for name, value in more.items()}
    extra = {**EmbeddedBroker.CONSUMER_SETTINGS, "retry.backoff.ms": 50, **more}
    return KafkaOptions(bootstrap_servers=str(broker), start="beginning", extra=extra)


def gatherer_of(
    exchange: SimulatedExchange,
    broker: EmbeddedBroker,
    markets: Iterable[str] | None = None,
    kafka: KafkaOptions | None = None,
    **options: Any,
) -> Gatherer:
    """Make a gatherer of an exchange's markets."""
    found = GatherOptions(
        **{
            "environment": "custom",
            "rest_url": exchange.rest_url,
            "stream_url": exchange.stream_url,
            **GATHERER,
            **options,
        }
    )
    chosen = exchange.tickers if markets is None else markets
    return Gatherer(found, kafka or kafka_of(broker), markets=chosen, seed=1)


@asynccontextmanager
async def gathering(
    exchange: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[tuple[SimulatedExchange, EmbeddedBroker, Gatherer]]:
    """Run a gatherer against a simulated exchange, and wait until it is live."""
    with EmbeddedBroker(TOPICS) as broker:
        async with (
            SimulatedExchange(SimulatorOptions(**{**EXCHANGE, **(exchange or {})})) as simulated,
            gatherer_of(simulated, broker, **options) as gatherer,
        ):
            with trio.fail_after(TIMEOUT_S):
                await gatherer.wait_live()
            yield simulated, broker, gatherer


@contextmanager
def store_of(broker: EmbeddedBroker) -> Iterator[BookStore]:
    """Read the topic into a store during the block."""
    store = BookStore()
    feed = KafkaFeed(store, kafka_of(broker))
    feed.start()
    try:
        yield store
    finally:
        feed.stop()


def same_books(store: BookStore, exchange: SimulatedExchange, tickers: Iterable[str] | None = None) -> bool:
    """Tell whether a store holds the exchange's books, all of them live."""
    cut = store.cut()
    for ticker in exchange.tickers if tickers is None else tickers:
        book = cut.get(ticker)
        if book is None or book.copy != "live":
            return False
        truth = exchange.truth(ticker)
        yes = tuple(sorted((level.price, level.size) for level in book.yes))
        no = tuple(sorted((level.price, level.size) for level in book.no))
        if (yes, no) != (truth.yes, truth.no):
            return False
    return True
