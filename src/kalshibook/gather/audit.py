"""
The audit: is the book that we gather the book that the exchange has? Pure; times are passed in.

REST gives whole books without a number or a time, out of a cache that may be 15 s old, while the socket
goes on. So one may only be compared with all that our book has been lately: it is right when it
equals our book at any moment of that window, and wrong only when it equals none. Ours is kept with a log
of what each change replaced, which is walked backwards from now; a book that changes forty times a second
is compared with each of its thousand states at the cost of one pass.

A socket that lags behind REST makes the same picture as a loss, so a difference is looked at again after some
seconds. If it stays, the market is a suspect; only a second REST book, asked for when the first cannot be
in the cache any more, makes it a divergence. Then the market is reported once, and not judged before its
next snapshot.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from typing import Final, Literal, TypeAlias, final

import msgspec

from kalshibook.errors import WireError
from kalshibook.gather.incidents import GatherIncidentKind, GatherIncidents
from kalshibook.gather.options import GatherOptions
from kalshibook.gather.records import Notice, Received, SinkCounts
from kalshibook.wire import BookDelta, BookSnapshot, decode_frame, read_frame

__all__ = ["AuditBooks", "AuditStatistics", "Auditor", "Polled", "auditor_of"]

WrongReason: TypeAlias = Literal["impossible", "refresh"]

_TYPES: Final = frozenset({"orderbook_snapshot", "orderbook_delta"})

# A NO level is filed beyond all YES prices, so that one dict holds both sides.
_NO: Final = 16_384

# After an answer its book is judged when the socket has had time to say the same: after so many tenths of
# the window, and where it differs after so many more. With the usual 20 s that is 2, 4 and 8 s.
_PATIENCE: Final = (1, 2, 4)
# How long a request may have been under way, beside all that.
_SLACK_US: Final = 15_000_000


class Polled(msgspec.Struct, frozen=True, gc=False):
    """A book as REST gave it."""

    book: BookSnapshot
    asked_us: int
    """When the request went out; the book is this old or younger, but for a cache."""
    answered_us: int


class AuditStatistics(msgspec.Struct, frozen=True):
    """What the audit has found since the start."""

    markets: int
    """Books that are kept for comparison."""
    compared: int
    same: int
    unjudged: int
    """Books of which ours was not known for the whole window, or was in doubt anyway."""
    suspects: int
    """Markets whose book differed, and which wait for a second look."""
    cleared: int
    """Suspects whose second book was right."""
    diverged: int
    """Books that were wrong twice."""
    impossible: int
    """Changes that took away more than was there."""
    refreshed_differently: int
    """Snapshots on a whole subscription that were not what its changes had made."""


class _OwnBook:
    """A market's book, and how to go back from it."""

    __slots__ = ("connection", "known_us", "levels", "serial", "sid", "undo")

    def __init__(self) -> None:
        self.levels: dict[int, int] = {}
        self.undo: deque[tuple[int, int, int]] | None = None
        """Time, level and the size before, oldest first; None where nothing has changed."""
        self.connection = ""
        self.sid: int | None = None
        self.serial = 0
        """When its last snapshot came, by the count of `AuditBooks`; 0 is in doubt."""
        self.known_us = 0
        """Since when it is known without a break."""


