"""
Books as JSON, encoded once per version and joined.

A fragment holds nothing that depends on the moment of reading: a market's age is told by its
`updated_ms` against the answer's one `now_ms`. So a fragment stays true until its book changes, also
inside an answer that a client or a proxy has kept.
"""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final, final

import msgspec
from msgspec import UNSET

from kalshibook.http.answers import TickTopRow, TopRow
from kalshibook.http.queries import Numbers
from kalshibook.numbers import ONE_DOLLAR, format_price, format_size
from kalshibook.store import Book, Condition, Ladder

__all__ = ["Fragments", "dollars", "levels_best_first", "milliseconds", "size_text", "top_row", "updated_us"]

_VARIANTS_KEPT: Final = 8
# Deeper books are large, differ from one version to the next, and would fill the memory that the
# capacity, counted in fragments, is there to bound.
_DEPTH_KEPT: Final = 10

_encode: Final = msgspec.json.Encoder().encode


def dollars(price: int | None) -> str | None:
    """Write a price as Kalshi does; None stays None."""
    return None if price is None else format_price(price)


def size_text(size: int | None) -> str | None:
    """Write a size as Kalshi does; None stays None."""
    return None if size is None else format_size(size)


def milliseconds(time_us: int | None) -> int | None:
    """Turn microseconds into whole milliseconds."""
    return None if time_us is None else time_us // 1_000


def updated_us(book: Book) -> int | None:
    """Return the time that a book's age counts from, microseconds since the epoch."""
    negative = book.age_us(0)
    return None if negative is None else -negative


def levels_best_first(ladder: Ladder, depth: int | None) -> list[tuple[str, str]]:
    """Return the best `depth` levels, all where None, as dollar and contract strings."""
    return [(format_price(level.price), format_size(level.size)) for level in islice(ladder, depth)]


def top_row(book: Book, depth: int = 0) -> TopRow:
    """Return a book's top, with `depth` levels per side unless that is 0."""
    yes, no, stamps = book.yes.best, book.no.best, book.stamps
    known = book.copy is not Condition.AWAITING
    return TopRow(
        ticker=book.market.ticker,
        condition=book.condition.value,
        stale_reason=book.stale_reason or UNSET,
        status=book.market.status,
        yes_bid_dollars=None if yes is None else format_price(yes.price),
        yes_bid_size_fp=None if yes is None else format_size(yes.size),
        yes_ask_dollars=None if no is None else format_price(ONE_DOLLAR - no.price),
        yes_ask_size_fp=None if no is None else format_size(no.size),
        no_bid_dollars=None if no is None else format_price(no.price),
        no_ask_dollars=None if yes is None else format_price(ONE_DOLLAR - yes.price),
        yes=UNSET if not depth else levels_best_first(book.yes, depth) if known else None,
        no=UNSET if not depth else levels_best_first(book.no, depth) if known else None,
        updated_ms=milliseconds(updated_us(book)),
        latency_ms=None if stamps is None else milliseconds(stamps.latency_us),
        version=book.version,
    )


def _tick_row(book: Book, depth: int) -> TickTopRow:
    yes, no, stamps = book.yes.best, book.no.best, book.stamps
    known = book.copy is not Condition.AWAITING
    return TickTopRow(
        ticker=book.market.ticker,
        condition=book.condition.value,
        stale_reason=book.stale_reason or UNSET,
        status=book.market.status,
        yes_bid=None if yes is None else yes.price,
        yes_bid_size=None if yes is None else yes.size,
        yes_ask=None if no is None else ONE_DOLLAR - no.price,
        yes_ask_size=None if no is None else no.size,
        no_bid=None if no is None else no.price,
        no_ask=None if yes is None else ONE_DOLLAR - yes.price,
        yes=UNSET if not depth else _ticks(book.yes, depth) if known else None,
        no=UNSET if not depth else _ticks(book.no, depth) if known else None,
        updated_ms=milliseconds(updated_us(book)),
        latency_ms=None if stamps is None else milliseconds(stamps.latency_us),
        version=book.version,
    )


def _ticks(ladder: Ladder, depth: int) -> list[tuple[int, int]]:
    return [(level.price, level.size) for level in islice(ladder, depth)]


_ROWS: Final[dict[Numbers, Callable[[Book, int], TopRow | TickTopRow]]] = {
    "dollars": top_row,
    "ticks": _tick_row,
}

_Kept = dict[int, tuple[Book, bytes]]


@final
class Fragments:
    """
    Encoded books, one per market and form, each good for exactly one version of its book.

    Used from one thread.

    Args:
        capacity: how many fragments are kept over all forms.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._forms: dict[tuple[Numbers, int], _Kept] = {}
        self.encoded = 0
        """Fragments made since the start."""
        self.reused = 0
        """Fragments taken from those kept since the start."""

    def __len__(self) -> int:
        """Count the fragments kept."""
        return sum(map(len, list(self._forms.values())))

    def of(self, books: Iterable[Book], numbers: Numbers, depth: int) -> list[bytes]:
        """Return one fragment for each book, in order."""
        row = _ROWS[numbers]
        if depth > _DEPTH_KEPT:
            deep = [_encode(row(book, depth)) for book in books]
            self.encoded += len(deep)
            return deep
        kept = self._form(numbers, depth)
        get = kept.get
        found: list[bytes] = []
        encoded = 0
        for book in books:
            number = book.market.number
            entry = get(number)
            # Identity, not equality and not the version number: a form's entry may stem from an
            # as-of read of an older version, and comparing whole books costs more than encoding one.
            if entry is not None and entry[0] is book:
                found.append(entry[1])
            else:
                fragment = _encode(row(book, depth))
                kept[number] = (book, fragment)
                found.append(fragment)
                encoded += 1
        self.encoded += encoded
        self.reused += len(found) - encoded
        if encoded:
            self._shrink(kept)
        return found

    def _form(self, numbers: Numbers, depth: int) -> _Kept:
        key = (numbers, depth)
        kept = self._forms.pop(key, None)
        if kept is None:
            kept = {}
            if len(self._forms) >= _VARIANTS_KEPT:
                del self._forms[next(iter(self._forms))]
        # Put back last: the first is the one least recently used.
        self._forms[key] = kept
        return kept

    def _shrink(self, current: _Kept) -> None:
        while len(self) > self._capacity:
            oldest = next(iter(self._forms))
            if self._forms[oldest] is current:
                current.clear()
            else:
                del self._forms[oldest]
