"""
Shapes of Kalshi's WebSocket frames, as they stand on the wire.

Field names and shapes: Kalshi WebSocket reference, channels `orderbook_delta`, `ticker`, `trade`,
`market_lifecycle_v2` (autumn 2026), and the shapes in cents that they had before March 2026.
"""

from typing import Annotated, Final, Literal, TypeAlias, get_args

import msgspec
from msgspec import UNSET, UnsetType

from kalshibook.wire.events import Side

__all__ = [
    "FRAME_TYPES",
    "AdditionalMetadata",
    "CentPairs",
    "ComboLifecycleFrame",
    "DeltaFrame",
    "DeltaMessage",
    "DollarPairs",
    "Dollars",
    "ErrorFrame",
    "EventFeeFrame",
    "EventLifecycleFrame",
    "EventMessage",
    "Frame",
    "FrameHead",
    "LifecycleFrame",
    "LifecycleMessage",
    "MarketFrame",
    "MarketMessage",
    "Microseconds",
    "Milliseconds",
    "NoticeFrame",
    "NoticeMessage",
    "OkFrame",
    "Pairs",
    "PriceRangeMessage",
    "Seconds",
    "SequenceNumber",
    "SnapshotFrame",
    "SnapshotMessage",
    "SubscribedFrame",
    "TickerFrame",
    "TickerMessage",
    "TradeFrame",
    "TradeMessage",
    "UnsubscribedFrame",
]

# Numbers are bounded where they are decoded: JSON has integers of any length, a database column
# and a client's parser have 64 bits, and one wild time must not outlive its record.
SequenceNumber: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
Dollars: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Seconds: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799)]
"""Unix seconds, up to the year 9999."""
Milliseconds: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799_999)]
Microseconds: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799_999_999)]

Pairs: TypeAlias = list[tuple[str, str]]
CentPairs: TypeAlias = list[tuple[int, int]]
DollarPairs: TypeAlias = list[tuple[str, int]]


class SnapshotMessage(msgspec.Struct, frozen=True, gc=False):
    """`msg` of an `orderbook_snapshot`."""

    market_ticker: str
    yes_dollars_fp: Pairs | None | UnsetType = UNSET
    no_dollars_fp: Pairs | None | UnsetType = UNSET
    yes_dollars: DollarPairs | None | UnsetType = UNSET
    no_dollars: DollarPairs | None | UnsetType = UNSET
    yes: CentPairs | None | UnsetType = UNSET
    no: CentPairs | None | UnsetType = UNSET


class DeltaMessage(msgspec.Struct, frozen=True, gc=False):
    """`msg` of an `orderbook_delta`."""

    market_ticker: str
    side: Side
    price_dollars: str | UnsetType = UNSET
    delta_fp: str | UnsetType = UNSET
    ts_ms: Milliseconds | None = None
    ts: str | Seconds | None = None
    price: int | UnsetType = UNSET
    delta: int | UnsetType = UNSET


class TickerMessage(msgspec.Struct, frozen=True, gc=False):
    """`msg` of a `ticker`."""

    market_ticker: str
    price_dollars: str | UnsetType = UNSET
    last_trade_size_fp: str | UnsetType = UNSET
    volume_fp: str | UnsetType = UNSET
    open_interest_fp: str | UnsetType = UNSET
    dollar_volume: Dollars | None = None
    dollar_open_interest: Dollars | None = None
    ts_ms: Milliseconds | None = None
    ts: str | Seconds | None = None
    price: int | UnsetType = UNSET
    volume: int | UnsetType = UNSET
    open_interest: int | UnsetType = UNSET


class TradeMessage(msgspec.Struct, frozen=True, gc=False):
    """`msg` of a `trade`."""

    trade_id: str
    market_ticker: str
    yes_price_dollars: str | UnsetType = UNSET
    no_price_dollars: str | UnsetType = UNSET
    count_fp: str | UnsetType = UNSET
    taker_outcome_side: Side | None = None
    taker_book_side: Literal["bid", "ask"] | None = None
    taker_side: Side | None = None
    is_block_trade: bool = False
    ts_ms: Milliseconds | None = None
    ts: str | Seconds | None = None
    yes_price: int | UnsetType = UNSET
    no_price: int | UnsetType = UNSET
    count: int | UnsetType = UNSET


class PriceRangeMessage(msgspec.Struct, frozen=True, gc=False):
    """One element of `price_ranges`."""

    start: str
    end: str
    step: str


class AdditionalMetadata(msgspec.Struct, frozen=True, gc=False):
    """`additional_metadata` of a `created` lifecycle message, as far as it is used."""

    event_ticker: str | None = None
    title: str | None = None


