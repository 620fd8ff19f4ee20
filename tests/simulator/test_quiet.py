import os
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kalshibook.simulator.listing import MarketFilter, Page, decode_cursor, select
from kalshibook.simulator.quiet import QuietPond
from kalshibook.simulator.rows import RowWriter
from kalshibook.simulator.shapes import market_shape
from kalshibook.simulator.truth import TrueBook, total_checksum
from kalshibook.simulator.venue import Venue
from tests.simulator.watching import START_US, Watcher, sides_of, venue


def pond(count: int = 10_000, combos: float = 0.3) -> QuietPond:
    return QuietPond(count, combos, 1, START_US // 1_000_000)


def test_names_lead_back_to_their_markets() -> None:
    """Each market has a name and an id of its own, from which its place is reckoned."""
    quiet = pond()
    markets = [quiet.bare(ordinal) for ordinal in range(quiet.count)]
    assert list(range(quiet.count)) == [quiet.ordinal(market.ticker) for market in markets]
    assert quiet.count == len({market.market_id for market in markets})
    assert 3_000 == sum(market.is_combo for market in markets)
    for name in (
        "",
        "KXREED",
        "KXREED0000-00-T20",
        "KXREED9999-00-T00",
        "KXMVEREED0000-S00-20",
        markets[-1].ticker + "0",
    ):
        assert quiet.ordinal(name) is None


def test_books_are_always_the_same_and_never_crossed() -> None:
    """Whoever asks first, and however often, gets the same book, and it could be a real one."""
    quiet, again = pond(), pond()
    for ordinal in range(0, quiet.count, 7):
        market = quiet.market(ordinal)
        assert sides_of(TrueBook.of(market, 0)) == sides_of(TrueBook.of(again.market(ordinal), 0))
        assert market.room("yes") >= 0
        yes, no = quiet.tops(ordinal)
        assert (market.best("yes"), market.best("no")) == (yes, no)
        for side in ("yes", "no"):
            levels = market.levels("yes" if side == "yes" else "no")
            assert sorted(levels) == levels
            assert 1 <= len({price for price, _ in levels}) == len(levels)


def test_rows_are_what_the_shape_says() -> None:
    """What is written fast is what is written slowly."""
    exchange = venue(quiet_markets=10_000, combos=0.3)
    writer = RowWriter(exchange.model)
    for ordinal in range(0, 10_000, 501):
        market = exchange.model.at(ordinal)
        assert market is not None
        written = msgspec.json.decode(writer.page(Page([ordinal], "")))["markets"]
        assert (
            [market_shape(market)]
            == written
            == msgspec.json.decode(writer.page(Page([market], "")))["markets"]
        )


def test_a_quiet_market_that_changes_is_kept() -> None:
    """From its first change on it has its own book, in lists, sockets and truth."""
    exchange = venue(quiet_markets=100)
    before = exchange.checksum()
    ticker = exchange.model.quiet and exchange.model.quiet.names(40)[2]
    assert ticker
    watcher = Watcher(exchange)
    watcher.ask("subscribe", channels=["orderbook_delta"], market_tickers=[ticker])
    price = exchange.truth(ticker).yes[0][0]
    exchange.change(ticker, "yes", price, 11)
    watcher.hear()
    assert sides_of(exchange.truth(ticker)) == watcher.sides(ticker)
    assert before.checksum != exchange.checksum().checksum
    books = [exchange.truth(market.ticker) for market in exchange.model.listed()]
    assert total_checksum(books) == exchange.checksum().checksum
    exchange.change(ticker, "yes", price, -11)
    assert before.checksum == exchange.checksum().checksum
    exchange.pause(ticker)
    assert [ticker] == names(exchange, status="paused")
    exchange.delist(ticker)
    assert 104 == len(exchange.model) == len(names(exchange))
    assert ticker not in names(exchange)


def names(exchange: Venue, **wanted: Any) -> list[str]:
    """Return the tickers that a filter selects, page by page."""
    found: list[str] = []
    cursor = ""
    while True:
        page = select(exchange, MarketFilter(**wanted), decode_cursor(cursor), 13)
        for market in page.markets:
            held = exchange.model.at(market) if isinstance(market, int) else market
            assert held is not None
            found.append(held.ticker)
        cursor = page.cursor
        if not cursor:
            return found


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_a_million_markets_are_cheap() -> None:
    """A million listed markets cost next to nothing, and a subscription to 20,000 little."""

    def megabytes() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    before = megabytes()
    exchange = venue(quiet_markets=1_000_000, max_markets=20_000)
    assert 1_000_005 == len(exchange.model)
    last = select(exchange, MarketFilter(), 999_990, 1_000)
    assert ("", 15) == (last.cursor, len(last.markets))
    watcher = Watcher(exchange)
    quiet = exchange.model.quiet
    assert quiet is not None
    tickers = [quiet.names(ordinal)[2] for ordinal in range(0, 1_000_000, 50)]
    watcher.send("subscribe", channels=["orderbook_delta"], market_tickers=tickers)
    while frames := watcher.hear(131_072):
        assert len(frames) < 2_000
    for ticker in islice(tickers, 0, None, 997):
        assert sides_of(exchange.truth(ticker)) == watcher.sides(ticker)
    assert megabytes() - before < 200
