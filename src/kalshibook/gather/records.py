"""What moves inside a gatherer, and what takes it: frames, notices, sinks and their counts. Pure."""

from typing import Protocol

import msgspec

from kalshibook.wire import NoticeKind

__all__ = ["Notice", "Received", "Sink", "SinkCounts"]


class Received(msgspec.Struct, frozen=True, gc=False):
    """A frame as it came off a socket, or as it was made of a REST answer."""

    frame: bytes
    """Untouched."""
    connection: str
    """Id of the socket epoch, unique for ever."""
    received_us: int
    """When it was received, microseconds since the epoch."""
    type: str
    """The frame's `type`."""
    sid: int | None = None
    sequence: int | None = None
    """The frame's `seq`."""
    doubt: str = ""
    """Why a book is not to be trusted although this frame is applied; empty for every frame of a socket."""
    is_refresh: bool = False
    """A snapshot that was only asked for to say again what was said before."""


class Notice(msgspec.Struct, frozen=True, gc=False):
    """What a gatherer says of itself, among the frames and in their order."""

    notice: NoticeKind
    reason: str = ""
    detail: str = ""
    connection: str | None = None
    """None is every connection."""
    sid: int | None = None
    """None is every subscription of the connection."""
    market_ticker: str = ""
    """Empty is every market."""
    interval_ms: int | None = None
    """Of `alive`: when the next one is due at the latest."""


class SinkCounts(msgspec.Struct, frozen=True):
    """What became of what a sink was offered; ``offered == processed + dropped + waiting`` at any moment."""

    offered: int = 0
    processed: int = 0
    """Done, as far as this sink goes; also what it had to do nothing about."""
    dropped: int = 0
    """Lost here, each told in an incident or a log line."""
    waiting: int = 0

    @property
    def adds_up(self) -> bool:
        """Whether nothing is unaccounted for."""
        return self.offered == self.processed + self.dropped + self.waiting


class Sink(Protocol):
    """
    Takes frames. All is called on the event loop's thread, and none of it blocks or raises.

    A sink that must not drop says through `is_full` that it cannot keep pace: sockets are not read
    until it can again. At most one frame per socket comes after it has said so.
    """

    @property
    def name(self) -> str:
        """Of this sink, for counts and metrics."""

    @property
    def types(self) -> frozenset[str] | None:
        """The frame types that it wants; None wants all, also `ok` and types that are not known yet."""

    @property
    def is_full(self) -> bool:
        """Whether sockets should not be read now; a sink that drops instead says False."""

    def offer(self, received: Received) -> None:
        """Take over a frame, or drop and count it."""

    def notify(self, notice: Notice) -> None:
        """Take over a notice; it belongs between the frames offered before it and those after."""

    def counts(self) -> SinkCounts:
        """Return the counts of frames; from any thread."""
