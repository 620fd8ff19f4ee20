"""The gatherer's own books, fed by hand."""

from kalshibook.gather.owned import OwnBooks
from kalshibook.gather.records import Received
from kalshibook.testing import FrameFactory


def test_a_change_that_cannot_be_read_has_its_market_asked_for() -> None:
    """No reader can read it either; a trade that cannot be read is no part of a book."""
    made, asked = FrameFactory(), list[tuple[str, str]]()
    books = OwnBooks("g1", on_divergence=lambda ticker, reason: asked.append((ticker, reason)))
    books.start()
    snapshot = made.snapshot("A", yes=[(40, 10)])
    books.offer(Received(snapshot, "c1", 1, "orderbook_snapshot", 1, 1))
    delta = b'{"type":"orderbook_delta","sid":1,"seq":2,"msg":{"market_ticker":"A","side":"maybe"}}'
    trade = b'{"type":"trade","sid":2,"seq":1,"msg":{"market_ticker":"A"}}'
    books.offer(Received(trade, "c1", 2, "trade", 2, 1))
    assert not asked
    books.offer(Received(delta, "c1", 3, "orderbook_delta", 1, 2))
    assert [("A", "rejected")] == asked
    book = books.store.cut().get("A")
    assert book is not None
    assert "stale" == book.copy
    books.stop()
