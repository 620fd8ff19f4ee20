"""
Change notices: bounded per reader, conflating, and never in the writer's way.

A reader holds a queue of what changed. When it is full, the queue is folded to one entry a
market, whose old book is the first and whose new book the newest; so what a reader can hold is
bounded by its capacity or the number of markets, whatever the writer does. What cannot be folded
(trades, lifecycle messages) is then dropped, counted, and told with the next batch.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Self, TypeAlias

import msgspec

from kalshibook.store.book import Book
from kalshibook.wire import BookDelta, EventFrame, MarketLifecycle, Trade, WireEvent

__all__ = ["Change", "ChangeBatch", "ChangeReader", "FoldedChanges", "Notice", "Readiness"]


class Change(msgspec.Struct, frozen=True, gc=False):
    """One market changed: its book before and after, and why."""

    old: Book
    new: Book
    """`new.version` tells the store's version when the book itself changed."""
    event: WireEvent | None
    """The message that caused it; None for a step of time, a doubt, or several causes."""
    merged: int
    """How many changes this one stands for."""
    version: int
    """The store's version that this change made."""


class Readiness(msgspec.Struct, frozen=True, gc=False):
    """The store fell behind its feed, or has caught up: that concerns all its books at once."""

    behind: str | None
    """Why it is behind, or None when it has caught up."""
    version: int
    """The store's version that says so."""


Notice: TypeAlias = Change | EventFrame | Readiness


class ChangeBatch(msgspec.Struct, frozen=True):
    """What a reader takes at once, in order."""

    changes: Sequence[Notice]
    conflated: int
    """How many changes were folded into others since the last batch."""
    lost: int
    """How many trades, lifecycle and event messages were dropped since the last batch."""


class _Run:
    """Consecutive changes of one market."""

    __slots__ = ("first", "last", "merged")

    def __init__(self, first: Change) -> None:
        self.first = self.last = first
        self.merged = first.merged

    def folded(self) -> Change:
        first, last = self.first, self.last
        return first if last is first else Change(first.old, last.new, None, self.merged, last.version)


class FoldedChanges:
    """
    Changes folded to one a market, whose old book is the first and whose new book the newest.

    What cannot be folded, trades, lifecycle and event messages, is dropped and counted. Of what the
    store says of itself the newest is kept, and comes after all that was folded.
    """

    def __init__(self) -> None:
        self._runs: dict[int, _Run] = {}
        self._readiness: Readiness | None = None
        self.conflated = 0
        """How many changes were folded into others."""
        self.lost = 0
        """How many notices were dropped."""

    def add(self, notices: Iterable[Notice]) -> None:
        """Fold in what came later."""
        runs = self._runs
        conflated = 0
        for notice in notices:
            if isinstance(notice, Change):
                number = notice.new.market.number
                run = runs.get(number)
                if run is None:
                    runs[number] = _Run(notice)
                    continue
                if run.last is run.first:
                    self.lost += _is_lost(run.first.event)
                # Nearly all are: a reader that is slow folds every change, so that each call counts.
                if type(notice.event) is not BookDelta:
                    self.lost += _is_lost(notice.event)
                run.last = notice
                run.merged += notice.merged
                conflated += 1
            elif isinstance(notice, Readiness):
                self._readiness = notice
            else:
                self.lost += 1
        self.conflated += conflated

    def __len__(self) -> int:
        """Count what is left."""
        return len(self._runs) + (self._readiness is not None)

    def notices(self) -> list[Notice]:
        """Return what is left, in the order in which the markets first changed."""
        readiness = () if self._readiness is None else (self._readiness,)
        return [*(run.folded() for run in self._runs.values()), *readiness]