@final
class AuditBooks:
    """
    Our own books with their recent past, among the router's sinks; some 500 bytes a quiet market.

    Args:
        window_us: how far back a REST book may reach.
        on_wrong: called with market and reason when a frame shows that a book of ours was wrong:
            ``impossible`` for a change that took away more than was there, ``refresh`` for a snapshot that
            was asked for without need and differs.
    """

    def __init__(
        self,
        *,
        window_us: int = 20_000_000,
        on_wrong: Callable[[str, WrongReason], None] = lambda *_: None,
    ) -> None:
        self.window_us: Final = window_us
        self._keep_us = window_us + window_us * sum(_PATIENCE) // 10 + _SLACK_US
        self._on_wrong = on_wrong
        self._books: dict[str, _OwnBook] = {}
        # A notice puts thousands of books in doubt; none of them is touched. Each event has a number,
        # and a book is in doubt while its snapshot's number is below that of its scope's last notice.
        self._serial = 0
        self._doubts: dict[tuple[str | None, int | None], int] = {}
        self._processed = self._dropped = 0
        self.impossible = 0
        """Changes that took away more than was there."""
        self.refreshed_differently = 0
        """Snapshots without need that differed."""

    def __len__(self) -> int:
        return len(self._books)

    # As a sink of the router.

    @property
    def name(self) -> str:
        """Of this sink."""
        return "audit"

    @property
    def types(self) -> frozenset[str] | None:
        """The frame types that it wants."""
        return _TYPES

    @property
    def is_full(self) -> bool:
        """Never: nothing waits here."""
        return False

    def offer(self, received: Received) -> None:
        """Apply a frame; one that cannot be read is counted as dropped, and puts its sid in doubt."""
        try:
            event = read_frame(decode_frame(received.frame))
        except WireError:
            self._dropped += 1
            self._doubt(received.connection, received.sid)
            return
        self._processed += 1
        if isinstance(event, BookDelta):
            self._change(event, received)
        elif isinstance(event, BookSnapshot) and not received.doubt:
            self._replace(event, received)

    def notify(self, notice: Notice) -> None:
        """Put what a notice concerns in doubt."""
        if notice.notice == "alive":
            return
        if notice.market_ticker:
            self.doubt(notice.market_ticker)
        else:
            self._doubt(notice.connection, notice.sid)

    def counts(self) -> SinkCounts:
        """Return the counts of frames."""
        return SinkCounts(self._processed + self._dropped, self._processed, self._dropped)

    def forget(self, tickers: Iterable[str]) -> None:
        """Drop markets that are not gathered any more."""
        for ticker in tickers:
            self._books.pop(ticker, None)

    def doubt(self, ticker: str) -> None:
        """Judge a market no more until its next snapshot."""
        book = self._books.get(ticker)
        if book is not None:
            book.serial = 0

    # Comparing.

    def matches(self, book: BookSnapshot, *, since_us: int) -> bool | None:
        """
        Tell whether a book equals ours at any moment since a time; None where that cannot be judged.

        Args:
            book: the exchange's.
            since_us: the beginning of the window.
        """
        own = self._books.get(book.ticker)
        if own is None or self._is_in_doubt(own):
            return None
        theirs = _levels_of(book)
        levels = own.levels
        # Levels that differ. The walk keeps it right level by level; when it is empty, all are equal.
        differing = {key for key in levels.keys() | theirs.keys() if levels.get(key, 0) != theirs.get(key, 0)}
        if not differing:
            return True
        for time_us, key, before in reversed(own.undo or ()):
            # The state before a change lasted until that change.
            if time_us < since_us:
                break
            if theirs.get(key, 0) == before:
                differing.discard(key)
                if not differing:
                    return True
            else:
                differing.add(key)
        return None if own.known_us > since_us else False

    # One book.

    def _replace(self, event: BookSnapshot, received: Received) -> None:
        own = self._books.get(event.ticker)
        if own is None:
            own = self._books[event.ticker] = _OwnBook()
        self._serial += 1
        levels = _levels_of(event)
        if levels != own.levels:
            if self._follows(own, received) and received.is_refresh:
                self.refreshed_differently += 1
                self._on_wrong(event.ticker, "refresh")
            for key in own.levels.keys() | levels.keys():
                if own.levels.get(key, 0) != levels.get(key, 0):
                    self._note(own, received.received_us, key, own.levels.get(key, 0))
            own.levels = levels
        if not self._follows(own, received):
            own.known_us = received.received_us
        own.connection, own.sid, own.serial = received.connection, received.sid, self._serial

    def _change(self, event: BookDelta, received: Received) -> None:
        own = self._books.get(event.ticker)
        if own is None or not self._follows(own, received):
            return
        key = event.price if event.side == "yes" else event.price + _NO
        before = own.levels.get(key, 0)
        after = before + event.change
        if after < 0:
            own.serial = 0
            self.impossible += 1
            self._on_wrong(event.ticker, "impossible")
            return
        self._note(own, received.received_us, key, before)
        if after:
            own.levels[key] = after
        else:
            own.levels.pop(key, None)

    def _note(self, own: _OwnBook, time_us: int, key: int, before: int) -> None:
        undo = own.undo
        if undo is None:
            undo = own.undo = deque()
        while undo and undo[0][0] < time_us - self._keep_us:
            undo.popleft()
        undo.append((time_us, key, before))

    def trim(self, ticker: str, now_us: int) -> None:
        """Drop a past that nobody will ask for; a market that fell silent does not do so itself."""
        own = self._books.get(ticker)
        if own is not None and own.undo and own.undo[-1][0] < now_us - self._keep_us:
            own.undo = None

    # Doubt.

    def _follows(self, own: _OwnBook, received: Received) -> bool:
        """Tell whether a frame goes on where the book stands."""
        return (
            own.connection == received.connection and own.sid == received.sid and not self._is_in_doubt(own)
        )

    def _doubt(self, connection: str | None, sid: int | None) -> None:
        self._serial += 1
        if connection is None:
            # Everything: what was said of parts is covered.
            self._doubts.clear()
        self._doubts[connection, sid if connection is not None else None] = self._serial
        if len(self._doubts) > 10_000:
            # Connections live for hours; whatever is so old was said again. Too much doubt does no harm.
            self._doubts = {(None, None): self._serial}

    def _is_in_doubt(self, own: _OwnBook) -> bool:
        doubts, connection = self._doubts, own.connection
        return own.serial <= max(
            doubts.get((None, None), 0),
            doubts.get((connection, None), 0),
            doubts.get((connection, own.sid), 0),
        )


