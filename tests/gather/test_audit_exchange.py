"""The audit of a gatherer at work: a simulated exchange, real sockets, REST behind a cache."""

from typing import Any

import pytest
import trio

from kalshibook.simulator.ledger import FaultKind
from kalshibook.simulator.server import SimulatedExchange
from kalshibook.store import BookStore
from tests.gather.gathering import until
from tests.gather.test_lives import living

pytestmark = pytest.mark.trio


def true_books(books: BookStore, exchange: SimulatedExchange) -> bool:
    """Tell whether a gatherer's own books are the exchange's, whatever their condition."""
    cut = books.cut()
    for ticker in exchange.tickers:
        truth = exchange.truth(ticker)
        yes, no = (
            tuple(sorted((level.price, level.size) for level in ladder))
            for ladder in (cut[ticker].yes, cut[ticker].no)
        )
        if (yes, no) != (truth.yes, truth.no):
            return False
    return True


async def test_busy_exchange_behind_a_cache_makes_no_alarm() -> None:
    """A thousand changes a second on ten markets, REST up to a second old, polled each second."""
    exchange = {"markets": 10, "messages_per_second": 1_000, "cache_seconds": 1.0, "combos": 0}
    async with living(exchange, moves=True, poll_seconds=1, audit_window_s=2) as (_, gatherer, _):
        auditor = gatherer.auditor
        assert auditor is not None
        await until(lambda: auditor.statistics().same >= 60, 60)
        found = auditor.statistics()

    assert (0, 0, 0) == (found.diverged, found.impossible, found.refreshed_differently)
    assert 0 == gatherer.incidents.counts()["diverged"]


async def test_wrong_change_is_found_and_healed() -> None:
    """Off by a hundredth of a contract, with all numbers right: REST shows it, within two polls."""
    options: dict[str, Any] = {
        "poll_seconds": 1,
        "audit_window_s": 0.3,
        "own_books": True,
        "book_connections": 1,
    }
    async with living(**options) as (exchange, gatherer, _):
        auditor, books = gatherer.auditor, gatherer.books
        assert auditor is not None
        assert books is not None
        polls = gatherer.poller
        assert polls is not None
        exchange.inject(FaultKind.WRONG_DELTA, channel="orderbook_delta")
        ticker = exchange.tickers[0]
        before = polls.statistics().rounds
        exchange.change(ticker, "yes", 100, 1_000)
        await until(lambda: not true_books(books, exchange))
        await until(lambda: gatherer.incidents.counts()["diverged"] > 0)

        assert polls.statistics().rounds <= before + 3
        await until(lambda: true_books(books, exchange))
        assert 1 == auditor.statistics().diverged
        # And it stays so: reported once, healed once.
        await trio.sleep(2)
        assert 1 == auditor.statistics().diverged


async def test_books_that_no_socket_heals_come_over_rest() -> None:
    """All sockets are refused for long: readers see the exchange's books all the same, in doubt."""
    options: dict[str, Any] = {"poll_seconds": 1, "book_connections": 1, "lifecycle_connections": 1}
    async with living(**options) as (exchange, gatherer, store):
        ticker = exchange.tickers[0]
        # Each attempt to connect meets another one of these.
        exchange.inject("unauthorized", count=2_000)
        for one in gatherer.pool.connections:
            one.drop("disconnected", "for a test")
        exchange.change(ticker, "yes", 100, 1_234)
        truth = exchange.truth(ticker).yes

        def shown() -> bool:
            book = store.cut()[ticker]
            return tuple(sorted((level.price, level.size) for level in book.yes)) == truth

        await until(lambda: bool(gatherer.pool.unhealed()))
        await until(shown)
        book = store.cut()[ticker]
        assert "stale" == book.copy
        assert "this is its book over REST" in str(book.stale_reason)
        assert gatherer.poller is not None
        assert 20 <= gatherer.poller.statistics().published
        # And when a socket is let in again, all is whole.
        exchange.venue.faults._unauthorized.clear()
        await until(lambda: store.cut()[ticker].copy == "live")