class LifecycleMessage(msgspec.Struct, frozen=True, gc=False):
    """`msg` of a `market_lifecycle_v2` or `multivariate_market_lifecycle`."""

    market_ticker: str
    event_type: str
    open_ts: Seconds | None = None
    close_ts: Seconds | None = None
    result: str | None = None
    settlement_value: str | None = None
    determination_ts: Seconds | None = None
    settled_ts: Seconds | None = None
    price_ranges: list[PriceRangeMessage] | None = None
    additional_metadata: AdditionalMetadata | None = None


class EventMessage(msgspec.Struct, frozen=True, gc=False):
    """`msg` of an `event_lifecycle` or `event_fee_update`."""

    event_ticker: str


class MarketMessage(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """`msg` of a `gatherer_market`."""

    market_ticker: str
    status: str
    open_ts: Seconds | None = None
    close_ts: Seconds | None = None
    event_ticker: str | None = None
    title: str | None = None
    price_ranges: list[PriceRangeMessage] | None = None


class NoticeMessage(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """`msg` of a `gatherer_notice`."""

    notice: str
    reason: str = ""
    detail: str = ""
    interval_ms: Milliseconds | None = None
    market_ticker: str = ""


class FrameHead(msgspec.Struct, frozen=True, gc=False):
    """The keys that every frame may carry, whatever its type."""

    type: str
    sid: int | None = None
    seq: SequenceNumber | None = None
    sending_ts_ms: Milliseconds | None = None


class _Frame(msgspec.Struct, frozen=True, gc=False, tag_field="type"):
    sid: int | None = None
    seq: SequenceNumber | None = None
    sending_ts_ms: Milliseconds | None = None


class SnapshotFrame(_Frame, frozen=True, gc=False, kw_only=True, tag="orderbook_snapshot"):
    """`orderbook_snapshot`."""

    msg: SnapshotMessage


class DeltaFrame(_Frame, frozen=True, gc=False, kw_only=True, tag="orderbook_delta"):
    """`orderbook_delta`."""

    msg: DeltaMessage


class TickerFrame(_Frame, frozen=True, gc=False, kw_only=True, tag="ticker"):
    """`ticker`."""

    msg: TickerMessage


# Bodies of the types below are passed on to subscribers, so they are kept as they came
# and read a second time; these frames are rare beside deltas.
class TradeFrame(_Frame, frozen=True, gc=False, kw_only=True, tag="trade"):
    """`trade`."""

    msg: msgspec.Raw


class LifecycleFrame(_Frame, frozen=True, gc=False, kw_only=True, tag="market_lifecycle_v2"):
    """`market_lifecycle_v2`."""

    msg: msgspec.Raw


class ComboLifecycleFrame(_Frame, frozen=True, gc=False, kw_only=True, tag="multivariate_market_lifecycle"):
    """`multivariate_market_lifecycle`."""

    msg: msgspec.Raw


class EventLifecycleFrame(_Frame, frozen=True, gc=False, kw_only=True, tag="event_lifecycle"):
    """`event_lifecycle`."""

    msg: msgspec.Raw


class EventFeeFrame(_Frame, frozen=True, gc=False, kw_only=True, tag="event_fee_update"):
    """`event_fee_update`."""

    msg: msgspec.Raw


class MarketFrame(_Frame, frozen=True, gc=False, kw_only=True, tag="gatherer_market", omit_defaults=True):
    """`gatherer_market`: ours, not the exchange's."""

    msg: MarketMessage


class NoticeFrame(_Frame, frozen=True, gc=False, kw_only=True, tag="gatherer_notice", omit_defaults=True):
    """`gatherer_notice`: ours, not the exchange's."""

    msg: NoticeMessage


class SubscribedFrame(_Frame, frozen=True, gc=False, tag="subscribed"):
    """`subscribed`: carries no number."""


class OkFrame(_Frame, frozen=True, gc=False, tag="ok"):
    """`ok`: takes a number of its sid, but for the list reply, which has no sid."""


class UnsubscribedFrame(_Frame, frozen=True, gc=False, tag="unsubscribed"):
    """`unsubscribed`: the sid's last number."""


class ErrorFrame(_Frame, frozen=True, gc=False, tag="error"):
    """`error`: takes a number when it is scoped to a sid."""


Frame: TypeAlias = (
    SnapshotFrame
    | DeltaFrame
    | TickerFrame
    | TradeFrame
    | LifecycleFrame
    | ComboLifecycleFrame
    | EventLifecycleFrame
    | EventFeeFrame
    | MarketFrame
    | NoticeFrame
    | SubscribedFrame
    | OkFrame
    | UnsubscribedFrame
    | ErrorFrame
)

FRAME_TYPES: Final = frozenset(str(frame.__struct_config__.tag) for frame in get_args(Frame))
