"""Valid frames and envelopes for tests: numbers rise by themselves, as the exchange's do."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from kalshibook.feeds.enveloper import Enveloper
from kalshibook.simulator.frames import (
    delta_frame,
    lifecycle_frame,
    snapshot_frame,
    ticker_frame,
    trade_frame,
)
from kalshibook.store import Arrival
from kalshibook.wire import NoticeKind, Side, WireEvent, decode_envelope, read_frame

__all__ = ["FrameFactory"]

_STEP_US: Final = 1_000
_BOOK_SID, _TRADE_SID, _LIFECYCLE_SID, _TICKER_SID = 1, 2, 3, 4


class FrameFactory:
    """
    Makes what one gatherer receives on one connection, and publishes.

    Each frame takes the next number of its subscription, across all markets, and a time one
    millisecond after the frame before. `envelope` and `message` take frames in the order in which
    they were made; to lose one, make it and do not hand it on; for a connection that starts anew,
    call `reconnect`.

    Example:
        >>> from kalshibook.store import BookStore
        >>> frames, store = FrameFactory(), BookStore()
        >>> with store.writer() as writer:
        ...     for frame in (
        ...         frames.snapshot("KXFROG-T40", yes=[(4_000, 100)]),
        ...         frames.delta("KXFROG-T40", "no", 5_500, 200),
        ...     ):
        ...         _ = writer.apply(*frames.message(frame))
        ...     writer.set_ready(True)
        >>> store.cut()["KXFROG-T40"].yes_ask
        Quote(price=4500, size=200)
    """

    def __init__(
        self,
        *,
        source: str = "test",
        connection: str = "connection-1",
        start_us: int = 1_790_000_000_000_000,
        clock_step_us: int = _STEP_US,
    ) -> None:
        """
        Begin with number 1 on every subscription.

        Args:
            source: the gatherer's name.
            connection: id of the socket epoch.
            start_us: time of the first frame, microseconds since the epoch.
            clock_step_us: time between frames.
        """
        self.connection = connection
        self.now_us = start_us
        """Time of the last frame."""
        self._step_us = clock_step_us
        self._sequences: dict[int, int] = {}
        self._offsets: dict[int, int] = {}
        self._enveloper = Enveloper(source, clock_us=lambda: self.now_us)

    def snapshot(
        self, ticker: str, yes: Sequence[tuple[int, int]] = (), no: Sequence[tuple[int, int]] = ()
    ) -> bytes:
        """Return an `orderbook_snapshot`; levels are (price in $0.0001, size in 0.01 contract)."""
        return snapshot_frame(ticker, yes, no, sid=_BOOK_SID, seq=self._next(_BOOK_SID), ts_ms=self._tick())

    def delta(self, ticker: str, side: Side, price: int, change: int) -> bytes:
        """Return an `orderbook_delta`; price in $0.0001, signed change in 0.01 contract."""
        return delta_frame(
            ticker, side, price, change, sid=_BOOK_SID, seq=self._next(_BOOK_SID), ts_ms=self._tick()
        )

    def trade(
        self, ticker: str, yes_price: int, size: int, taker: Side = "yes", *, trade_id: str | None = None
    ) -> bytes:
        """Return a `trade`; its id is made from its number unless one is given."""
        number = self._next(_TRADE_SID)
        return trade_frame(
            ticker,
            trade_id or f"trade-{self.connection}-{number}",
            yes_price,
            size,
            taker,
            sid=_TRADE_SID,
            seq=number,
            ts_ms=self._tick(),
        )

    def ticker(self, ticker: str, **fields: Any) -> bytes:
        """Return a `ticker` with these fields of `msg`, as on the wire; it has no number."""
        return ticker_frame(ticker, fields, sid=_TICKER_SID, ts_ms=self._tick())

    def lifecycle(self, ticker: str, event_type: str, fields: Mapping[str, Any] | None = None) -> bytes:
        """Return a `market_lifecycle_v2` with these further fields of `msg`; times in seconds."""
        return lifecycle_frame(
            ticker,
            event_type,
            fields or {},
            sid=_LIFECYCLE_SID,
            seq=self._next(_LIFECYCLE_SID),
            ts_ms=self._tick(),
        )

    def envelope(self, frame: bytes) -> bytes:
        """
        Wrap a frame as the gatherer publishes it, with the number that its market had before.

        Raises:
            WireError: it is no frame, or names no market.
            ValueError: it concerns only its connection, such as `ok`, and is never published.
        """
        route = self._enveloper.route(frame)
        if route is None:
            raise ValueError("a control frame is not published")
        value = self._enveloper.wrap(
            frame, route, connection=self.connection, received_us=self.now_us - self._step_us // 2
        )
        self._enveloper.accept(route, connection=self.connection)
        return value

    def notice(
        self,
        notice: NoticeKind,
        *,
        reason: str = "",
        detail: str = "",
        interval_ms: int | None = None,
        market_ticker: str = "",
        whole_source: bool = False,
    ) -> bytes:
        """
        Return the envelope of a notice about this connection, a market of it, or its whole gatherer.

        Args:
            notice: `alive`, `stale` or `ended`; see `wire.GathererNotice`.
            reason: one of a few words.
            detail: for people.
            interval_ms: of `alive`: when the next is due; 1,000 unless given.
            market_ticker: the only market concerned, or empty.
            whole_source: whether all connections are concerned; `alive` always is of the source.
        """
        self._tick()
        is_alive = notice == "alive"
        return self._enveloper.notice(
            notice,
            reason=reason,
            detail=detail,
            interval_ms=1_000 if is_alive and interval_ms is None else interval_ms,
            connection=None if whole_source or is_alive else self.connection,
            sid=None,
            market_ticker=market_ticker,
        )

    def message(self, frame: bytes, *, partition: int = 0) -> tuple[WireEvent, Arrival]:
        """
        Return what a `StoreWriter.apply` takes for a frame: the event, and its arrival from Kafka.

        Args:
            frame: of this factory.
            partition: where it came from; offsets count from 0 in each.

        Raises:
            WireError: the frame cannot be read.
        """
        return self.arrived(self.envelope(frame), partition=partition)

    def arrived(self, value: bytes, *, partition: int = 0) -> tuple[WireEvent, Arrival]:
        """
        Return what a `StoreWriter.apply` takes for an envelope, such as a notice's, that arrives now.

        Args:
            value: the envelope.
            partition: where it came from.

        Raises:
            WireError: it cannot be read.
        """
        envelope = decode_envelope(value)
        offset = self._offsets.get(partition, 0)
        self._offsets[partition] = offset + 1
        arrival = Arrival.of(
            envelope, partition=partition, offset=offset, kafka_us=self.now_us, consumed_us=self.now_us
        )
        return read_frame(envelope.payload), arrival

    def skip(self, sid: int = _BOOK_SID, count: int = 1) -> None:
        """Use numbers up, as frames of markets do that nobody asked for."""
        self._sequences[sid] = self._sequences.get(sid, 0) + count

    def reconnect(self, connection: str) -> None:
        """Start a new socket epoch: numbers begin at 1 again, and every market needs a snapshot."""
        self._enveloper.forget(self.connection)
        self.connection = connection
        self._sequences.clear()

    def _next(self, sid: int) -> int:
        self.skip(sid)
        return self._sequences[sid]

    def _tick(self) -> int:
        self.now_us += self._step_us
        return self.now_us // 1_000
