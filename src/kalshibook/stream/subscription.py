"""
One subscription of a client: what it selects, its counter, and the frame of what it holds back.

Numbers (`seq`) are given when a frame is written. What was replaced, dropped or never written has
taken none, so no client ever sees a gap that is not one.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import count, repeat
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from kalshibook.store import Cut
from kalshibook.stream.block import Block
from kalshibook.stream.channels import Channel
from kalshibook.stream.commands import Markets
from kalshibook.stream.frames import FrameWriter
from kalshibook.stream.routes import Routes, Selection

__all__ = ["AnySubscription", "Owner", "Subscription"]

I = TypeVar("I")  # noqa: E741 - item


class Owner(Protocol):
    """Who is told that a subscription has output, or cannot go on."""

    def wake(self, subscription: "AnySubscription") -> None:
        """Note that a subscription has something to write after it had nothing."""

    def doom(self, subscription: "AnySubscription") -> None:
        """Note that a subscription overflowed and must end; not at once, routes are being walked."""

    def end_overflowed(self, subscription: "AnySubscription") -> None:
        """End a subscription that overflowed, and tell the client."""


class Subscription(ABC, Generic[I]):
    """One sid: its channel, what it selects, its counter, and what waits."""

    def __init__(self, owner: Owner, sid: int, channel: Channel, routes: Routes["AnySubscription"]) -> None:
        self.owner = owner
        self.opened_version = 0
        """The store's version when it was opened; what is older concerns it no more."""
        self.sid = sid
        self.channel = channel
        self.selection = Selection()
        self.skip_ticker_ack = False
        self.is_waiting = False
        """Whether the owner knows that there is something to write; the owner clears it."""
        self._routes = routes
        self._is_sequenced = channel.sequenced
        self._head = b',"sid":%d,"seq":' % sid if channel.sequenced else b',"sid":%d' % sid
        self._seq = 0
        self._second = 0
        self._commands = 0

    @property
    def seq(self) -> int:
        """The last number given; 0 before the first."""
        return self._seq

    def next_head(self, stamp: bytes) -> bytes:
        """Return the head of the next frame, which takes a number where the channel has numbers."""
        if not self._is_sequenced:
            return self._head + stamp
        self._seq += 1
        return b"%b%d%b" % (self._head, self._seq, stamp)

    def next_heads(self, opening: bytes, stamp: bytes) -> Iterator[bytes]:
        """Return the heads of the next frames, each behind the opening; `took` tells how many were used."""
        head = opening + self._head
        if not self._is_sequenced:
            return repeat(head + stamp)
        return map((head + b"%d" + stamp).__mod__, count(self._seq + 1))

    def next_block(self, block: Block, opening: bytes, stamp: bytes) -> bytes | None:
        """Return a block's as the next frames, or None if it cannot; `took` tells that they were used."""
        return block.frames(opening + self._head, self._seq + 1 if self._is_sequenced else None, stamp)

    def took(self, heads: int) -> None:
        """Count the heads that were used of `next_heads`, or of `next_block`."""
        if self._is_sequenced:
            self._seq += heads

    def count_command(self, now_us: int) -> int:
        """Count a command that names this subscription; return how many this second has seen."""
        second = now_us // 1_000_000
        if second != self._second:
            self._second, self._commands = second, 0
        self._commands += 1
        return self._commands

    def add(self, markets: Markets, cut: Cut, now_us: int, *, initial: bool) -> None:
        """
        Select more markets; those held already are left alone.

        Args:
            markets: what to add.
            cut: the store as of now; what is sent at once is taken from it, changes follow it.
            now_us: the time.
            initial: whether the current state is sent at once, where the channel leaves a choice.
        """
        selection = self.selection
        if selection.every:
            return
        if markets.every:
            self._routes.remove(self, selection)
            self.selection = Selection()
            self.selection.every = True
            self._routes.add(self, self.selection)
            self._begin_every(selection, cut, initial=initial)
            return
        fresh = [ticker for ticker in markets.tickers if not selection.has(ticker)]
        if not markets.prefixes:
            selection.tickers.update(dict.fromkeys(markets.tickers))
            self._routes.add_tickers(self, fresh)
            self._begin(fresh, cut, now_us, initial=initial)
            return
        self._routes.remove(self, selection)
        self.selection = Selection()
        self.selection.prefixes = _shortest((*selection.prefixes, *markets.prefixes))
        self.selection.tickers = {**selection.tickers, **dict.fromkeys(markets.tickers)}
        self._routes.add(self, self.selection)
        self._begin(fresh, cut, now_us, initial=initial)
        selection.tickers = self.selection.tickers.copy()
        self._begin_prefixes(_shortest(markets.prefixes), selection, cut, now_us, initial=initial)

    def remove(self, markets: Markets) -> None:
        """Select no longer what is named; what waits of it is dropped. Names not held are left alone."""
        selection = self.selection
        gone = [ticker for ticker in markets.tickers if ticker in selection.tickers]
        prefixes = tuple(prefix for prefix in selection.prefixes if prefix not in markets.prefixes)
        if prefixes != selection.prefixes:
            self._routes.remove(self, selection)
            selection.prefixes = prefixes
            for ticker in gone:
                del selection.tickers[ticker]
            self._routes.add(self, selection)
            self._forget([ticker for ticker in self._held() if not selection.has(ticker)])
            return
        self._routes.remove_tickers(self, selection.routed(gone))
        for ticker in gone:
            del selection.tickers[ticker]
        self._forget([ticker for ticker in gone if not selection.has(ticker)])

    def end(self) -> None:
        """Leave the routes and drop what waits."""
        self._routes.remove(self, self.selection)
        self.selection = Selection()
        self._clear()

    def _wake(self) -> None:
        if not self.is_waiting:
            self.is_waiting = True
            self.owner.wake(self)

    @property
    @abstractmethod
    def backlog(self) -> int:
        """How many items wait."""

    @abstractmethod
    def push(self, item: I) -> None:
        """Take what was published for a selected market."""

    @abstractmethod
    def write(self, writer: FrameWriter) -> bool:
        """Write what waits until the writer is full; tell whether something is left."""

    @abstractmethod
    def _begin(self, tickers: Collection[str], cut: Cut, now_us: int, *, initial: bool) -> None:
        """Start on markets that are newly selected."""

    def _begin_every(self, before: Selection, cut: Cut, *, initial: bool) -> None:
        """Start on all markets but those that were selected before."""

    def _begin_prefixes(
        self, prefixes: Sequence[str], before: Selection, cut: Cut, now_us: int, *, initial: bool
    ) -> None:
        """Start on the markets that begin so, of which none is another's prefix, but for those before."""
        fresh = [
            ticker for prefix in prefixes for ticker in cut.tickers(prefix=prefix) if not before.has(ticker)
        ]
        self._begin(fresh, cut, now_us, initial=initial)

    @abstractmethod
    def _held(self) -> Collection[str]:
        """Return the markets of which anything is held."""

    @abstractmethod
    def _forget(self, tickers: Collection[str]) -> None:
        """Drop what is held of markets that are no longer selected."""

    @abstractmethod
    def _clear(self) -> None:
        """Drop everything."""


def _shortest(prefixes: Iterable[str]) -> tuple[str, ...]:
    kept: list[str] = []
    for prefix in sorted(set(prefixes)):
        if not kept or not prefix.startswith(kept[-1]):
            kept.append(prefix)
    return tuple(kept)


AnySubscription: TypeAlias = Subscription[Any]
