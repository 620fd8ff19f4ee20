"""
What an exchange message means, in fixed-point numbers: the values that a store consumes.

Prices are integers of $0.0001, sizes integers of 0.01 contract, times integers of microseconds
since the Unix epoch. An absent value is None, never 0.
"""

from typing import Literal, TypeAlias

import msgspec

__all__ = [
    "BookDelta",
    "BookSnapshot",
    "EventFrame",
    "GathererNotice",
    "MarketDescription",
    "MarketLifecycle",
    "NoticeKind",
    "Other",
    "PriceRange",
    "Side",
    "Ticker",
    "Trade",
    "WireEvent",
]

Side: TypeAlias = Literal["yes", "no"]

LifecycleEvent: TypeAlias = Literal[
    "created",
    "activated",
    "deactivated",
    "close_date_updated",
    "determined",
    "settled",
    "price_level_structure_updated",
    "metadata_updated",
]


NoticeKind: TypeAlias = Literal["alive", "stale", "ended"]


class BookSnapshot(msgspec.Struct, frozen=True, gc=False):
    """A whole book: it replaces what was held (`orderbook_snapshot`)."""

    ticker: str
    yes: tuple[tuple[int, int], ...]
    """Resting YES bids as (price, size), in any order, each price once, no size 0."""
    no: tuple[tuple[int, int], ...]
    """Resting NO bids, on the NO scale."""
    exchange_us: int | None
    """When the exchange sent it (`sending_ts_ms`); a snapshot has no time of its own."""


class BookDelta(msgspec.Struct, frozen=True, gc=False):
    """A signed change of one level of one side (`orderbook_delta`)."""

    ticker: str
    side: Side
    price: int
    """The level, on the scale of its side: a NO level at a NO price."""
    change: int
    """What is added to the resting size; negative takes away."""
    exchange_us: int | None


class Trade(msgspec.Struct, frozen=True, gc=False):
    """A public print (`trade`)."""

    ticker: str
    trade_id: str
    yes_price: int
    size: int
    taker_side: Side | None
    """The outcome that the taker ends up long."""
    is_block_trade: bool
    consistent: bool
    """Whether YES and NO price sum to one dollar; if not, the YES price is the reference."""
    exchange_us: int | None
    body: bytes
    """The frame's `msg` as received, without the fields that concern its receiver only."""


class Ticker(msgspec.Struct, frozen=True, gc=False):
    """A market's statistics (`ticker`); quotes in it are not used where there is a book."""

    ticker: str
    last_price: int | None
    last_size: int | None
    volume: int | None
    open_interest: int | None
    dollar_volume: int | None
    """Whole dollars."""
    dollar_open_interest: int | None
    """Whole dollars."""
    exchange_us: int | None


class PriceRange(msgspec.Struct, frozen=True, gc=False):
    """One band of a tick grid; neighbours share an endpoint, which is on both."""

    start: int
    end: int
    step: int


class MarketLifecycle(msgspec.Struct, frozen=True, gc=False):
    """
    A step in a market's life (`market_lifecycle_v2`, `multivariate_market_lifecycle`).

    Only what the frame carried is set: None means unchanged, not cleared.
    """

    ticker: str
    event_type: LifecycleEvent
    channel: Literal["market_lifecycle_v2", "multivariate_market_lifecycle"]
    open_us: int | None
    close_us: int | None
    result: str | None
    settlement_value: int | None
    """$0.0001."""
    event_ticker: str | None
    title: str | None
    price_ranges: tuple[PriceRange, ...] | None
    exchange_us: int | None
    body: bytes
    """The frame's `msg` as received."""


class MarketDescription(msgspec.Struct, frozen=True, gc=False):
    """
    What the exchange's lists say of a market (`gatherer_market`): of a gatherer; no exchange sends it.

    Lifecycle messages tell only what changes, and nothing of a market that was there before. Only
    what is known is set: None means unknown, not cleared.
    """

    ticker: str
    status: str
    """The exchange's word, such as ``active``."""
    open_us: int | None
    close_us: int | None
    event_ticker: str | None
    title: str | None
    price_ranges: tuple[PriceRange, ...] | None


class EventFrame(msgspec.Struct, frozen=True, gc=False):
    """A frame about an event, not a market (`event_lifecycle`, `event_fee_update`): passed on, not stored."""

    event_ticker: str
    type: Literal["event_lifecycle", "event_fee_update"]
    exchange_us: int | None
    body: bytes


class Other(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A frame of a type that carries no market data here: counted, and otherwise ignored."""

    type: str
    ticker: str = ""
    """The market that its envelope names, if any: its number counts among that market's."""


class GathererNotice(msgspec.Struct, frozen=True, gc=False):
    """
    What a gatherer says of itself and of what it follows (`gatherer_notice`); no exchange sends it.

    Its scope stands in the envelope: `source` always, one connection or all, one sid of it or all.
    """

    notice: NoticeKind
    """
    `alive`: the gatherer is at work, and says so again after `interval_ms`. `stale`: from this record on
    the books of the scope are in doubt, until a snapshot. `ended`: it stops following the scope on
    purpose, which puts the books in doubt likewise; a source that has ended owes no further `alive`.
    """
    reason: str
    """One of a few words of the gatherer, such as ``gap``; fit for a label."""
    detail: str
    """What was found, for people."""
    interval_ms: int | None
    """When the next `alive` is due at the latest; None for the others."""
    ticker: str
    """The only market it concerns, or empty when it concerns all of its scope."""


WireEvent: TypeAlias = (
    BookSnapshot
    | BookDelta
    | Trade
    | Ticker
    | MarketLifecycle
    | MarketDescription
    | EventFrame
    | GathererNotice
    | Other
)
