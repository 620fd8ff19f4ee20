"""
Playing frames into Kafka: recorded or simulated ones, at any speed, without outrunning the reader.

An embedded broker keeps about 5 MiB of a partition and evicts older records whether or not they
were read. A fast player therefore says where its reader stands, and waits for it.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from kalshibook.errors import WireError
from kalshibook.feeds.pacing import Pacer
from kalshibook.feeds.publisher import Publisher
from kalshibook.feeds.tape import RecordedFrame

__all__ = ["MAX_UNREAD", "PlayReport", "play"]

_log = logging.getLogger(__name__)

MAX_UNREAD: Final = 2_000
"""Records a reader may be behind in a partition: snapshots of 3 kB, compressed, stay far below 5 MiB."""

_CHECK_EVERY: Final = 64
_POLL_S: Final = 0.002
_LONGEST_WAIT_S: Final = 0.1
_WARN_AFTER_S: Final = 10.0


class PlayReport(msgspec.Struct, frozen=True):
    """What became of the frames of one playing."""

    frames: int
    """Frames taken."""
    rejected: int
    """Frames that name no market, or are none."""
    complete: bool
    """Whether the end was reached, not a stop."""
    waited_s: float
    """Time spent on waiting for the reader."""


def play(
    frames: Iterable[RecordedFrame],
    publisher: Publisher,
    *,
    speed: float = 1.0,
    max_pause_ms: int = 2_000,
    restamp: bool = True,
    loop: bool = False,
    consumed: Callable[[], Mapping[int, int]] | None = None,
    max_unread: int = MAX_UNREAD,
    stop: threading.Event | None = None,
) -> PlayReport:
    """
    Publish frames in their order and at their pace, until they end or `stop` is set.

    Args:
        frames: what to play; a `Tape` gives each iteration its own connections, as `loop` needs.
        publisher: where to; its reports are waited for at the end.
        speed: how many times faster than recorded; ``math.inf`` for as fast as possible.
        max_pause_ms: longest recorded time between two frames; what is longer is cut to it.
        restamp: stamp the time of receipt now, so that latencies mean something; else keep the
            recorded one. The exchange's own time, inside the frame, is never touched.
        loop: begin again at the end; needs `restamp`, since a store takes older receipts for replays.
        consumed: next offset to consume by partition, such as ``lambda: store.cut().offsets``; the
            player keeps within `max_unread` records of it. Without it nothing is waited for.
        max_unread: how far, per partition.
        stop: ends the playing soon, also while it waits.

    Raises:
        FeedError: the publisher cannot go on.
        ValueError: `loop` without `restamp`.
    """
    if loop and not restamp:
        raise ValueError("a loop without restamping sends frames back in time; a store drops them as replays")
    player = _Player(publisher, restamp, consumed, max_unread, stop or threading.Event())
    complete = player.run(frames, Pacer(speed, max_pause_ms))
    while complete and loop and player.taken:
        player.forget()
        complete = player.run(frames, Pacer(speed, max_pause_ms))
    publisher.flush()
    return PlayReport(player.taken, player.rejected, complete, player.waited_s)


class _Player:
    def __init__(
        self,
        publisher: Publisher,
        restamp: bool,
        consumed: Callable[[], Mapping[int, int]] | None,
        max_unread: int,
        stop: threading.Event,
    ) -> None:
        self._publisher = publisher
        self._restamp = restamp
        self._consumed = consumed
        self._max_unread = max_unread
        self._stop = stop
        self._connections: set[str] = set()
        self.taken = 0
        self.rejected = 0
        self.waited_s = 0.0

    def run(self, frames: Iterable[RecordedFrame], pacer: Pacer) -> bool:
        for frame in frames:
            pacer.schedule(frame.received_ms)
            while (delay_s := pacer.delay_s()) > 0 and not self._stop.wait(min(delay_s, _LONGEST_WAIT_S)):
                self._publisher.poll()
            if self.taken % _CHECK_EVERY == 0:
                self._wait_for_reader()
            if self._stop.is_set():
                return False
            self._publish(frame)
        return True

    def forget(self) -> None:
        """Drop what the publisher remembers of this round: its connections do not come again."""
        for connection in self._connections:
            self._publisher.forget(connection)
        self._connections.clear()

    def _publish(self, frame: RecordedFrame) -> None:
        self.taken += 1
        self._connections.add(frame.connection)
        publish = self._publisher.publish_nowait
        try:
            while not publish(frame.frame, connection=frame.connection, received_us=self._received_us(frame)):
                self._publisher.poll(_LONGEST_WAIT_S)
                if self._stop.is_set():
                    return
        except WireError as error:
            self.rejected += 1
            _log.warning("frame %d of this playing is not published: %s", self.taken, error)

    def _received_us(self, frame: RecordedFrame) -> int:
        return time.time_ns() // 1_000 if self._restamp else frame.received_ms * 1_000

    def _wait_for_reader(self) -> None:
        if self._consumed is None or not self._unread():
            return
        began_s = time.monotonic()
        warned = False
        while (unread := self._unread()) and not self._stop.is_set():
            self._publisher.poll(_POLL_S)
            if not warned and time.monotonic() - began_s > _WARN_AFTER_S:
                warned = True
                _log.warning("the reader is %d records behind; the player waits for it", unread)
        self.waited_s += time.monotonic() - began_s

    def _unread(self) -> int:
        """Return how many records the slowest partition is behind, or 0 within the limit."""
        assert self._consumed is not None
        read = self._consumed()
        ends = self._publisher.ends()
        behind = max((end - read.get(partition, 0) for partition, end in ends.items()), default=0)
        # What is on its way may all be for that partition.
        behind += self._publisher.statistics().in_flight
        return behind if behind > self._max_unread else 0
