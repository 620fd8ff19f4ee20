"""
What was done to clients on purpose: one record per fault, so that found can be compared with injected.

Pure. A fault is *armed* by whoever asks for it, *done* when it happened, and *exposed* once the
client was sent something by which it can notice: the frame after a lost one, for example. A fault
of a subscription that ended before stays unexposed; nobody can be blamed for not finding it.
"""

from collections import Counter, deque
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

import msgspec

__all__ = ["FRAME_FAULTS", "Fault", "FaultKind", "FaultLedger"]


class FaultKind(StrEnum):
    """What can be done to a client."""

    LOST = "lost"
    """The next frame of a subscription takes its number and is not sent."""
    DOUBLED = "doubled"
    """The next frame is sent twice."""
    REORDERED = "reordered"
    """The next frame is sent after the one that follows it."""
    COUNTER_RESET = "counter_reset"
    """Numbers begin at 1 again."""
    IMPOSSIBLE_DELTA = "impossible_delta"
    """A change that takes away more than rests: a frame more, with a number of its own."""
    WRONG_DELTA = "wrong_delta"
    """The next change is off by a hundredth of a contract: only a comparison finds it."""
    OVERFLOW = "overflow"
    """The subscription ends with error 25."""
    CHANNEL_ERROR = "channel_error"
    """The subscription ends with error 10."""
    STALL = "stall"
    """Nothing is sent for a while, but pings go out and are answered; then all of it comes."""
    HALF_OPEN = "half_open"
    """The connection is dead and nobody says so: nothing is read, sent or answered any more."""
    CUT = "cut"
    """The connection is cut without a close frame."""
    CLOSED = "closed"
    """The connection is closed with a close frame."""
    UNAUTHORIZED = "unauthorized"
    """The next handshake is refused with 401."""
    MARKET_LIMIT = "market_limit"
    """The next command that names markets is refused with error 26."""
    TIMEOUT = "timeout"
    """The next command is answered with error 18 and not carried out."""
    REST_BUSY = "rest_busy"
    """The next REST requests are answered with 429."""
    REST_ERROR = "rest_error"
    """The next REST requests are answered with 500."""
    REST_SLOW = "rest_slow"
    """REST answers after a while, for a while."""
    REST_OLD = "rest_old"
    """REST answers with what was true a while ago, for a while."""
    MAINTENANCE = "maintenance"
    """Trading pauses, every connection is closed, handshakes get 503, and after a while all is well again."""
    CLOCK_SKEW = "clock_skew"
    """The exchange's wall clock is off, as signatures and the `Date` header show it."""


FRAME_FAULTS: Final = frozenset(
    {
        FaultKind.LOST,
        FaultKind.DOUBLED,
        FaultKind.REORDERED,
        FaultKind.COUNTER_RESET,
        FaultKind.IMPOSSIBLE_DELTA,
        FaultKind.WRONG_DELTA,
    }
)
"""Faults that happen to frames of one subscription."""


class Fault(msgspec.Struct, kw_only=True):
    """One fault, from being armed to being noticed."""

    id: int
    kind: FaultKind
    armed_us: int
    """When it was asked for, exchange time."""
    done_us: int | None = None
    """When it happened."""
    exposed_us: int | None = None
    """When the client was sent what shows it."""
    connection: int | None = None
    """The exchange's number of the connection."""
    peer: str = ""
    """The client's address."""
    user: str = ""
    """Whose key it was."""
    sid: int | None = None
    channel: str = ""
    seq: int | None = None
    """Number of the frame that it happened to."""
    tickers: list[str] = []
    """The markets concerned; empty for all of the subscription, of the connection, or of the exchange."""
    duration_ms: int | None = None
    """How long it lasts, if it lasts."""
    detail: str = ""


class FaultLedger:
    """All faults so far; the oldest are forgotten beyond a capacity, the counts are not."""

    def __init__(self, capacity: int = 100_000) -> None:
        self._faults: deque[Fault] = deque(maxlen=capacity)
        self._last = 0
        self.done: Counter[FaultKind] = Counter()
        """How many happened, by kind."""

    def arm(self, kind: FaultKind, now_us: int, *, duration_ms: int | None = None, detail: str = "") -> Fault:
        """Open the record of a fault that shall happen."""
        self._last += 1
        fault = Fault(id=self._last, kind=kind, armed_us=now_us, duration_ms=duration_ms, detail=detail)
        self._faults.append(fault)
        return fault

    def happened(self, fault: Fault, now_us: int) -> None:
        """Note that a fault happened."""
        fault.done_us = now_us
        self.done[fault.kind] += 1

    def __len__(self) -> int:
        return len(self._faults)

    def __iter__(self) -> Iterator[Fault]:
        return iter(tuple(self._faults))
