"""Who wants which market: what a subscription selects, and the index from a market to its subscriptions."""

from collections.abc import Collection, Container, Hashable, Iterable
from typing import Generic, TypeVar

__all__ = ["Routes", "Selection"]

S = TypeVar("S", bound=Hashable)


class Selection:
    """
    The markets of one subscription: all of them, or those named, or those that begin with a prefix.

    Names are remembered whether or not such a market exists: it may appear later.
    """

    __slots__ = ("_known", "every", "prefixes", "tickers")

    def __init__(self) -> None:
        self.every = False
        self.tickers: dict[str, None] = {}
        self.prefixes: tuple[str, ...] = ()
        """None of them begins with another: a market matches one at most."""
        self._known: set[str] = set()
        """Named markets that were found in the store; markets never leave it."""

    def has(self, ticker: str) -> bool:
        """Tell whether a market is selected."""
        return self.every or ticker in self.tickers or self.is_covered(ticker)

    def is_covered(self, ticker: str) -> bool:
        """Tell whether a market is selected by a prefix."""
        return bool(self.prefixes) and ticker.startswith(self.prefixes)

    def routed(self, tickers: Iterable[str]) -> list[str]:
        """Return those that need a route of their own, because no prefix covers them."""
        return [ticker for ticker in tickers if not self.is_covered(ticker)] if self.prefixes else [*tickers]

    def existing(self, cut: Container[str]) -> list[str]:
        """Return the named markets that exist in the store, in the order in which they were named."""
        known = self._known
        for ticker in self.tickers:
            if ticker not in known and ticker in cut:
                known.add(ticker)
        return [ticker for ticker in self.tickers if ticker in known]


class Routes(Generic[S]):
    """
    The index of one channel. A market costs one look-up, plus one per length of prefix in use.

    Keyed by ticker rather than by number, so that a market which does not exist yet needs no
    second bookkeeping; a ticker's hash is computed once in its life.
    """

    __slots__ = ("_by_prefix", "_by_ticker", "_entries", "_every", "_lengths")

    def __init__(self) -> None:
        self._every: dict[S, None] = {}
        self._by_ticker: dict[str, dict[S, None]] = {}
        self._by_prefix: dict[str, dict[S, None]] = {}
        self._lengths: tuple[int, ...] = ()
        self._entries = 0

    def __len__(self) -> int:
        """Return the number of entries."""
        return self._entries

    def __bool__(self) -> bool:
        """Tell whether anybody subscribes to anything."""
        return self._entries > 0

    def find(self, ticker: str) -> Collection[S]:
        """Return a market's subscriptions, each once; valid until the index changes."""
        selected = self.select(ticker)
        if not self._every:
            return selected
        return [*self._every, *selected] if selected else self._every

    def select(self, ticker: str) -> Collection[S]:
        """Return those of a market's subscriptions that are not to every market, each once."""
        named = self._by_ticker.get(ticker, ())
        if not self._lengths:
            return named
        found = [*named]
        for length in self._lengths:
            # A shorter ticker would be cut to itself, and matched again as its own prefix.
            if length > len(ticker):
                break
            found += self._by_prefix.get(ticker[:length], ())
        return found

    @property
    def every(self) -> Collection[S]:
        """Subscriptions to all markets; valid until the index changes."""
        return self._every

    def all(self) -> set[S]:
        """Return every subscription."""
        found = set(self._every)
        for index in (self._by_ticker, self._by_prefix):
            for subscribers in index.values():
                found.update(subscribers)
        return found

    def add(self, subscription: S, selection: Selection) -> None:
        """Index all that a subscription selects."""
        if selection.every:
            self._every[subscription] = None
            self._entries += 1
            return
        for prefix in selection.prefixes:
            self._put(self._by_prefix, prefix, subscription)
        self._measure()
        self.add_tickers(subscription, selection.routed(selection.tickers))

    def remove(self, subscription: S, selection: Selection) -> None:
        """Undo `add`; the selection must be what it was then."""
        if selection.every:
            del self._every[subscription]
            self._entries -= 1
            return
        for prefix in selection.prefixes:
            self._drop(self._by_prefix, prefix, subscription)
        self._measure()
        self.remove_tickers(subscription, selection.routed(selection.tickers))

    def add_tickers(self, subscription: S, tickers: Iterable[str]) -> None:
        """Index single markets."""
        for ticker in tickers:
            self._put(self._by_ticker, ticker, subscription)

    def remove_tickers(self, subscription: S, tickers: Iterable[str]) -> None:
        """Undo `add_tickers`."""
        for ticker in tickers:
            self._drop(self._by_ticker, ticker, subscription)

    def _measure(self) -> None:
        self._lengths = tuple(sorted({len(prefix) for prefix in self._by_prefix}))

    def _put(self, index: dict[str, dict[S, None]], name: str, subscription: S) -> None:
        index.setdefault(name, {})[subscription] = None
        self._entries += 1

    def _drop(self, index: dict[str, dict[S, None]], name: str, subscription: S) -> None:
        subscribers = index[name]
        del subscribers[subscription]
        self._entries -= 1
        if not subscribers:
            del index[name]
