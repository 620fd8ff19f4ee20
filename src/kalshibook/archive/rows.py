"""
From decoded messages to rows: pure, so that the same record gives the same row for ever.

A row names its source and its connection; who writes it puts their numbers in their place. The key
of a row is what identifies the message at its source, so a record that is delivered twice, or read
again after a crash, makes a row that is there already.
"""

import hashlib
from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from kalshibook.errors import WireError
from kalshibook.wire import (
    BookDelta,
    BookSnapshot,
    Envelope,
    EventFrame,
    MarketLifecycle,
    Ticker,
    Trade,
    WireEvent,
)
from kalshibook.wire.gaps import GapRecord

__all__ = [
    "Condition",
    "DeltaRow",
    "GapRow",
    "Identity",
    "LifecycleRow",
    "Place",
    "Row",
    "Side",
    "SnapshotKind",
    "SnapshotRow",
    "StoredRow",
    "TickerRow",
    "TradeRow",
    "gap_row",
    "rows_of",
    "rows_of_event",
    "snapshot_row",
]


class Side(IntEnum):
    """As in the table `sides`."""

    YES = 1
    NO = 2


class Condition(IntEnum):
    """As in the table `conditions`."""

    AWAITING = 1
    LIVE = 2
    STALE = 3
    CLOSED = 4


class SnapshotKind(IntEnum):
    """As in the table `snapshot_kinds`."""

    EXCHANGE = 1
    """A frame of the exchange."""
    MINUTE = 2
    """A live book of ours."""
    AUDIT = 3
    """Fetched over REST, to compare with."""


class Place(NamedTuple):
    """Where a record stands in Kafka."""

    topic: str
    partition: int
    offset: int
    kafka_us: int | None
    """The record's own time, microseconds, or None when it has none."""

    def __str__(self) -> str:
        """Return it as it stands in `dead_letters`."""
        return f"{self.topic}/{self.partition}@{self.offset}"


class Identity(NamedTuple):
    """What tells one message of a source from all others."""

    source: str
    connection: str
    sid: int
    sequence: int | None
    """None where the channel has no numbers."""
    received_us: int


class DeltaRow(NamedTuple):
    """A row of `orderbook_deltas`."""

    source: str
    connection: str
    sid: int
    sequence: int
    received_us: int
    exchange_us: int | None
    ticker: str
    side: int
    price: int
    change: int


class SnapshotRow(NamedTuple):
    """A row of `orderbook_snapshots`; prices ascend."""

    source: str
    connection: str
    sid: int
    sequence: int
    received_us: int
    exchange_us: int | None
    ticker: str
    kind: int
    condition: int
    yes_prices: tuple[int, ...]
    yes_sizes: tuple[int, ...]
    no_prices: tuple[int, ...]
    no_sizes: tuple[int, ...]


class TradeRow(NamedTuple):
    """A row of `trades`."""

    source: str
    connection: str | None
    """None for a trade fetched over REST, and so are sid and sequence."""
    sid: int | None
    sequence: int | None
    received_us: int
    exchange_us: int | None
    ticker: str
    trade_id: str
    yes_price: int
    size: int
    taker_side: int | None
    is_block_trade: bool
    consistent: bool


class TickerRow(NamedTuple):
    """A row of `tickers`."""

    source: str
    connection: str
    sid: int
    digest: int
    received_us: int
    exchange_us: int | None
    ticker: str
    last_price: int | None
    last_size: int | None
    volume: int | None
    open_interest: int | None
    dollar_volume: int | None
    dollar_open_interest: int | None


class LifecycleRow(NamedTuple):
    """A row of `lifecycles`."""

    source: str
    connection: str
    sid: int
    sequence: int
    received_us: int
    exchange_us: int | None
    ticker: str
    channel: str
    kind: str
    body: str
    """JSON."""


class GapRow(NamedTuple):
    """A row of `gaps`, which is written when a gap is found and again when it is healed."""

    source: str
    connection: str
    sid: int | None
    gap_id: str
    channel: str
    cause: str
    from_sequence: int | None
    to_sequence: int | None
    markets: int
    tickers: tuple[str, ...]
    detected_us: int
    healed_us: int | None
    how: str | None


Row: TypeAlias = DeltaRow | SnapshotRow | TradeRow | TickerRow | LifecycleRow
StoredRow: TypeAlias = Row | GapRow

_SIDES: Final = {"yes": int(Side.YES), "no": int(Side.NO)}
_EXCHANGE: Final = int(SnapshotKind.EXCHANGE)
_LIVE: Final = int(Condition.LIVE)


def rows_of(envelope: Envelope, event: WireEvent, place: Place) -> tuple[Row, ...]:
    """
    Return the rows that a record of Kafka makes: one, or none for what carries no market data.

    Where the producer names no connection, no sid or no number, the record's place in Kafka stands
    in for them: it identifies the record just as well.

    Args:
        envelope: the record's value.
        event: its frame, as `read_frame` understood it.
        place: where it stands.

    Raises:
        WireError: nothing says when it was received, so that no key can be made.
    """
    if type(event) not in _MAKERS:
        return ()
    received_us = envelope.received_us or envelope.published_us or place.kafka_us
    if received_us is None:
        raise WireError("$.receivedTimestampUs", "neither the envelope nor the record carries a time")
    sid: int | None = envelope.sid
    if sid is None:
        sid = getattr(envelope.payload, "sid", None)
    sequence: int | None = envelope.sequence
    if sequence is None:
        sequence = getattr(envelope.payload, "seq", None)
    connection = envelope.connection
    if connection is not None and sid is None and sequence is None and type(event) is BookSnapshot:
        # Of no subscription: its gatherer has fetched it over REST.
        return rows_of_event(event, Identity(envelope.source, connection, 0, None, received_us))
    if connection is None or sid is None or (sequence is None and type(event) is not Ticker):
        connection, sid, sequence = f"kafka:{place.topic}", place.partition, place.offset
    return rows_of_event(event, Identity(envelope.source, connection, sid, sequence, received_us))