class ChangeReader:
    """
    One consumer's view of what changes; from `BookStore.changes`.

    Take batches from a plain thread (`take`), from asyncio (`asyncio`), or from any event loop by
    giving a `wake` that tells it to call `take_nowait`.
    """

    def __init__(
        self,
        capacity: int,
        wake: Callable[[], None] | None,
        on_close: Callable[["ChangeReader"], None],
        on_overflow: Callable[[int], None],
    ) -> None:
        if capacity < 1:
            raise ValueError(f"capacity {capacity} must be at least 1")
        self._capacity = capacity
        self._wake = wake
        self._on_close = on_close
        self._on_overflow = on_overflow
        self._condition = threading.Condition()
        self._queue: list[Notice] = []
        self._folded: FoldedChanges | None = None
        self._conflated = 0
        self._lost = 0
        self._total_conflated = 0
        self._total_lost = 0
        self._closed = False

    @property
    def total_conflated(self) -> int:
        """How many changes were folded into others since the start."""
        return self._total_conflated

    @property
    def total_lost(self) -> int:
        """How many notices were dropped since the start."""
        return self._total_lost

    def __enter__(self) -> Self:
        """Return the reader."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Stop collecting; a waiting `take` returns None."""
        with self._condition:
            self._closed = True
            self._queue, self._folded = [], None
            self._condition.notify_all()
            wake = self._wake
        self._on_close(self)
        if wake is not None:
            wake()

    def take_nowait(self) -> ChangeBatch | None:
        """Return all that waits, or None when nothing does."""
        with self._condition:
            return self._take()

    def take(self, timeout: float | None = None) -> ChangeBatch | None:
        """
        Wait for changes on a plain thread.

        Args:
            timeout: seconds to wait at most; None waits until there is something.

        Returns:
            All that waits, or None when the time is over or the reader is closed.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._pending() or self._closed, timeout)
            return self._take()

    async def asyncio(self) -> AsyncIterator[ChangeBatch]:
        """Yield batches on the running asyncio loop until the reader is closed."""
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()

        def wake() -> None:
            # The loop may be closed at any moment by its own thread; the writer's must survive that.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(arrived.set)

        with self._condition:
            self._wake = wake
            if self._pending() or self._closed:
                arrived.set()
        while True:
            await arrived.wait()
            # Cleared before taking: what arrives in between sets it again.
            arrived.clear()
            batch = self.take_nowait()
            if batch is not None:
                yield batch
            elif self._closed:
                return

    def give_back(self, batch: ChangeBatch) -> None:
        """Put a batch that could not be passed on in front again; it is folded if there is no room."""
        with self._condition:
            later, folded = self._queue, self._folded
            self._queue, self._folded = list(batch.changes), None
            self._conflated += batch.conflated
            self._lost += batch.lost
            self._extend(later if folded is None else folded.notices())

    def put(self, changes: Sequence[Notice]) -> None:
        """Add what one batch of the writer changed, in order; wakes the consumer once."""
        with self._condition:
            if self._closed:
                return
            was_pending = self._pending()
            self._extend(changes)
            if was_pending:
                return
            self._condition.notify()
            wake = self._wake
        # Outside the lock: whatever wakes a loop may itself take time or a lock.
        if wake is not None:
            wake()

    def _pending(self) -> bool:
        return bool(self._queue or self._folded or self._lost)

    def _take(self) -> ChangeBatch | None:
        if not self._pending():
            return None
        changes = self._queue if self._folded is None else self._folded.notices()
        batch = ChangeBatch(changes, self._conflated, self._lost)
        self._queue, self._folded = [], None
        self._conflated = self._lost = 0
        return batch

    def _extend(self, changes: Sequence[Notice]) -> None:
        if self._folded is None and len(self._queue) + len(changes) <= self._capacity:
            self._queue.extend(changes)
            return
        if changes:
            self._fold(changes)

    def _fold(self, changes: Sequence[Notice]) -> None:
        folded = self._folded
        if folded is None:
            queue, self._queue = self._queue, []
            folded = self._folded = FoldedChanges()
            self._on_overflow(len(queue) + len(changes))
            folded.add(queue)
        folded.add(changes)
        self._conflated += folded.conflated
        self._lost += folded.lost
        self._total_conflated += folded.conflated
        self._total_lost += folded.lost
        folded.conflated = folded.lost = 0


def _is_lost(event: WireEvent | None) -> bool:
    return isinstance(event, Trade | MarketLifecycle)
