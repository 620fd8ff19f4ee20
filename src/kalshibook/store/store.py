"""The store: one writer, any readers, no locks between them."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping

import msgspec

from kalshibook.errors import NotReady, Stale, StoreError
from kalshibook.store.book import Book, TopOfBook
from kalshibook.store.changes import ChangeReader
from kalshibook.store.cut import Cut, Tops
from kalshibook.store.heartbeats import LastSign
from kalshibook.store.incidents import IncidentKind
from kalshibook.store.nested import HAS_C_VECTOR, warn_without_c_vector
from kalshibook.store.options import StoreOptions
from kalshibook.store.reducer import Outcome
from kalshibook.store.sources import SourceStatistics, source_statistics
from kalshibook.store.state import StoreState
from kalshibook.store.states import Condition
from kalshibook.store.writer import StoreWriter

__all__ = ["BookStore", "StoreStatistics", "WriterLease", "require_offsets"]


class StoreStatistics(msgspec.Struct, frozen=True):
    """A store's counts at one moment."""

    version: int
    markets: int
    awaiting: int
    live: int
    stale: int
    closed: int
    ready: bool
    outcomes: dict[str, int]
    """How many messages ended how, by `Outcome`, since the start."""
    off_grid: int
    """Changes at a price off the market's known grid; they are kept, the exchange is the authority."""
    empty_snapshots: int
    """Snapshots without any level; all of them being so is how a changed format looks."""
    incidents: dict[str, int]
    """How many incidents happened, by `IncidentKind`."""
    readers: int
    """Open readers of changes."""
    conflated: int
    """Changes folded into others for slow readers."""
    lost_notices: int
    """Trades, lifecycle and event messages dropped for slow readers."""
    has_c_vector: bool
    """Whether pyrsistent runs its C vector."""
    sources: tuple[SourceStatistics, ...]
    """The gatherers it hears of, by name."""


