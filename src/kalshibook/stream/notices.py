"""
Trades and lifecycle: every frame waits, up to a limit; beyond it the subscription has to end.

What was lost of them cannot be told otherwise: they add up to no state that could be sent instead.
"""

from collections import deque
from collections.abc import Collection
from typing import final

import msgspec

from kalshibook.store import Cut
from kalshibook.stream.channels import Channel
from kalshibook.stream.frames import FrameWriter
from kalshibook.stream.routes import Routes
from kalshibook.stream.subscription import AnySubscription, Owner, Subscription

__all__ = ["Notice", "NoticeSubscription"]


class Notice(msgspec.Struct, frozen=True, gc=False):
    """A frame that is passed on."""

    ticker: str
    opening: bytes
    tail: bytes


@final
class NoticeSubscription(Subscription[Notice]):
    """Trades or lifecycle messages."""

    def __init__(
        self, owner: Owner, sid: int, channel: Channel, routes: Routes[AnySubscription], *, capacity: int
    ) -> None:
        super().__init__(owner, sid, channel, routes)
        self._capacity = capacity
        self._queue: deque[Notice] = deque()

    @property
    def backlog(self) -> int:
        """How many frames wait."""
        return len(self._queue)

    def push(self, item: Notice) -> None:
        """Take one frame."""
        if len(self._queue) >= self._capacity:
            self.owner.doom(self)
            return
        self._queue.append(item)
        self._wake()

    def write(self, writer: FrameWriter) -> bool:
        """Write frames in order."""
        queue, stamp = self._queue, writer.stamp
        while queue:
            if writer.is_full:
                return True
            item = queue.popleft()
            writer.add(item.opening, self.next_head(stamp), item.tail)
        return False

    def _begin(self, tickers: Collection[str], cut: Cut, now_us: int, *, initial: bool) -> None:
        """Nothing is sent at once: what is over is not told again."""

    def _held(self) -> Collection[str]:
        return {item.ticker for item in self._queue}

    def _forget(self, tickers: Collection[str]) -> None:
        if self._queue:
            gone = {*tickers}
            self._queue = deque(item for item in self._queue if item.ticker not in gone)

    def _clear(self) -> None:
        self._queue = deque()
