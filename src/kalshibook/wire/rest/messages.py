"""
Shapes of Kalshi's REST answers, as they stand on the wire.

Field names: the exchange's official SDK models (October 2026). Only what is used is named, unknown
keys are ignored, and every key that a model calls optional, or that an answer was ever seen without,
may be missing.
"""

from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from kalshibook.wire.events import Side
from kalshibook.wire.messages import CentPairs, DollarPairs, Pairs, PriceRangeMessage, Seconds

__all__ = [
    "BookMessage",
    "BooksMessage",
    "EventMessage",
    "ListMessage",
    "ListingMessage",
    "ListingsMessage",
    "MarketMessage",
    "RefusalMessage",
    "ScheduleMessage",
    "SeriesMessage",
    "StatusMessage",
    "TradeMessage",
]

Text: TypeAlias = str | None
Json: TypeAlias = msgspec.Raw | UnsetType


class ListingMessage(msgspec.Struct, frozen=True, gc=False):
    """A market, as far as a registry reads it."""

    ticker: str
    status: str
    event_ticker: str = ""
    open_time: Text = None
    close_time: Text = None
    title: Text = None
    price_ranges: list[PriceRangeMessage] | None = None
    mve_collection_ticker: Text = None


class ListingsMessage(msgspec.Struct, frozen=True):
    """A page of them."""

    markets: list[ListingMessage]
    cursor: Text = None


class MarketMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A market."""

    ticker: str
    event_ticker: str = ""
    status: str
    market_type: Text = None
    title: Text = None
    subtitle: Text = None
    yes_sub_title: Text = None
    no_sub_title: Text = None
    created_time: Text = None
    updated_time: Text = None
    open_time: Text = None
    close_time: Text = None
    expected_expiration_time: Text = None
    latest_expiration_time: Text = None
    occurrence_datetime: Text = None
    fee_waiver_expiration_time: Text = None
    settlement_ts: str | Seconds | None = None
    settlement_timer_seconds: int | None = None
    yes_bid_dollars: Text = None
    yes_bid_size_fp: Text = None
    yes_ask_dollars: Text = None
    yes_ask_size_fp: Text = None
    no_bid_dollars: Text = None
    no_ask_dollars: Text = None
    last_price_dollars: Text = None
    previous_yes_bid_dollars: Text = None
    previous_yes_ask_dollars: Text = None
    previous_price_dollars: Text = None
    volume_fp: Text = None
    volume_24h_fp: Text = None
    open_interest_fp: Text = None
    notional_value_dollars: Text = None
    result: Text = None
    settlement_value_dollars: Text = None
    settlement_bounds_type: Text = None
    settlement_floor_dollars: Text = None
    expiration_value: Text = None
    can_close_early: bool | None = None
    early_close_condition: Text = None
    strike_type: Text = None
    floor_strike: Json = UNSET
    cap_strike: Json = UNSET
    functional_strike: Text = None
    custom_strike: Json = UNSET
    rules_primary: Text = None
    rules_secondary: Text = None
    mve_collection_ticker: Text = None
    mve_selected_legs: Json = UNSET
    primary_participant_key: Text = None
    price_level_structure: Text = None
    price_ranges: list[PriceRangeMessage] | None = None
    is_provisional: bool | None = None
    exchange_index: int | None = None


class EventMessage(msgspec.Struct, frozen=True, kw_only=True):
    """An event."""

    event_ticker: str
    series_ticker: str = ""
    title: Text = None
    sub_title: Text = None
    category: Text = None
    collateral_return_type: Text = None
    mutually_exclusive: bool | None = None
    strike_date: str | Seconds | None = None
    strike_period: Text = None
    fee_type_override: Text = None
    fee_multiplier_override: Json = UNSET
    settlement_sources: Json = UNSET
    product_metadata: Json = UNSET
    last_updated_ts: str | Seconds | None = None
    exchange_index: int | None = None
    markets: list[MarketMessage] | None = None


class SeriesMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A series."""

    ticker: str
    title: Text = None
    frequency: Text = None
    category: Text = None
    categories: list[str] | None = None
    tags: list[str] | None = None
    fee_type: Text = None
    fee_multiplier: Json = UNSET
    contract_url: Text = None
    contract_terms_url: Text = None
    settlement_sources: Json = UNSET
    product_metadata: Json = UNSET
    additional_prohibitions: list[str] | None = None
    volume_fp: Text = None
    last_updated_ts: str | Seconds | None = None
    exchange_index: int | None = None


class TradeMessage(msgspec.Struct, frozen=True, gc=False):
    """A trade: the socket's, but for `ticker`, and its time as text."""

    trade_id: str
    ticker: str
    yes_price_dollars: str
    count_fp: str
    no_price_dollars: Text = None
    taker_outcome_side: Side | None = None
    taker_book_side: Literal["bid", "ask"] | None = None
    taker_side: Side | None = None
    is_block_trade: bool = False
    created_time: Text = None


class _Sides(msgspec.Struct, frozen=True):
    yes_dollars: Pairs | None = None
    no_dollars: Pairs | None = None


class _OldSides(msgspec.Struct, frozen=True):
    yes_dollars: DollarPairs | None | UnsetType = UNSET
    no_dollars: DollarPairs | None | UnsetType = UNSET
    yes: CentPairs | None = None
    no: CentPairs | None = None


class BookMessage(msgspec.Struct, frozen=True):
    """One book; before March 2026 its key was `orderbook` and its counts were integers."""

    ticker: str = ""
    orderbook_fp: _Sides | UnsetType = UNSET
    orderbook: _OldSides | UnsetType = UNSET


class BooksMessage(msgspec.Struct, frozen=True):
    """Several books."""

    orderbooks: list[msgspec.Raw]


class ListMessage(msgspec.Struct, frozen=True):
    """A page of anything; each item is read by itself, so that one cannot cost the others."""

    cursor: Text = None
    markets: list[msgspec.Raw] | UnsetType = UNSET
    events: list[msgspec.Raw] | UnsetType = UNSET
    series: list[msgspec.Raw] | None | UnsetType = UNSET
    trades: list[msgspec.Raw] | UnsetType = UNSET
    market: Json = UNSET
    event: Json = UNSET


class _Shard(msgspec.Struct, frozen=True):
    exchange_index: int
    description: Text = None
    exchange_active: bool = False
    trading_active: bool = False


class StatusMessage(msgspec.Struct, frozen=True):
    """`/exchange/status`."""

    exchange_active: bool
    trading_active: bool
    exchange_estimated_resume_time: Text = None
    exchange_index_statuses: list[_Shard] | None = None


class _Maintenance(msgspec.Struct, frozen=True):
    start_datetime: str
    end_datetime: str


class _Schedule(msgspec.Struct, frozen=True):
    standard_hours: list[dict[str, Any]] | None = None
    maintenance_windows: list[_Maintenance] | None = None


class ScheduleMessage(msgspec.Struct, frozen=True):
    """`/exchange/schedule`."""

    schedule: _Schedule


class RefusalMessage(msgspec.Struct, frozen=True):
    """An error: `code` and `message`, or an `error` of text (429) or of those two."""

    code: str | int | None = None
    message: Text = None
    details: Any = None
    error: Any = None
