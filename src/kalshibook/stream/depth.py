"""Full depth: every delta waits, up to a limit; beyond it fresh snapshots take over, or the end."""

from collections import deque
from collections.abc import Collection
from typing import Final, final

import msgspec

from kalshibook.store import Condition, Cut
from kalshibook.stream.channels import Channel
from kalshibook.stream.encode import DELTA_OPENING, SNAPSHOT_OPENING
from kalshibook.stream.frames import FrameWriter
from kalshibook.stream.routes import Routes
from kalshibook.stream.shared import Counters
from kalshibook.stream.subscription import AnySubscription, Owner, Subscription

__all__ = ["DepthItem", "DepthSubscription"]

_UNKNOWN: Final = -1


class DepthItem(msgspec.Struct, frozen=True, gc=False):
    """One step of a book: a delta, or the order to write a snapshot."""

    ticker: str
    version: int
    """The store's version after this step."""
    tail: bytes | None
    """Of the delta; None is a snapshot, made from the newest version when it is written."""
    request_id: int | None = None
    """Of a snapshot asked for by `get_snapshot`: the command's id, 0 for none."""


@final
class DepthSubscription(Subscription[DepthItem]):
    """
    Full depth: per market a snapshot of the store's version v, then exactly the deltas after v.

    Rule 1: a snapshot is made when it is written, from the newest version, and remembered by it.
    Rule 2: a delta is written only if its version is newer than the remembered one.
    Rule 3: a market without a remembered version gets a snapshot instead of a delta, or nothing
    while its book is not live; the change that makes it live orders a snapshot.

    So it does not matter how far behind the store the changes arrive, or what was dropped before.
    """

    def __init__(
        self,
        owner: Owner,
        sid: int,
        channel: Channel,
        routes: Routes[AnySubscription],
        *,
        yes_scale: bool,
        capacity: int,
        replaces: bool,
        counters: Counters,
    ) -> None:
        super().__init__(owner, sid, channel, routes)
        self.yes_scale = yes_scale
        self._capacity = capacity
        self._replaces = replaces
        self._counters = counters
        self._queue: deque[DepthItem] = deque()
        self._due: dict[str, int] = {}
        """Markets with a snapshot in the queue, and the newest version that it has to cover."""
        self._requests = 0
        self._written: dict[str, int] = {}
        """Version of each market's last snapshot."""

    @property
    def backlog(self) -> int:
        """How many deltas and snapshots wait."""
        return len(self._queue)

    @property
    def requests(self) -> int:
        """How many snapshots that were asked for wait."""
        return self._requests

    def push(self, item: DepthItem) -> None:
        """Take one step of a book; of a market whose snapshot waits, only its version is kept."""
        ticker = item.ticker
        if ticker in self._due:
            self._due[ticker] = item.version
            return
        if item.tail is None:
            if item.version <= self._written.get(ticker, _UNKNOWN):
                return
            self._due[ticker] = item.version
        self._queue.append(item)
        if len(self._queue) - len(self._due) - self._requests > self._capacity:
            self._overflow()
        self._wake()

    def request(self, ticker: str, request_id: int) -> None:
        """Order a snapshot whatever was written before; the market need not be selected."""
        self._requests += 1
        self._queue.append(DepthItem(ticker, 0, None, request_id))
        self._wake()

    def write(self, writer: FrameWriter) -> bool:
        """Write deltas and snapshots in order."""
        queue, known, stamp = self._queue, self._written, writer.stamp
        while queue:
            if writer.is_full:
                return True
            item = queue.popleft()
            if item.tail is None:
                self._write_ordered(item, writer)
                continue
            version = known.get(item.ticker, _UNKNOWN)
            if version == _UNKNOWN:
                self._write_snapshot(item.ticker, writer)
            elif item.version > version:
                writer.add(DELTA_OPENING, self.next_head(stamp), item.tail)
        return False

    def _write_ordered(self, item: DepthItem, writer: FrameWriter) -> None:
        if item.request_id is not None:
            self._requests -= 1
            self._write_snapshot(item.ticker, writer, item.request_id)
        elif self._due.pop(item.ticker) > self._written.get(item.ticker, _UNKNOWN):
            self._write_snapshot(item.ticker, writer)

    def _write_snapshot(self, ticker: str, writer: FrameWriter, request_id: int = 0) -> None:
        book = writer.cut.get(ticker)
        if book is None or book.copy is not Condition.LIVE:
            # Never an empty book in place of one that is not known. It is in doubt since a version
            # that has not arrived here, or has and is of no use; the one that heals it is to come.
            self._written.pop(ticker, None)
            return
        opening = SNAPSHOT_OPENING + b',"id":%d' % request_id if request_id else SNAPSHOT_OPENING
        tail = writer.snapshots.tail(book, yes_scale=self.yes_scale)
        writer.add(opening, self.next_head(writer.stamp), tail)
        if self.selection.has(ticker):
            self._written[ticker] = book.version

    def _overflow(self) -> None:
        if not self._replaces:
            self.owner.doom(self)
            return
        queue, self._queue = self._queue, deque()
        for item in queue:
            if item.tail is not None:
                self._due[item.ticker] = item.version
                self._counters.conflated += 1
            elif item.request_id is not None:
                self._queue.append(item)
        self._queue.extend(DepthItem(ticker, version, None) for ticker, version in self._due.items())
        self._counters.snapshots_resent += len(self._due)

    def _begin(
        self,
        tickers: Collection[str],
        cut: Cut,
        now_us: int,  # noqa: ARG002 - depth does not wait by time
        *,
        initial: bool,  # noqa: ARG002 - and has no choice
    ) -> None:
        for ticker in tickers:
            book = cut.get(ticker)
            if book is not None and book.copy is Condition.LIVE:
                self.push(DepthItem(ticker, book.version, None))

    def _held(self) -> Collection[str]:
        return {*self._written, *(item.ticker for item in self._queue if item.request_id is None)}

    def _forget(self, tickers: Collection[str]) -> None:
        for ticker in tickers:
            self._written.pop(ticker, None)
            self._due.pop(ticker, None)
        if self._queue:
            gone = {*tickers}
            kept = (item for item in self._queue if item.request_id is not None or item.ticker not in gone)
            self._queue = deque(kept)

    def _clear(self) -> None:
        self._queue, self._due, self._written, self._requests = deque(), {}, {}, 0