class BookStore:
    """
    Every book, in immutable versions.

    A read is one reference load: it never waits, and what it returns never changes. Writing is one
    thread's business, through `writer`.

    >>> store = BookStore()
    >>> store.cut().version, len(store.cut())
    (0, 0)
    """

    def __init__(self, options: StoreOptions | None = None) -> None:
        warn_without_c_vector()
        self._state = StoreState(options or StoreOptions())
        self.incidents = self._state.incidents
        """What went wrong, and what was put right."""
        self._writing = threading.Lock()
        self._writer = StoreWriter(self._state)
        self._readers_changing = threading.Lock()
        self._past_conflated = 0
        self._past_lost = 0

    # Reading: any thread.

    def cut(self) -> Cut:
        """Return the whole store as it is now."""
        return Cut(self._state.version, self._state.directory)

    def as_of(self, time_us: int) -> Cut:
        """
        Return the whole store as it was at a time, exact to `history_step_ms`.

        Args:
            time_us: microseconds since the epoch, on the clock of `Cut.applied_us`.

        Raises:
            VersionGone: the time lies before what is kept.
        """
        state = self._state
        newest = state.version
        return Cut(newest if newest.applied_us <= time_us else state.history.as_of(time_us), state.directory)

    def at(self, version: int) -> Cut:
        """
        Return the whole store as of exactly one version.

        Raises:
            VersionGone: it is not kept, or not there yet.
        """
        return Cut(self._state.history.at(version), self._state.directory)

    def book(
        self,
        ticker: str,
        *,
        max_age_ms: int | None = None,
        min_offset: Mapping[int, int] | None = None,
        allow_stale: bool = False,
    ) -> Book:
        """
        Return one market's book, provided it can be trusted.

        Args:
            ticker: the market.
            max_age_ms: refuse a book whose last message is older, milliseconds.
            min_offset: refuse unless the record at each offset is consumed, by partition.
            allow_stale: return a book that is in doubt too, or of a store that is behind its feed; its
                `condition` and `Cut.behind` say so.

        Raises:
            UnknownMarket: no message has named the market.
            NotReady: the store is behind its feed, no snapshot has arrived, or an offset is not reached.
            Stale: the book is in doubt, or older than `max_age_ms`.
        """
        cut = self.cut()
        require_offsets(cut, min_offset)
        # While a feed catches up, its books are those of the past: complete, consistent and wrong.
        if cut.behind is not None and not allow_stale:
            reason = f"{cut.behind}; wait_ready() waits for it, allow_stale=True reads what is there"
            raise NotReady(f"the store is behind: {reason}", ticker=ticker)
        book = cut[ticker]
        if book.copy is Condition.AWAITING:
            raise NotReady(
                f"market {ticker!r} awaits its first snapshot; its book is unknown, not empty", ticker=ticker
            )
        if book.copy is Condition.STALE and not allow_stale:
            age_us = book.age_us(time.time_ns() // 1_000)
            age_ms = None if age_us is None else age_us // 1_000
            raise Stale(ticker, book.stale_reason or "in doubt", age_ms=age_ms, max_age_ms=None)
        if max_age_ms is not None:
            _require_age(book, max_age_ms)
        return book

    def top(
        self,
        ticker: str,
        *,
        max_age_ms: int | None = None,
        min_offset: Mapping[int, int] | None = None,
        allow_stale: bool = False,
    ) -> TopOfBook:
        """Return one market's best prices; arguments and errors as `book`."""
        return self.book(ticker, max_age_ms=max_age_ms, min_offset=min_offset, allow_stale=allow_stale).top()

    def tops(self, tickers: Iterable[str], *, min_offset: Mapping[int, int] | None = None) -> Tops:
        """
        Return many markets' best prices, all from one version.

        Markets in any condition are returned, and say which; unknown ones are listed.

        Raises:
            NotReady: an offset is not reached.
        """
        cut = self.cut()
        require_offsets(cut, min_offset)
        return cut.tops(tickers)

    @property
    def ready(self) -> bool:
        """Whether the feed has caught up and is connected."""
        return self._state.version.behind is None

    def wait_ready(self, timeout: float | None = None) -> bool:
        """
        Wait until the feed has caught up.

        Args:
            timeout: seconds at most; None waits for ever.

        Returns:
            Whether it has.
        """
        return self._state.ready.wait(timeout)

    def changes(self, *, capacity: int = 65_536, wake: Callable[[], None] | None = None) -> ChangeReader:
        """
        Return a reader of what changes from now on.

        Args:
            capacity: how many changes wait one by one; beyond it they are folded by market.
            wake: called on the writer's thread when something waits after nothing did; it must
                neither block nor raise.
        """
        reader = ChangeReader(capacity, wake, self._forget_reader, self._reader_overflowed)
        with self._readers_changing:
            self._state.readers = (*self._state.readers, reader)
        return reader

    def statistics(self) -> StoreStatistics:
        """Return counts for people and metrics."""
        version, writer, readers = self._state.version, self._writer, self._state.readers
        counts = version.counts
        return StoreStatistics(
            version=version.number,
            markets=len(version.books),
            awaiting=counts.awaiting,
            live=counts.live,
            stale=counts.stale,
            closed=counts.closed,
            ready=version.behind is None,
            outcomes={outcome.value: writer.outcomes[outcome] for outcome in Outcome},
            off_grid=writer.off_grid,
            empty_snapshots=writer.empty_snapshots,
            incidents=self.incidents.counts(),
            readers=len(readers),
            conflated=self._past_conflated + sum(reader.total_conflated for reader in readers),
            lost_notices=self._past_lost + sum(reader.total_lost for reader in readers),
            has_c_vector=HAS_C_VECTOR,
            sources=source_statistics(writer.followers, writer.heartbeats),
        )

    def last_signs(self, partition: int) -> list[LastSign]:
        """Return the last sign of life of every gatherer in a partition, for a checkpoint."""
        return self._writer.heartbeats.last_signs(partition)

    # Writing: one thread.

    def writer(self) -> "WriterLease":
        """
        Claim the store's only writer, as a context manager.

        Raises:
            StoreError: on entry, when another thread or feed is writing.
        """
        return WriterLease(self._writing, self._writer)

    def _forget_reader(self, reader: ChangeReader) -> None:
        with self._readers_changing:
            if reader in self._state.readers:
                self._state.readers = tuple(other for other in self._state.readers if other is not reader)
                self._past_conflated += reader.total_conflated
                self._past_lost += reader.total_lost

    def _reader_overflowed(self, waiting: int) -> None:
        detail = f"a reader of changes let {waiting} wait; they are folded by market from here on"
        self.incidents.record(IncidentKind.CONFLATED, detail)


class WriterLease:
    """The right to write, held by one `with` block at a time."""

    def __init__(self, lock: threading.Lock, writer: StoreWriter) -> None:
        self._lock = lock
        self._writer = writer

    def __enter__(self) -> StoreWriter:
        """Claim it."""
        if not self._lock.acquire(blocking=False):
            raise StoreError("this store has a writer already; one store takes one feed")
        return self._writer

    def __exit__(self, *_: object) -> None:
        """Hand out what is pending, then give it back."""
        try:
            self._writer.commit()
        finally:
            self._lock.release()


def require_offsets(cut: Cut, min_offset: Mapping[int, int] | None) -> None:
    """
    Insist on offsets.

    Raises:
        NotReady: with the first partition that is behind.
    """
    if min_offset is None or cut.reaches(min_offset):
        return
    offsets = cut.offsets
    for partition, expected in min_offset.items():
        reached = offsets.get(partition)
        if reached is None or reached <= expected:
            place = "nothing of it" if reached is None else f"{reached} of it next"
            raise NotReady(
                f"offset {expected} of partition {partition} is not consumed yet, {place}; ask again",
                partition=partition,
                expected=expected,
                reached=reached,
            )


def _require_age(book: Book, max_age_ms: int) -> None:
    age_us = book.age_us(time.time_ns() // 1_000)
    if age_us is None or age_us > max_age_ms * 1_000:
        age_ms = None if age_us is None else age_us // 1_000
        reason = f"its last message is {age_ms} ms old, {max_age_ms} ms are allowed"
        raise Stale(book.ticker, reason, age_ms=age_ms, max_age_ms=max_age_ms)
