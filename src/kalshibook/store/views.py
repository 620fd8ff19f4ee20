"""
What traders ask of a book, in exact integers: spread, mid, depth, imbalance, cost of a quantity.

Prices are integers of $0.0001 and sizes of 0.01 contract, so their product, money, is an integer of
$0.000001 (a micro-dollar). Every function takes one side's point of view: of the contracts of one
outcome, bids are that side's own levels and asks the other side's levels at one dollar less their price.
"""

from collections.abc import Iterator
from itertools import islice

import msgspec

from kalshibook.numbers import ONE_DOLLAR
from kalshibook.store.book import Book, Quote
from kalshibook.store.ladder import Ladder
from kalshibook.wire import Side

__all__ = [
    "Fill",
    "asks",
    "bids",
    "cost_to_buy",
    "imbalance_ppm",
    "mid_half_ticks",
    "proceeds_of_sale",
    "spread",
]


class Fill(msgspec.Struct, frozen=True, gc=False):
    """What taking a quantity from a book would give."""

    size: int
    """0.01 contract that the book can fill; less than asked for when it is too thin."""
    micro_dollars: int
    """What that costs or brings, $0.000001, before fees."""
    worst_price: int | None
    """$0.0001 of the last level touched, or None when nothing is filled."""


def bids(book: Book, side: Side = "yes", depth: int | None = None) -> list[Quote]:
    """Return the bids for one outcome, best first, at most `depth` of them."""
    return _first(((level.price, level.size) for level in _own(book, side)), depth)


def asks(book: Book, side: Side = "yes", depth: int | None = None) -> list[Quote]:
    """Return the asks for one outcome, best first, at most `depth` of them."""
    return _first(((ONE_DOLLAR - level.price, level.size) for level in _other(book, side)), depth)


def spread(book: Book) -> int | None:
    """Return best ask less best bid in $0.0001, the same for YES and NO; None when a side is empty."""
    yes, no = book.yes.best, book.no.best
    return None if yes is None or no is None else ONE_DOLLAR - yes.price - no.price


def mid_half_ticks(book: Book, side: Side = "yes") -> int | None:
    """Return the middle of bid and ask in $0.00005, where it is always whole; None when a side is empty."""
    own, other = _own(book, side).best, _other(book, side).best
    return None if own is None or other is None else own.price + ONE_DOLLAR - other.price


def imbalance_ppm(book: Book, side: Side = "yes", depth: int | None = 1) -> int | None:
    """
    Return (bid size - ask size) / (bid size + ask size) over `depth` levels, in parts per million.

    Rounded towards 0; None when nothing rests.
    """
    bid_size = sum(quote.size for quote in bids(book, side, depth))
    ask_size = sum(quote.size for quote in asks(book, side, depth))
    if not bid_size + ask_size:
        return None
    share = abs(bid_size - ask_size) * 1_000_000 // (bid_size + ask_size)
    return share if bid_size >= ask_size else -share


def cost_to_buy(book: Book, size: int, side: Side = "yes") -> Fill:
    """Return what buying `size` (0.01 contract) of one outcome from the resting asks would cost."""
    return _filled(asks(book, side), size)


def proceeds_of_sale(book: Book, size: int, side: Side = "yes") -> Fill:
    """Return what selling `size` (0.01 contract) of one outcome to the resting bids would bring."""
    return _filled(bids(book, side), size)


def _own(book: Book, side: Side) -> Ladder:
    return book.yes if side == "yes" else book.no


def _other(book: Book, side: Side) -> Ladder:
    return book.no if side == "yes" else book.yes


def _first(pairs: Iterator[tuple[int, int]], depth: int | None) -> list[Quote]:
    if depth is not None and depth < 0:
        raise ValueError(f"depth {depth} is negative")
    return [Quote(price, size) for price, size in islice(pairs, depth)]


def _filled(quotes: list[Quote], size: int) -> Fill:
    if size < 0:
        raise ValueError(f"size {size} is negative; use the function for the other direction")
    left, paid, worst = size, 0, None
    for quote in quotes:
        if not left:
            break
        taken = min(left, quote.size)
        left -= taken
        paid += taken * quote.price
        worst = quote.price
    return Fill(size - left, paid, worst)
