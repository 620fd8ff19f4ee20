"""What all clients of a server share: the store, the limits, the routes, what is encoded once, the counts."""

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from kalshibook.store import Book, BookStore
from kalshibook.stream.channels import CHANNELS
from kalshibook.stream.encode import TICKER_OPENING, TOP_OPENING, ticker_tail, top_tail
from kalshibook.stream.frames import SnapshotCache
from kalshibook.stream.options import StreamOptions
from kalshibook.stream.routes import Routes

if TYPE_CHECKING:
    from kalshibook.stream.subscription import AnySubscription

__all__ = ["Bodies", "Body", "Counters", "Shared"]

# More than the exchange has markets (104,000 in 2026), so that all who want all share them; some
# 700 bytes each once written. Emptied when full.
_BODIES_KEPT: Final = 262_144


class Body:
    """A book's frame body, encoded when the first client writes it and by then perhaps never needed."""

    __slots__ = ("_encode", "_tail", "book")

    def __init__(self, book: Book, encode: Callable[[Book], bytes]) -> None:
        self.book = book
        self._encode = encode
        self._tail: bytes | None = None

    @property
    def tail(self) -> bytes:
        """The tail of its frame."""
        tail = self._tail
        if tail is None:
            tail = self._tail = self._encode(self.book)
        return tail


class Bodies:
    """Bodies of one channel by book, so that those who subscribe later share them too."""

    __slots__ = ("_encode", "_held", "opening")

    def __init__(self, opening: bytes, encode: Callable[[Book], bytes]) -> None:
        self.opening = opening
        self._encode = encode
        self._held: dict[str, Body] = {}

    def of(self, book: Book) -> Body:
        """Return the body of exactly this book."""
        ticker = book.market.ticker
        body = self._held.get(ticker)
        if body is None or body.book is not book:
            if len(self._held) >= _BODIES_KEPT:
                self._held.clear()
            body = self._held[ticker] = Body(book, self._encode)
        return body


class Counters:
    """Running counts, read by `Hub.statistics`."""

    def __init__(self) -> None:
        self.commands = 0
        self.errors: Counter[int] = Counter()
        self.refused = 0
        self.routed = 0
        self.conflated = 0
        self.snapshots_resent = 0
        self.overflowed = 0
        self.frames = 0
        self.bytes = 0
        self.closed: Counter[int] = Counter()


class Shared:
    """One per hub."""

    def __init__(self, store: BookStore, options: StreamOptions) -> None:
        self.store = store
        self.options = options
        self.counters = Counters()
        self.snapshots = SnapshotCache(options.snapshot_cache_bytes)
        self.tops = Bodies(TOP_OPENING, top_tail)
        self.tickers = Bodies(TICKER_OPENING, ticker_tail)
        self.routes: dict[str, Routes[AnySubscription]] = {name: Routes() for name in CHANNELS}
        """By channel; of `orderbook_delta` those on the NO scale."""
        self.yes_scale_routes: Routes[AnySubscription] = Routes()
        """Of `orderbook_delta` those with `use_yes_price`."""
        self.doomed: list[AnySubscription] = []
        """Overflowed while routes were walked; ended right after."""

    def all_routes(self) -> "list[Routes[AnySubscription]]":
        """Return every index."""
        return [*self.routes.values(), self.yes_scale_routes]
