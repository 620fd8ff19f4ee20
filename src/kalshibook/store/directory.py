"""
Ticker to number: one append-only table shared by all versions of a store.

A version knows how many markets existed in it, and a number never changes hands, so an old
version stays consistent although the table grows: what it does not know has a higher number. A
persistent map would cost every look-up ten times as much and give nothing more.
"""

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from typing import Final

__all__ = ["Directory"]


class Directory:
    """All tickers ever seen. One thread adds; any thread reads."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self.number: Final[Callable[[str], int | None]] = self._numbers.get
        """Return a ticker's number, or None."""
        self._sorted: list[str] = []
        self._sorting = threading.Lock()

    def __len__(self) -> int:
        """Count the tickers."""
        return len(self._numbers)

    def split(self, tickers: Iterable[str], count: int) -> tuple[list[int], list[str]]:
        """Return the numbers below `count` of the tickers that have one, and the other tickers."""
        get = self._numbers.get
        numbers: list[int] = []
        missing: list[str] = []
        for ticker in tickers:
            number = get(ticker, count)
            if number < count:
                numbers.append(number)
            else:
                missing.append(ticker)
        return numbers, missing

    def add(self, ticker: str) -> int:
        """Number a new ticker. Only the store's writer may call this."""
        number = len(self._numbers)
        self._numbers[ticker] = number
        return number

    def sorted(self) -> list[str]:
        """Return all tickers in order; the list is shared and must not be changed."""
        with self._sorting:
            known = len(self._sorted)
            if known != len(self._numbers):
                # Timsort joins the sorted run and the few new ones in one pass. The old list is
                # replaced, not changed: another reader may be walking it.
                fresh = list(self._numbers)[known:]
                self._sorted = sorted(self._sorted + fresh)
            return self._sorted

    def search(self, *, count: int, prefix: str, contains: str, after: str, limit: int | None) -> list[str]:
        """Return tickers in order: with a number below `count`, matching, beyond `after`, at most `limit`."""
        tickers, numbers = self.sorted(), self._numbers
        start = max(bisect_left(tickers, prefix), bisect_right(tickers, after))
        found: list[str] = []
        for index in range(start, len(tickers)):
            ticker = tickers[index]
            if (limit is not None and len(found) >= limit) or not ticker.startswith(prefix):
                break
            if contains in ticker and numbers[ticker] < count:
                found.append(ticker)
        return found
