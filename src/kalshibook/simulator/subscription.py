"""
One subscription of a client to the simulated exchange: what it selects, its counter, its faults.

Numbers are given when a frame is made, as on the real exchange: a frame that is lost on purpose has
taken its number. Pure.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from kalshibook.simulator.frames import delta_tail
from kalshibook.simulator.ledger import Fault, FaultKind, FaultLedger
from kalshibook.stream.channels import Channel

__all__ = ["FrameSink", "Subscription"]

_OPENING_DELTA: Final = b'{"type":"orderbook_delta"'
_OF_DELTAS: Final = frozenset({FaultKind.IMPOSSIBLE_DELTA, FaultKind.WRONG_DELTA})


class FrameSink(Protocol):
    """Where a subscription's frames go: its client's outbox."""

    def put(self, frame: bytes, subscription: "Subscription", shows: Sequence[Fault] = ()) -> None:
        """Queue a frame, and the faults that can be noticed once it has been sent."""


class Subscription:
    """One sid."""

    __slots__ = (
        "_commands",
        "_heads",
        "_held_back",
        "_ledger",
        "_second",
        "_sink",
        "_to_expose",
        "awaiting",
        "channel",
        "ended",
        "every",
        "now_us",
        "seq",
        "sid",
        "skip_ack",
        "snapshots",
        "tickers",
        "troubles",
        "waiting",
        "yes_scale",
    )

    def __init__(
        self, sink: FrameSink, ledger: FaultLedger, sid: int, channel: Channel, now_us: Callable[[], int]
    ) -> None:
        self.sid = sid
        self.channel = channel
        self.seq = 0
        """The last number given."""
        self.every = False
        """Whether it is to all markets."""
        self.tickers: dict[str, None] = {}
        """The markets it names, in the order in which they were named."""
        self.awaiting: set[str] = set()
        """Markets whose snapshot is still to be sent; until then nothing is told of them."""
        self.snapshots: deque[tuple[str, int | None]] = deque()
        """Snapshots that are due: for a new market, or for the command of this id (0 without one)."""
        self.yes_scale = False
        """Whether NO levels are told on the YES scale."""
        self.skip_ack = False
        self.waiting = 0
        """Frames in the client's outbox."""
        self.ended = False
        self.troubles: deque[Fault] = deque()
        """Faults that the next frames are for."""
        self.now_us = now_us
        self._sink = sink
        self._ledger = ledger
        self._heads: dict[bytes, bytes] = {}
        self._held_back: bytes | None = None
        self._to_expose: list[Fault] = []
        self._second = 0
        self._commands = 0

    def count_command(self, now_us: int) -> int:
        """Count a command that names this subscription; return how many this second has seen."""
        second = now_us // 1_000_000
        if second != self._second:
            self._second, self._commands = second, 0
        self._commands += 1
        return self._commands

    def emit(self, opening: bytes, tail: bytes, ticker: str = "") -> None:
        """
        Send a frame: opening, sid, the next number where there are numbers, and the tail.

        Args:
            opening: such as ``{"type":"trade"``.
            tail: from ``,"msg":`` to the closing brace.
            ticker: the market that it is about.
        """
        if self.troubles:
            self._troubled(opening, tail, ticker)
            return
        self._put(self._numbered(opening, tail))

    def emit_last(self, opening: bytes, tail: bytes) -> None:
        """
        Send the frame that ends the subscription, whatever faults are due.

        A client that is not told the end would wait for ever, and could not know; and whoever
        drops a subscription need not notice that something of it was missing.
        """
        self.ended = True
        if self._held_back is not None:
            held, self._held_back = self._held_back, None
            self._sink.put(held, self)
        self._sink.put(self._numbered(opening, tail), self)

    def _numbered(self, opening: bytes, tail: bytes) -> bytes:
        head = self._heads.get(opening)
        if head is None:
            number = b',"seq":' if self.channel.sequenced else b""
            head = self._heads[opening] = b'%b,"sid":%d%b' % (opening, self.sid, number)
        if not self.channel.sequenced:
            return head + tail
        self.seq += 1
        return b"%b%d%b" % (head, self.seq, tail)

    def _put(self, frame: bytes, *shows: Fault) -> None:
        if self._to_expose:
            shows += (*self._to_expose,)
            self._to_expose.clear()
        self._sink.put(frame, self, shows)
        if self._held_back is not None:
            held, self._held_back = self._held_back, None
            self._sink.put(held, self)

    def _troubled(self, opening: bytes, tail: bytes, ticker: str) -> None:
        fault = self.troubles[0]
        is_delta = opening == _OPENING_DELTA
        if (fault.kind in _OF_DELTAS and not is_delta) or (
            # The number that follows none is 1 in any case.
            fault.kind is FaultKind.COUNTER_RESET and self.seq == 0
        ):
            self._put(self._numbered(opening, tail))
            return
        self.troubles.popleft()
        if fault.kind is FaultKind.COUNTER_RESET:
            self.seq = 0
        elif fault.kind is FaultKind.IMPOSSIBLE_DELTA:
            self._put(self._numbered(opening, _impossible(ticker, self.now_us() // 1_000)), fault)
        self._happened(fault, ticker)
        if fault.kind is FaultKind.WRONG_DELTA:
            tail = _falsified(tail)
        frame = self._numbered(opening, tail)
        if fault.kind is FaultKind.LOST:
            # It shows when the next frame arrives.
            self._to_expose.append(fault)
        elif fault.kind is FaultKind.REORDERED:
            if self._held_back is not None:
                self._put(self._held_back)
            self._held_back = frame
            self._to_expose.append(fault)
        elif fault.kind is FaultKind.DOUBLED:
            self._put(frame)
            self._put(frame, fault)
        elif fault.kind is FaultKind.IMPOSSIBLE_DELTA:
            self._put(frame)
        else:
            self._put(frame, fault)

    def _happened(self, fault: Fault, ticker: str) -> None:
        if self.channel.sequenced:
            fault.seq = self.seq if fault.kind is FaultKind.IMPOSSIBLE_DELTA else self.seq + 1
        fault.tickers = [ticker] if ticker else []
        self._ledger.happened(fault, self.now_us())


def _impossible(ticker: str, ts_ms: int) -> bytes:
    # More than anybody has ever offered, so that it is impossible whatever rests.
    return delta_tail(ticker, "yes", 5_000, -(10**15), ts_ms=ts_ms)


def _falsified(tail: bytes) -> bytes:
    """Add 0.01 contract to the change that a delta tells of, or take it away where that would be none."""
    start = tail.index(b'"delta_fp":"') + 12
    end = tail.index(b'"', start)
    whole, fraction = tail[start:end].split(b".")
    size = int(whole.lstrip(b"-") + fraction) * (-1 if whole.startswith(b"-") else 1)
    size += 1 if size != -1 else 2
    text = f"{'-' if size < 0 else ''}{abs(size) // 100}.{abs(size) % 100:02d}"
    return tail[:start] + text.encode() + tail[end:]