def rows_of_event(event: WireEvent, identity: Identity) -> tuple[Row, ...]:
    """
    Return the rows that a message makes: one, or none for what carries no market data.

    Args:
        event: the frame, as `read_frame` understood it.
        identity: where it was received, and its number there.

    Raises:
        WireError: a channel that has numbers came without one.
    """
    make = _MAKERS.get(type(event))
    if make is None:
        return ()
    if identity.sequence is None and type(event) not in _UNNUMBERED:
        raise WireError("$.seq", "is missing; without it the frame cannot be told from others")
    return (make(event, identity),)


def snapshot_row(
    identity: Identity,
    ticker: str,
    yes: Iterable[tuple[int, int]],
    no: Iterable[tuple[int, int]],
    *,
    kind: SnapshotKind,
    exchange_us: int | None = None,
    condition: Condition = Condition.LIVE,
) -> SnapshotRow:
    """
    Return the row of a whole book.

    Args:
        identity: the last message that is in it; for an audit, who fetched it and when.
        ticker: the market.
        yes: price and size of each YES level, in any order.
        no: the same on the NO scale.
        kind: where it comes from.
        exchange_us: the exchange's time of the last message, or None.
        condition: how far it can be trusted.
    """
    yes, no = sorted(yes), sorted(no)
    return SnapshotRow(
        identity.source,
        identity.connection,
        identity.sid,
        identity.received_us if identity.sequence is None else identity.sequence,
        identity.received_us,
        exchange_us,
        ticker,
        int(kind),
        int(condition),
        tuple(price for price, _ in yes),
        tuple(size for _, size in yes),
        tuple(price for price, _ in no),
        tuple(size for _, size in no),
    )


def gap_row(gap: GapRecord) -> GapRow:
    """Return the row of a record of the gap ledger."""
    return GapRow(
        gap.source,
        gap.connection,
        gap.sid,
        gap.id,
        gap.channel,
        gap.cause,
        gap.from_sequence,
        gap.to_sequence,
        gap.markets,
        gap.tickers,
        gap.detected_us,
        gap.healed_us,
        gap.how,
    )


def _delta(event: BookDelta, at: Identity) -> DeltaRow:
    return DeltaRow(
        at.source,
        at.connection,
        at.sid,
        at.sequence,  # type: ignore[arg-type]  # checked by the caller
        at.received_us,
        event.exchange_us,
        event.ticker,
        _SIDES[event.side],
        event.price,
        event.change,
    )


def _snapshot(event: BookSnapshot, at: Identity) -> SnapshotRow:
    return snapshot_row(
        at,
        event.ticker,
        event.yes,
        event.no,
        kind=SnapshotKind.AUDIT if at.sequence is None else SnapshotKind.EXCHANGE,
        exchange_us=event.exchange_us,
    )


def _trade(event: Trade, at: Identity) -> TradeRow:
    return TradeRow(
        at.source,
        at.connection,
        at.sid,
        at.sequence,
        at.received_us,
        event.exchange_us,
        event.ticker,
        event.trade_id,
        event.yes_price,
        event.size,
        None if event.taker_side is None else _SIDES[event.taker_side],
        event.is_block_trade,
        event.consistent,
    )


def _ticker(event: Ticker, at: Identity) -> TickerRow:
    return TickerRow(
        at.source,
        at.connection,
        at.sid,
        _digest(event),
        at.received_us,
        event.exchange_us,
        event.ticker,
        event.last_price,
        event.last_size,
        event.volume,
        event.open_interest,
        event.dollar_volume,
        event.dollar_open_interest,
    )


def _lifecycle(event: MarketLifecycle | EventFrame, at: Identity) -> LifecycleRow:
    if isinstance(event, EventFrame):
        ticker, channel, kind = event.event_ticker, "market_lifecycle_v2", str(event.type)
    else:
        ticker, channel, kind = event.ticker, str(event.channel), str(event.event_type)
    return LifecycleRow(
        at.source,
        at.connection,
        at.sid,
        at.sequence,  # type: ignore[arg-type]  # checked by the caller
        at.received_us,
        event.exchange_us,
        ticker,
        channel,
        kind,
        event.body.decode(),
    )


def _digest(event: Ticker) -> int:
    # Python's own hash differs from process to process.
    digest = hashlib.blake2b(msgspec.msgpack.encode(event), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


# A snapshot without a number was fetched over REST; tickers have none.
_UNNUMBERED: Final = frozenset({BookSnapshot, Ticker})

_MAKERS: Final[dict[type, Callable[[Any, Identity], Row]]] = {
    BookDelta: _delta,
    BookSnapshot: _snapshot,
    Trade: _trade,
    Ticker: _ticker,
    MarketLifecycle: _lifecycle,
    EventFrame: _lifecycle,
}