@final
class Auditor:
    """
    Judges REST books, each when its time has come.

    Args:
        books: ours.
        on_diverged: called with a market whose book was wrong twice, and with what was found.
    """

    def __init__(self, books: AuditBooks, on_diverged: Callable[[str, str], None]) -> None:
        self._books = books
        self._on_diverged = on_diverged
        self._pending: list[tuple[int, int, int, Polled]] = []
        self._number = 0
        self._suspects: dict[str, int] = {}
        """When the first book was asked for that differed."""
        self._awaited: set[str] = set()
        """Markets with a book that is not judged yet."""
        self._compared = self._same = self._unjudged = self._cleared = self._diverged = 0

    @property
    def books(self) -> AuditBooks:
        """Our own books."""
        return self._books

    def take(self, polled: Polled) -> None:
        """Take a REST book over, to be judged by `judge` in a while."""
        self._awaited.add(polled.book.ticker)
        self._push(polled, 0, polled.answered_us)

    def next_due_us(self) -> int | None:
        """Return when `judge` has something to do."""
        return self._pending[0][0] if self._pending else None

    def judge(self, now_us: int) -> None:
        """Judge what is due."""
        while self._pending and self._pending[0][0] <= now_us:
            _, _, tries, polled = heappop(self._pending)
            ticker = polled.book.ticker
            verdict = self._books.matches(polled.book, since_us=polled.asked_us - self._books.window_us)
            if verdict is False and tries + 1 < len(_PATIENCE):
                self._push(polled, tries + 1, now_us)
                continue
            self._compared += 1
            self._awaited.discard(ticker)
            if verdict is None:
                self._unjudged += 1
                self._suspects.pop(ticker, None)
            elif verdict:
                self._same += 1
                self._cleared += self._suspects.pop(ticker, None) is not None
            else:
                self._suspect(ticker, polled)
            self._books.trim(ticker, now_us)

    def suspects(self, now_us: int) -> list[str]:
        """Return the markets whose second book may be asked for now."""
        # Not before: the cache would give the first one again.
        return [
            ticker
            for ticker, asked_us in self._suspects.items()
            if asked_us + self._books.window_us <= now_us and ticker not in self._awaited
        ]

    def forget(self, tickers: Sequence[str]) -> None:
        """Drop markets that are not gathered any more."""
        self._books.forget(tickers)
        for ticker in tickers:
            self._suspects.pop(ticker, None)

    def statistics(self) -> AuditStatistics:
        """Return what was found."""
        return AuditStatistics(
            markets=len(self._books),
            compared=self._compared,
            same=self._same,
            unjudged=self._unjudged,
            suspects=len(self._suspects),
            cleared=self._cleared,
            diverged=self._diverged,
            impossible=self._books.impossible,
            refreshed_differently=self._books.refreshed_differently,
        )

    def _suspect(self, ticker: str, polled: Polled) -> None:
        first_us = self._suspects.setdefault(ticker, polled.asked_us)
        if polled.asked_us < first_us + self._books.window_us:
            return
        del self._suspects[ticker]
        self._diverged += 1
        # Reported once: its snapshot is asked for, and until that comes there is nothing new to say.
        self._books.doubt(ticker)
        seconds = (polled.asked_us - first_us) // 1_000_000
        self._on_diverged(ticker, f"two books over REST, {seconds} s apart, were none that ours has been")

    def _push(self, polled: Polled, tries: int, now_us: int) -> None:
        self._number += 1
        due_us = now_us + self._books.window_us * _PATIENCE[tries] // 10
        heappush(self._pending, (due_us, self._number, tries, polled))


def auditor_of(
    options: GatherOptions, incidents: GatherIncidents, heal: Callable[[Sequence[str]], object]
) -> Auditor | None:
    """
    Return an auditor as the settings want it, or None.

    Args:
        options: of the gatherer.
        incidents: where each book that was wrong is recorded.
        heal: asks for fresh snapshots of markets.
    """
    if not options.audit:
        return None
    diverged = GatherIncidentKind.DIVERGED

    def on_wrong(ticker: str, reason: WrongReason) -> None:
        if reason == "refresh":
            detail = "a snapshot that was asked for without need is not what its changes had made; it stands"
            incidents.record(diverged, detail, ticker=ticker)
        else:
            detail = "a change took away more than was there; a snapshot is asked for"
            incidents.record(diverged, detail, ticker=ticker)
            heal([ticker])

    def on_diverged(ticker: str, detail: str) -> None:
        incidents.record(diverged, f"{detail}; a snapshot is asked for", ticker=ticker)
        heal([ticker])

    books = AuditBooks(window_us=int(options.audit_window_s * 1_000_000), on_wrong=on_wrong)
    return Auditor(books, on_diverged)


def _levels_of(book: BookSnapshot) -> dict[int, int]:
    levels = dict(book.yes)
    levels.update((price + _NO, size) for price, size in book.no)
    return levels
