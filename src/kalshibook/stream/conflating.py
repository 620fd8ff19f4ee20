"""
Top of book and ticker: per market the newest state waits, and says how many changes it stands for.

What can wait is bounded by the number of markets, however slowly a client reads.
"""

from collections.abc import Collection, Iterator
from itertools import islice
from typing import final

import msgspec

from kalshibook.store import Book, Cut
from kalshibook.stream.channels import Channel
from kalshibook.stream.encode import MESSAGE_OPENING
from kalshibook.stream.frames import FrameWriter
from kalshibook.stream.routes import Routes, Selection
from kalshibook.stream.shared import Bodies, Body, Counters
from kalshibook.stream.subscription import AnySubscription, Owner, Subscription

__all__ = ["ConflatingSubscription", "Latest"]


class Latest(msgspec.Struct, frozen=True, gc=False):
    """A market's newest state on a conflating channel."""

    ticker: str
    version: int
    """The store's version in which the book last changed."""
    body: Body
    since_us: int
    """When the oldest change that is not written yet was handed over."""
    merged: int
    """How many changes it stands for; 0 for the state sent on subscribing."""


@final
class ConflatingSubscription(Subscription[Latest]):
    """
    Top of book or ticker.

    A market's state at the time of subscribing is sent first, so changes that are older than the
    cut it came from are ignored: changes arrive here later than the store shows them.
    """

    def __init__(
        self,
        owner: Owner,
        sid: int,
        channel: Channel,
        routes: Routes[AnySubscription],
        *,
        bodies: Bodies,
        counters: Counters,
        version: int,
    ) -> None:
        super().__init__(owner, sid, channel, routes)
        self._bodies = bodies
        self._counters = counters
        self._floor = version
        """Version of the cut that the subscription began with."""
        self._floors: dict[str, int] = {}
        """Versions of the later cuts with which markets were added."""
        self._pending: dict[str, Latest] = {}
        self._sweep: Iterator[Book] | None = None
        """What remains of the first state of all markets, from the cut that the floor names."""

    @property
    def backlog(self) -> int:
        """How many markets wait; a first state of all markets counts as one."""
        return len(self._pending) + (self._sweep is not None)

    def push(self, item: Latest) -> None:
        """Take a market's new state; it replaces one that waits, which keeps its place."""
        ticker = item.ticker
        if item.version <= (self._floors.get(ticker, self._floor) if self._floors else self._floor):
            return
        waiting = self._pending.get(ticker)
        if waiting is None:
            self._pending[ticker] = item
        else:
            merged = waiting.merged + item.merged
            self._pending[ticker] = Latest(ticker, item.version, item.body, waiting.since_us, merged)
            self._counters.conflated += 1
        self._wake()

    def write(self, writer: FrameWriter) -> bool:
        """Write states, longest waiting first."""
        # Before what waits: that is newer than the state that the sweep sends.
        if self._sweep is not None and not self._write_sweep(self._sweep, writer):
            return True
        if writer.is_full:
            return True
        pending, opening, stamp = self._pending, self._bodies.opening, writer.stamp
        add, next_head = writer.add, self.next_head
        written = 0
        for item in pending.values():
            tail = item.body.tail
            if item.merged > 1:
                note = b'"merged":%d,"since_ms":%d,' % (item.merged, item.since_us // 1_000)
                tail = MESSAGE_OPENING + note + tail[len(MESSAGE_OPENING) :]
            written += 1
            if add(opening, next_head(stamp), tail):
                break
        if written == len(pending):
            # A new dict, not clear(): the old one may have grown to the number of all markets.
            self._pending = {}
            return False
        for ticker in [*islice(pending, written)]:
            del pending[ticker]
        return True

    def _write_sweep(self, sweep: Iterator[Book], writer: FrameWriter) -> bool:
        bodies = self._bodies
        while not writer.is_full:
            book = next(sweep, None)
            if book is None:
                self._sweep = None
                return True
            writer.add(bodies.opening, self.next_head(writer.stamp), bodies.of(book).tail)
        return False

    def _begin_every(self, before: Selection, cut: Cut, *, initial: bool) -> None:
        if cut.version > self._floor:
            # From now on the floor is this cut's, but for those that were followed before it.
            held = [
                *before.tickers,
                *(name for prefix in before.prefixes for name in cut.tickers(prefix=prefix)),
            ]
            self._floors = {**dict.fromkeys(held, self._floor), **self._floors}
            self._floor = cut.version
        if initial:
            # Walked as it is written: a list of all markets per client would be its largest part.
            self._sweep = (book for book in cut.books() if not before.has(book.market.ticker))
            self._wake()

    def _begin(self, tickers: Collection[str], cut: Cut, now_us: int, *, initial: bool) -> None:
        is_later = cut.version > self._floor
        for ticker in tickers:
            if is_later:
                self._floors[ticker] = cut.version
            book = cut.get(ticker) if initial else None
            if book is not None:
                self._pending[ticker] = Latest(ticker, book.version, self._bodies.of(book), now_us, 0)
        if self._pending:
            self._wake()

    def _held(self) -> Collection[str]:
        return {**self._floors, **self._pending}

    def _forget(self, tickers: Collection[str]) -> None:
        for ticker in tickers:
            self._floors.pop(ticker, None)
            self._pending.pop(ticker, None)

    def _clear(self) -> None:
        self._floors, self._pending, self._sweep = {}, {}, None
