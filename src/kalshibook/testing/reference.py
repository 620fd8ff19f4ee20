"""
The plainest possible book, to compare a store with: two dicts, decimals, nothing shared with the library.

It decodes JSON by the standard library and adds up `Decimal` strings, so a mistake in the library's
own parsing or arithmetic cannot hide in it. It is slow, and meant to be.
"""

import json
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from kalshibook.store import Book

__all__ = ["ReferenceBook", "compare", "compare_all", "fold"]


class ReferenceBook:
    """
    One market's book as a plain reader of the frames would keep it.

    Example:
        >>> book = ReferenceBook()
        >>> book.apply({"type": "orderbook_snapshot", "msg": {"yes_dollars_fp": [["0.4000", "75.50"]]}})
        >>> book.apply(
        ...     {"type": "orderbook_delta", "msg": {"side": "no", "price_dollars": "0.55", "delta_fp": "2"}}
        ... )
        >>> book.sides
        {'yes': {Decimal('0.4000'): Decimal('75.50')}, 'no': {Decimal('0.55'): Decimal('2')}}
    """

    def __init__(self) -> None:
        self.sides: dict[str, dict[Decimal, Decimal]] = {"yes": {}, "no": {}}
        """Side to price in dollars to resting contracts; no zeros."""
        self.known = False
        """Whether there was a snapshot; a change before it is not applied."""

    def apply(self, frame: Mapping[str, Any]) -> None:
        """
        Take one frame; those that are not about the book change nothing.

        Raises:
            ValueError: a change takes away more than rests.
        """
        message = frame.get("msg", {})
        if frame["type"] == "orderbook_snapshot":
            self.known = True
            for side, levels in self.sides.items():
                levels.clear()
                for price, size in message.get(f"{side}_dollars_fp", ()):
                    levels[Decimal(price)] = Decimal(size)
        elif frame["type"] == "orderbook_delta" and self.known:
            levels = self.sides[message["side"]]
            price = Decimal(message["price_dollars"])
            size = levels.pop(price, Decimal(0)) + Decimal(message["delta_fp"])
            if size < 0:
                raise ValueError(f"{frame} takes away more than rests")
            if size > 0:
                levels[price] = size

    def levels(self, side: str) -> dict[int, int]:
        """Return one side in the library's numbers: price in $0.0001 to size in 0.01 contract."""
        return {int(price * 10_000): int(size * 100) for price, size in self.sides[side].items()}


def fold(
    frames: Iterable[bytes | str], into: dict[str, ReferenceBook] | None = None
) -> dict[str, ReferenceBook]:
    """
    Apply frames in their order and return every market's book.

    Args:
        frames: as the exchange sent them.
        into: books to go on with, from an earlier call; they are changed.
    """
    books = {} if into is None else into
    for text in frames:
        frame = json.loads(text)
        ticker = frame.get("msg", {}).get("market_ticker")
        if ticker is not None:
            if ticker not in books:
                books[ticker] = ReferenceBook()
            books[ticker].apply(frame)
    return books


def compare(book: Book, reference: ReferenceBook) -> list[str]:
    """
    Say in which levels, and in which best prices, a book differs from its reference.

    Returns:
        One line per difference; empty when they are equal.
    """
    differences: list[str] = []
    for side, ladder in (("yes", book.yes), ("no", book.no)):
        held = {level.price: level.size for level in ladder}
        expected = reference.levels(side)
        differences.extend(
            f"{book.ticker} {side} at {price}: {held.get(price)}, expected {expected.get(price)}"
            for price in sorted(held.keys() | expected.keys())
            if held.get(price) != expected.get(price)
        )
        best, found = max(expected, default=None), ladder.best
        if (None if found is None else found.price) != best:
            differences.append(f"{book.ticker} best {side}: {found}, expected {best}")
    return differences


def compare_all(books: Mapping[str, Book], references: Mapping[str, ReferenceBook]) -> list[str]:
    """
    Say in which markets, levels and best prices a store's cut differs from the references.

    Returns:
        One line per difference; empty when they are equal.
    """
    differences = [f"{ticker} is not expected" for ticker in books if ticker not in references]
    for ticker, reference in references.items():
        if ticker in books:
            differences.extend(compare(books[ticker], reference))
        else:
            differences.append(f"{ticker} is missing")
    return differences
