"""Comparing what a store held during a playing with books folded from the recording itself."""

import json
import random
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from kalshibook.feeds.tape import RecordedFrame
from kalshibook.store import Book, BookStore, Condition, Cut
from kalshibook.testing.reference import ReferenceBook, compare

__all__ = ["Moments", "Verdict", "verify"]

_BOOK_FRAMES: Final = frozenset({"orderbook_snapshot", "orderbook_delta"})


class _Place(NamedTuple):
    """A frame of a recording, as a book remembers it."""

    ticker: str
    connection: str | None
    sid: int | None
    sequence: int | None


class Moments:
    """
    Takes cuts of a store at random moments of a playing, without stopping it.

    Which frames are moments is drawn while they pass, because nobody knows how many will: of the
    frames so far, every choice is equally likely (reservoir sampling).
    """

    def __init__(self, store: BookStore, count: int, seed: int) -> None:
        self._store = store
        self._count = count
        self._random = random.Random(seed)  # noqa: S311 - a choice of samples
        self.cuts: list[Cut] = []

    def among(self, frames: Iterable[RecordedFrame]) -> Iterator[RecordedFrame]:
        """Pass the frames on, and take cuts between them."""
        for number, frame in enumerate(frames):
            place = self._random.randrange(number + 1)
            if len(self.cuts) < self._count:
                self.cuts.append(self._store.cut())
            elif place < self._count:
                self.cuts[place] = self._store.cut()
            yield frame


class Verdict(NamedTuple):
    """What the comparison found."""

    books: int
    """Books compared, over all cuts."""
    differences: list[str]


def verify(
    frames: Iterable[RecordedFrame],
    cuts: Iterable[Cut],
    final: Cut,
    *,
    complete: bool,
) -> Verdict:
    """
    Compare each book of some cuts with a plain fold of its market's frames up to the one it names.

    Args:
        frames: what was played, from the start, with the connections that it was played on.
        cuts: taken during the playing.
        final: taken after it.
        complete: whether all was played: the final books must then be at their markets' last frames.
    """
    wanted = _wanted((*cuts, final))
    books = sum(map(len, wanted.values()))
    differences = [line for held in wanted.values() for book in held for line in _doubts(book)]
    references: dict[str, ReferenceBook] = {}
    last: dict[str, _Place] = {}
    for recorded in frames:
        if not wanted and not complete:
            break
        frame: dict[str, Any] = json.loads(recorded.frame)
        if frame["type"] not in _BOOK_FRAMES:
            continue
        ticker = frame["msg"]["market_ticker"]
        reference = references.setdefault(ticker, ReferenceBook())
        try:
            reference.apply(frame)
        except ValueError as error:
            differences.append(f"the recording contradicts itself: {error}")
        last[ticker] = _Place(ticker, recorded.connection, frame.get("sid"), frame.get("seq"))
        for book in wanted.pop(last[ticker], ()):
            differences += compare(book, reference)
    differences += [f"{place} was applied, but is not in the recording" for place in wanted]
    if complete:
        differences += _behind(final, last)
    return Verdict(books, differences)


def _wanted(cuts: Iterable[Cut]) -> dict[_Place, list[Book]]:
    wanted: dict[_Place, list[Book]] = {}
    for cut in cuts:
        for book in cut.books():
            if book.copy is not Condition.AWAITING:
                wanted.setdefault(_place(book), []).append(book)
    return wanted


def _place(book: Book) -> _Place:
    origin = book.origin
    if origin is None:
        return _Place(book.ticker, None, None, book.sequence)
    return _Place(book.ticker, origin.connection, origin.sid, book.sequence)


def _doubts(book: Book) -> list[str]:
    return [] if book.copy is Condition.LIVE else [f"{book.ticker} is {book.copy}: {book.stale_reason}"]


def _behind(final: Cut, last: dict[str, _Place]) -> list[str]:
    missing = [f"{ticker} is missing at the end" for ticker in last if ticker not in final]
    return missing + [
        f"{ticker} ends at {_place(final[ticker])}, expected {place}"
        for ticker, place in last.items()
        if ticker in final and _place(final[ticker]) != place
    ]
