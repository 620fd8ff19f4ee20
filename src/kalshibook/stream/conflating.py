"""
Top of book and ticker: per market the newest state waits, and says how many changes it stands for.

What can wait is bounded by the number of markets, however slowly a client reads.
"""

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from operator import attrgetter
from typing import Final, NamedTuple, final

from kalshibook.store import Book, Cut
from kalshibook.stream.block import Block
from kalshibook.stream.channels import Channel
from kalshibook.stream.frames import FrameWriter
from kalshibook.stream.newest import Latest
from kalshibook.stream.routes import Routes, Selection
from kalshibook.stream.shared import Bodies, Counters
from kalshibook.stream.subscription import AnySubscription, Owner, Subscription

__all__ = ["ConflatingSubscription"]

_MOST_BLOCKS: Final = 32
"""Of more, their frames put together would be a slow client's largest part."""

_tail = attrgetter("tail")


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
        self._blocks: deque[Block] = deque()
        """Of one round, and only while nothing is pending: who keeps pace shares them with others."""
        self._sweeps: dict[str, _Sweep] = {}
        """By prefix, the empty one for all markets: what remains of their first states."""

    @property
    def backlog(self) -> int:
        """How many markets wait; the first states of all markets, or of a prefix, count as one."""
        # Copied at once: metrics ask on a thread of their own.
        blocks = [*self._blocks]
        return len(self._pending) + len(self._sweeps) + sum(len(block.items) for block in blocks)

    def push(self, item: Latest) -> None:
        """Take a market's new state; it replaces one that waits, which keeps its place."""
        if self._blocks:
            self._unpack()
        ticker = item.ticker
        floor = self._floors.get(ticker, self._floor) if self._floors else self._floor
        if item.version <= floor:
            return
        if item.folded is not None:
            item, replaced = item.folded.after(floor)
            self._counters.conflated += replaced
        waiting = self._pending.get(ticker)
        if waiting is None:
            self._pending[ticker] = item
        else:
            merged = waiting.merged + item.merged
            self._pending[ticker] = Latest(ticker, item.version, item.body, waiting.since_us, merged)
            self._counters.conflated += 1
        self._wake()

    def push_all(self, items: Sequence[Latest], block: Block) -> int:
        """
        Take new states of several markets; for a subscription to every market.

        Args:
            items: as for `push`.
            block: the same, to be shared by those who keep pace.

        Returns:
            How many states were handled one by one; 0 where the block is shared.
        """
        blocks = self._blocks
        # Markets that were followed before all others were have older floors than this one.
        keeps_pace = not (self._pending or self._sweeps) and block.first_version > self._floor
        if keeps_pace and (not blocks or (blocks[0].round is block.round and len(blocks) < _MOST_BLOCKS)):
            self._counters.conflated += block.replaced
            blocks.append(block)
            self._wake()
            return 0
        unpacked = self._unpack()
        for item in items:
            self.push(item)
        return unpacked + len(items)

    def _unpack(self) -> int:
        """Let the markets of blocks wait one by one, for newer states to replace them; return how many."""
        blocks, self._blocks = self._blocks, deque()
        for block in blocks:
            for item in block.items:
                self._pending[item.ticker] = item
        return sum(len(block.items) for block in blocks)

    def write(self, writer: FrameWriter) -> bool:
        """Write states, longest waiting first."""
        # Before what waits: that is newer than the states that the sweeps send.
        if self._sweeps:
            self._write_sweeps(writer)
        if writer.is_full:
            return True
        if self._blocks and self._write_blocks(writer):
            return bool(self._blocks)
        pending = self._pending
        written = writer.add_all(
            self.next_heads(self._bodies.opening, writer.stamp), map(_tail, pending.values())
        )
        self.took(written)
        if written == len(pending):
            # A new dict, not clear(): the old one may have grown to the number of all markets.
            self._pending = {}
            return False
        for ticker in [*islice(pending, written)]:
            del pending[ticker]
        return True

    def _write_blocks(self, writer: FrameWriter) -> bool:
        """Write blocks as they are while there is room, and tell whether that could be done."""
        while self._blocks and not writer.is_full:
            block = self._blocks[0]
            frames = self.next_block(block, self._bodies.opening, writer.stamp)
            if frames is None or not writer.add_block(frames, len(block.items)):
                self._unpack()
                return False
            self.took(len(block.items))
            self._blocks.popleft()
        return True

    def _write_sweeps(self, writer: FrameWriter) -> None:
        bodies, sweeps = self._bodies, self._sweeps
        for prefix in [*sweeps]:
            for book in sweeps[prefix].books:
                if writer.add(bodies.opening, self.next_head(writer.stamp), bodies.of(book).tail):
                    return
            del sweeps[prefix]

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
            books = (book for book in cut.books() if not before.has(book.market.ticker))
            self._add_sweep("", _Sweep(cut, books))

    def _begin_prefixes(
        self,
        prefixes: Sequence[str],
        before: Selection,
        cut: Cut,
        now_us: int,  # noqa: ARG002 - the states sent at once replace nothing that has waited
        *,
        initial: bool,
    ) -> None:
        for prefix in prefixes:
            if before.is_covered(prefix):
                continue
            if cut.version > self._floor:
                self._floors.update(dict.fromkeys(_matching(prefix, before, cut), cut.version))
            if initial:
                books = map(cut.__getitem__, _matching(prefix, before, cut))
                self._add_sweep(prefix, _Sweep(cut, books))

    def _add_sweep(self, prefix: str, sweep: "_Sweep") -> None:
        # Walked as it is written: made at once, the states of 100,000 markets would be a client's
        # largest part, and hold up all others for a fifth of a second.
        self._sweeps[prefix] = sweep
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
        for prefix in [prefix for prefix in self._sweeps if not self.selection.is_covered(prefix)]:
            self._end_sweep(prefix, self._sweeps.pop(prefix).cut)

    def _end_sweep(self, prefix: str, cut: Cut) -> None:
        # Markets that are also selected by name may have been left to the sweep.
        for ticker in self.selection.tickers:
            book = cut.get(ticker) if ticker.startswith(prefix) else None
            if book is not None and ticker not in self._pending:
                latest = Latest(ticker, book.version, self._bodies.of(book), cut.applied_us, 0)
                self._pending[ticker] = latest

    def _clear(self) -> None:
        self._floors, self._pending, self._sweeps = {}, {}, {}
        self._blocks.clear()


class _Sweep(NamedTuple):
    cut: Cut
    books: Iterator[Book]
    """Those of the cut that are still to be written."""


def _matching(prefix: str, before: Selection, cut: Cut) -> Iterator[str]:
    # A function and not an expression, which would list the tickers at once.
    for ticker in cut.tickers(prefix=prefix):
        if not before.has(ticker):
            yield ticker
