"""Who hears of which market. Pure; the lists are replaced, never changed, so that they can be walked."""

from collections.abc import Iterable
from typing import Generic, TypeVar

__all__ = ["Routing"]

S = TypeVar("S")


class Routing(Generic[S]):
    """Subscriptions of one channel by ticker, and those that hear of every market."""

    __slots__ = ("_by_ticker", "_everybody")

    def __init__(self) -> None:
        self._by_ticker: dict[str, tuple[S, ...]] = {}
        self._everybody: tuple[S, ...] = ()

    def __len__(self) -> int:
        """Count the tickers that somebody hears of, and those who hear of all."""
        return len(self._by_ticker) + len(self._everybody)

    def of(self, ticker: str) -> tuple[S, ...]:
        """Return who hears of a market."""
        if self._everybody:
            return self._everybody + self._by_ticker.get(ticker, ())
        return self._by_ticker.get(ticker, ())

    def add(self, ticker: str, subscription: S) -> None:
        """Let a subscription hear of a market."""
        held = self._by_ticker.get(ticker, ())
        if subscription not in held:
            self._by_ticker[ticker] = (*held, subscription)

    def add_everywhere(self, subscription: S) -> None:
        """Let a subscription hear of all markets."""
        self._everybody = (*self._everybody, subscription)

    def remove(self, ticker: str, subscription: S) -> None:
        """Let a subscription hear of a market no more."""
        left = tuple(held for held in self._by_ticker.get(ticker, ()) if held is not subscription)
        if left:
            self._by_ticker[ticker] = left
        else:
            self._by_ticker.pop(ticker, None)

    def remove_all(self, tickers: Iterable[str], subscription: S) -> None:
        """Let a subscription hear of nothing more."""
        self._everybody = tuple(held for held in self._everybody if held is not subscription)
        for ticker in tickers:
            self.remove(ticker, subscription)
