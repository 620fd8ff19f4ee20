"""Order books as users have them now: each with the cheapest consistent read that its data allows."""

import threading
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, Protocol

from order_book import OrderBook
from pykalshi import OrderbookManager
from sortedcontainers import SortedDict

from kalshibook.store import Arrival, Book, BookStore
from kalshibook.wire import BookDelta, BookSnapshot, Envelope, WireEvent

__all__ = ["PEERS", "Kalshibook", "Peer"]

Top = tuple[float | None, float | None]


class Peer(Protocol):
    """A collection of books that takes events, and can show all of them as of one moment."""

    name: str
    about: str

    def apply(self, event: WireEvent, envelope: Envelope, offset: int) -> None:
        """Take one event."""

    def moment(self) -> Any:
        """Return something that shows all books as of now, whatever is applied later."""

    def tops(self) -> dict[str, Top]:
        """Return the best bids, YES and NO, in $0.0001, of every market."""


class Kalshibook:
    """This library."""

    name = "kalshibook"
    about = "a version for each update; a consistent read takes no lock and no copy"

    def __init__(self) -> None:
        self._store = BookStore()
        self._writer = self._store.writer().__enter__()

    def apply(self, event: WireEvent, envelope: Envelope, offset: int) -> None:
        """Take one event."""
        arrival = Arrival.of(envelope, partition=0, offset=offset, kafka_us=1, consumed_us=1)
        self._writer.apply(event, arrival)

    def moment(self) -> Any:
        """Take a cut."""
        return self._store.cut()

    def tops(self) -> dict[str, Top]:
        """Return the best bids."""
        return {book.market.ticker: _bests(book) for book in self._store.cut().books()}


def _bests(book: Book) -> Top:
    yes, no = book.yes.best, book.no.best
    return None if yes is None else yes.price, None if no is None else no.price


class _Locked:
    """Mutable books behind one lock; a consistent read copies them under it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._books: dict[str, Any] = {}

    def apply(self, event: WireEvent, _envelope: Envelope, _offset: int) -> None:
        """Take one event."""
        if type(event) is BookDelta:
            with self._lock:
                self._change(self._books[event.ticker], event.side, event.price, event.change)
        elif type(event) is BookSnapshot:
            with self._lock:
                self._books[event.ticker] = self._made(event.yes, event.no)

    def moment(self) -> Any:
        """Copy every book."""
        with self._lock:
            return {ticker: self._copied(book) for ticker, book in self._books.items()}

    def tops(self) -> dict[str, Top]:
        """Return the best bids."""
        with self._lock:
            return {ticker: self._top(book) for ticker, book in self._books.items()}

    def _top(self, book: Any) -> Top:
        return max(book[0], default=None), max(book[1], default=None)

    def _made(self, yes: Iterable[tuple[int, int]], no: Iterable[tuple[int, int]]) -> Any:
        return self._side(yes), self._side(no)

    def _side(self, levels: Iterable[tuple[int, int]]) -> Any:
        return dict(levels)

    def _change(self, book: Any, side: str, price: int, change: int) -> None:
        levels = book[side == "no"]
        size = levels.get(price, 0) + change
        if size:
            levels[price] = size
        else:
            levels.pop(price, None)

    def _copied(self, book: Any) -> Any:
        return book[0].copy(), book[1].copy()


class Dictionaries(_Locked):
    """Plain dictionaries."""

    name = "plain dict"
    about = "one lock, a copy for each consistent read; best price by max()"


class Sorted(_Locked):
    """Dictionaries in order."""

    name = "sortedcontainers"
    about = "SortedDict, one lock, a copy for each consistent read"

    def _side(self, levels: Iterable[tuple[int, int]]) -> Any:
        return SortedDict(levels)

    def _top(self, book: Any) -> Top:
        return book[0].peekitem()[0] if book[0] else None, book[1].peekitem()[0] if book[1] else None


class InC(_Locked):
    """The package `order-book`: books in C that change in place."""

    name = "order-book (C)"
    about = "sorted dictionaries in C, one lock, a copy by to_dict for each consistent read"

    def _made(self, yes: Iterable[tuple[int, int]], no: Iterable[tuple[int, int]]) -> Any:
        book = OrderBook()
        book.bids = dict(yes)
        # As bids are: descending, hence the sign.
        book.asks = {-price: size for price, size in no}
        return book

    def _change(self, book: Any, side: str, price: int, change: int) -> None:
        levels, price = (book.bids, price) if side == "yes" else (book.asks, -price)
        held = levels[price] if price in levels else 0  # noqa: SIM401 - it has no get
        size = held + change
        if size:
            levels[price] = size
        else:
            del levels[price]

    def _copied(self, book: Any) -> Any:
        return book.to_dict()

    def _top(self, book: Any) -> Top:
        bids, asks = book.bids, book.asks
        return bids.index(0)[0] if len(bids) else None, -asks.index(0)[0] if len(asks) else None


class Pykalshi(_Locked):
    """pykalshi's `OrderbookManager`, which keeps strings; it is given the strings of the frame."""

    name = "pykalshi"
    about = "dictionaries of decimal strings, one lock, a copy for each consistent read"

    def apply(self, event: WireEvent, envelope: Envelope, _offset: int) -> None:
        """Take one event, as it stands in the frame."""
        message: Any = envelope.payload
        if type(event) is BookDelta:
            with self._lock:
                self._books[event.ticker].apply_delta(
                    event.side, message.msg.price_dollars, message.msg.delta_fp
                )
        elif type(event) is BookSnapshot:
            with self._lock:
                self._books[event.ticker] = book = OrderbookManager(event.ticker)
                book.apply_snapshot(message.msg.yes_dollars_fp or [], message.msg.no_dollars_fp or [])

    def _copied(self, book: Any) -> Any:
        return {**book.yes}, {**book.no}

    def _top(self, book: Any) -> Top:
        return _ticks(book.best_bid), _ticks(_complement(book.best_ask))


def _complement(ask: str | None) -> str | None:
    return None if ask is None else str(1 - Decimal(ask))


def _ticks(price: str | None) -> float | None:
    return None if price is None else int(Decimal(price) * 10_000)


PEERS: Sequence[type[Any]] = (Kalshibook, InC, Dictionaries, Sorted, Pykalshi)
