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
