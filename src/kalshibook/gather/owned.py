"""
Books of the gatherer's own: what it publishes, applied in this process as a reader would apply it.

Numbers show what is missing, not what is wrong. A change that takes away more than rests is seen only
by who holds the book; then its market is asked for again. The audit compares with these books too.
"""

import time
from collections.abc import Callable
from typing import Final, final

from kalshibook.errors import WireError
from kalshibook.gather import commands
from kalshibook.gather.records import Notice, Received, SinkCounts
from kalshibook.store import Arrival, BookStore, Outcome, StoreOptions, StoreWriter
from kalshibook.wire import GathererNotice, decode_frame, read_frame

__all__ = ["OwnBooks"]

_DIVERGED: Final = frozenset(
    {Outcome.CROSSED, Outcome.GAP, Outcome.IMPOSSIBLE, Outcome.RESET, Outcome.UNANCHORED}
)

_OF_BOOKS: Final = frozenset({"orderbook_snapshot", "orderbook_delta"})

_PATIENCE_US: Final = 10_000_000
"""A market that diverged is asked for at once, and when it does so again not before so long."""

_NOT_APPLIED: Final = frozenset({"subscribed", "ok", "unsubscribed", "error"})


@final
class OwnBooks:
    """
    A sink that keeps books; nothing waits in it and nothing is dropped.

    Args:
        source: which gatherer this is.
        on_divergence: told of a market whose book cannot be right, and why.
        options: of the store.
        clock_us: the time, microseconds since the epoch.
    """

    name: Final = "books"
    types: Final[frozenset[str] | None] = None
    is_full: Final = False

    def __init__(
        self,
        source: str,
        *,
        on_divergence: Callable[[str, str], None],
        options: StoreOptions | None = None,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1_000,
    ) -> None:
        self.store: Final = BookStore(options)
        self._source = source
        self._on_divergence = on_divergence
        self._clock_us = clock_us
        self._lease = self.store.writer()
        self._writer: StoreWriter | None = None
        self._offset = 0
        self._processed = self._dropped = 0
        self._asked_us: dict[str, int] = {}

    def start(self) -> None:
        """Take the store's writer."""
        self._writer = self._lease.__enter__()

    def stop(self) -> None:
        """Give it back."""
        if self._writer is not None:
            self._writer.commit()
            self._writer = None
            self._lease.__exit__(None, None, None)

    def offer(self, received: Received) -> None:
        """Apply a frame."""
        writer = self._writer
        if writer is None:
            self._dropped += 1
            return
        self._processed += 1
        if received.type in _NOT_APPLIED:
            return
        arrival = self._arrival(received.connection, received.sid, received.sequence, received.received_us)
        try:
            event = read_frame(decode_frame(received.frame))
        except WireError as error:
            # Readers cannot read it either: their books stay in doubt until the next snapshot.
            ticker = commands.decode_ticker(commands.decode_head(received.frame))
            writer.reject(error, arrival, ticker, channel=received.type)
            if ticker is not None and received.type in _OF_BOOKS:
                self._diverged(ticker, Outcome.REJECTED.value)
            writer.commit()
            return
        outcome = writer.apply(event, arrival)
        if outcome in _DIVERGED:
            self._diverged(getattr(event, "ticker", ""), outcome.value)
        writer.commit()

    def notify(self, notice: Notice) -> None:
        """Apply a notice."""
        if self._writer is None or notice.notice == "alive":
            return
        event = GathererNotice(notice.notice, notice.reason, notice.detail, None, notice.market_ticker)
        self._writer.apply(event, self._arrival(notice.connection, notice.sid, None, self._clock_us()))
        self._writer.commit()

    def counts(self) -> SinkCounts:
        """Return the counts."""
        return SinkCounts(self._processed + self._dropped, self._processed, self._dropped, 0)

    def tick(self, now_us: int, *, is_ready: bool) -> None:
        """Open and close markets whose time has come, and say whether the books are complete."""
        if self._writer is not None:
            self._writer.tick(now_us)
            self._writer.set_ready(is_ready, "the gatherer is not connected, or still fills its books")
            self._writer.commit()

    def _arrival(self, connection: str | None, sid: int | None, sequence: int | None, now_us: int) -> Arrival:
        # Without a previous number: between the socket and here nothing can be lost.
        offset = self._offset
        self._offset += 1
        return Arrival(self._source, connection, sid, sequence, None, now_us, None, None, now_us, 0, offset)

    def _diverged(self, ticker: str, reason: str) -> None:
        now_us = self._clock_us()
        asked_us = self._asked_us.get(ticker)
        if asked_us is not None and now_us - asked_us < _PATIENCE_US:
            return
        if len(self._asked_us) > 10_000:
            self._asked_us.clear()
        self._asked_us[ticker] = now_us
        self._on_divergence(ticker, reason)
