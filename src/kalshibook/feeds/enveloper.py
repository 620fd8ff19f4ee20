"""
From a frame to a record: which market it is about, and the envelope that carries it. Pure.

A sequence number counts per subscription across all its markets, so only who sees the whole
stream knows which number a market had before. That is written into each envelope, and lets a
consumer find a loss market by market.
"""

import time
from collections.abc import Callable
from typing import Final, NamedTuple, final

import msgspec

from kalshibook.errors import WireError
from kalshibook.wire import NoticeKind, encode_envelope, notice_frame

__all__ = ["Enveloper", "Route"]

_CHANNELS: Final = {
    "orderbook_snapshot": "orderbook_delta",
    "event_lifecycle": "market_lifecycle_v2",
    "event_fee_update": "market_lifecycle_v2",
}
"""Channel by frame type, where it is not the type itself."""

_CONTROL: Final = frozenset({"subscribed", "ok", "unsubscribed", "error"})
"""Frames that answer commands of their connection; they concern nobody else."""


_NOTICE: Final = "gatherer_notice"


class _Subject(msgspec.Struct, frozen=True, gc=False):
    market_ticker: str = ""
    event_ticker: str = ""


class _Head(msgspec.Struct, frozen=True, gc=False):
    type: str
    sid: int | None = None
    seq: int | None = None
    msg: msgspec.Raw = msgspec.Raw(b"{}")


class Route(NamedTuple):
    """Where a frame belongs."""

    key: str
    """Of the record: the market's ticker, or the event's for a frame about an event."""
    market_ticker: str
    """Empty for a frame about an event."""
    channel: str
    sid: int | None
    sequence: int | None


_head_decoder: Final = msgspec.json.Decoder(_Head)
_subject_decoder: Final = msgspec.json.Decoder(_Subject)


@final
class Enveloper:
    """
    Wraps the frames of one gatherer, and remembers the last number of every market.

    Example:
        >>> enveloper = Enveloper("gatherer-1", clock_us=lambda: 2_000)
        >>> frame = b'{"type":"trade","sid":2,"seq":9,"msg":{"market_ticker":"KXFROG-T40"}}'
        >>> route = enveloper.route(frame)
        >>> enveloper.wrap(frame, route, connection="c1", received_us=1_000)[:80]
        b'{"receivedTimestamp":1,"publishedTimestamp":2,"channel":"trade","marketTicker":"'
    """

    def __init__(self, source: str, *, clock_us: Callable[[], int] = lambda: time.time_ns() // 1_000) -> None:
        """
        Begin without any number known.

        Args:
            source: which gatherer this is.
            clock_us: the time of publication, microseconds since the epoch.
        """
        self.source: Final = source
        self._clock_us = clock_us
        self._last: dict[str, dict[tuple[int | None, str], int]] = {}

    def route(self, frame: bytes) -> Route | None:
        """
        Say where a frame belongs, or None for one that concerns only its connection, such as `ok`.

        Raises:
            WireError: not JSON, without a type, or a market's frame that names no market.
        """
        try:
            head = _head_decoder.decode(frame)
            if head.type in _CONTROL:
                return None
            if head.type == _NOTICE:
                # Ours alone to say: from a socket it would let an exchange put any book in doubt.
                raise WireError("$.type", f"{head.type!r} is a gatherer's own word, and no exchange sends it")
            subject = _subject_decoder.decode(head.msg)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise WireError("$", str(error)) from None
        key = subject.market_ticker or subject.event_ticker
        if not key:
            raise WireError("$.msg", f"a frame of type {head.type!r} names neither a market nor an event")
        channel = _CHANNELS.get(head.type, head.type)
        return Route(key, subject.market_ticker, channel, head.sid, head.seq)

    def wrap(
        self, frame: bytes, route: Route, *, connection: str, received_us: int, doubt: str | None = None
    ) -> bytes:
        """
        Return the envelope of a frame. Until `accept` is called nothing is remembered of it.

        Args:
            frame: as received; it stands untouched in the envelope.
            route: of this frame.
            connection: id of the socket epoch, unique for ever; a new one after every reconnect.
            received_us: when the frame came off the socket, microseconds since the epoch.
            doubt: why the book is not to be trusted although the frame is applied, or None.
        """
        previous: int | None = None
        if route.sequence is not None:
            previous = self._last.get(connection, {}).get((route.sid, route.key), 0)
        return encode_envelope(
            frame,
            received_us=received_us,
            published_us=self._clock_us(),
            channel=route.channel,
            market_ticker=route.market_ticker,
            sequence=route.sequence,
            source=self.source,
            connection=connection,
            sid=route.sid,
            previous_sequence=previous,
            doubt=doubt,
        )

    def notice(
        self,
        notice: NoticeKind,
        *,
        reason: str,
        detail: str,
        interval_ms: int | None,
        connection: str | None,
        sid: int | None,
        market_ticker: str,
    ) -> bytes:
        """Return the envelope of a notice about this gatherer; see `wire.GathererNotice`."""
        now_us = self._clock_us()
        return encode_envelope(
            notice_frame(
                notice, reason=reason, detail=detail, interval_ms=interval_ms, market_ticker=market_ticker
            ),
            received_us=now_us,
            published_us=now_us,
            channel=_NOTICE,
            market_ticker=market_ticker,
            sequence=None,
            source=self.source,
            connection=connection,
            sid=sid,
        )

    def accept(self, route: Route, *, connection: str) -> None:
        """
        Remember a frame's number: it is on its way.

        It counts as published even if Kafka refuses it later. The next envelope of the market then
        names a number that never arrived, and that is how a consumer learns of the loss.
        """
        if route.sequence is None:
            return
        numbers = self._last.setdefault(connection, {})
        place = (route.sid, route.key)
        # A frame that comes twice, or late, must not take the number back: the one after it would
        # name a number that its consumer has long passed, or one that it has never seen.
        numbers[place] = max(route.sequence, numbers.get(place, 0))

    def forget(self, connection: str) -> None:
        """Drop the numbers of a connection that has ended; unknown ones are no error."""
        self._last.pop(connection, None)
