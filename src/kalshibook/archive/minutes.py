"""
Whole books now and then: of the live ones that changed, as they stood after a frame that is named.

A book that did not change makes no row: a million markets every minute would be 1.44 billion rows a
day. A row is identified by the last frame in it, so the same state, taken twice, is one row.
"""

import time
from collections.abc import Callable
from typing import Final, final

from kalshibook.archive.entries import Entry
from kalshibook.archive.rows import Identity, SnapshotKind, SnapshotRow, snapshot_row
from kalshibook.errors import WireError
from kalshibook.store import Arrival, Book, BookStore, Condition, StoreOptions
from kalshibook.wire import BookDelta, BookSnapshot, WireEvent

__all__ = ["MinuteBooks", "book_row"]

_TICK_S: Final = 1.0
_NO_HISTORY: Final = StoreOptions(history_seconds=1, recent_versions=1)


@final
class MinuteBooks:
    """
    Books beside a writer, fed with the same messages. One thread.

    Args:
        interval_s: how often changed books are taken.
        clock_s: seconds, from any beginning.
    """

    def __init__(self, interval_s: int, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = interval_s
        self._clock_s = clock_s
        self._store = BookStore(_NO_HISTORY)
        # For as long as this lives: nobody else writes this store, and nobody reads it from elsewhere.
        self._writer = self._store.writer().__enter__()
        self._changed: set[str] = set()
        self._due_s = clock_s() + interval_s
        self._ticked_s = clock_s()

    def apply(self, event: WireEvent, arrival: Arrival) -> None:
        """Apply a message."""
        self._writer.apply(event, arrival)
        if type(event) is BookDelta or type(event) is BookSnapshot:
            self._changed.add(event.ticker)

    def reject(self, error: WireError, arrival: Arrival, ticker: str) -> None:
        """Doubt the book that a message which cannot be read may have changed."""
        self._writer.reject(error, arrival, ticker or None)

    def forget(self, partition: int, reason: str) -> None:
        """Doubt the books of a partition that somebody else reads from now on."""
        self._writer.doubt_all(reason, partition)

    def due(self) -> list[Entry]:
        """Return the books that changed since they were last taken, if it is time again."""
        now_s = self._clock_s()
        if now_s - self._ticked_s >= _TICK_S:
            self._ticked_s = now_s
            self._writer.tick(time.time_ns() // 1_000)
        if now_s < self._due_s:
            return []
        self._due_s = now_s + self._interval_s
        changed, self._changed = self._changed, set()
        books, _ = self._store.cut().select(sorted(changed))
        rows = [row for row in map(book_row, books) if row is not None]
        return [Entry(f"book of {row.ticker}", row.ticker.encode(errors="replace"), (row,)) for row in rows]


def book_row(book: Book) -> SnapshotRow | None:
    """Return the row of a book, or None for one that is not live or whose last frame is not known."""
    origin, stamps, sequence = book.origin, book.stamps, book.sequence
    if book.copy is not Condition.LIVE or origin is None or stamps is None or sequence is None:
        return None
    if origin.connection is None or origin.sid is None or stamps.received_us is None:
        return None
    return snapshot_row(
        Identity(origin.source, origin.connection, origin.sid, sequence, stamps.received_us),
        book.ticker,
        ((level.price, level.size) for level in book.yes),
        ((level.price, level.size) for level in book.no),
        kind=SnapshotKind.MINUTE,
        exchange_us=stamps.exchange_us,
    )
