"""
What the exchange's REST answers mean, in fixed-point numbers.

Prices are integers of $0.0001, sizes integers of 0.01 contract, times integers of microseconds since
the Unix epoch. An absent value is None, never 0: a quote that nobody makes, a price before the first
trade. Numbers whose precision is not ours to judge (strikes, fee multipliers) stay the text they were.
"""

from typing import Generic, TypeVar

import msgspec

from kalshibook.errors import WireError
from kalshibook.wire.events import PriceRange

__all__ = [
    "COMBO_PREFIX",
    "Event",
    "ExchangeSchedule",
    "ExchangeStatus",
    "Listing",
    "MaintenanceWindow",
    "Market",
    "Page",
    "Refusal",
    "Series",
    "ShardStatus",
    "TradingHours",
]

T = TypeVar("T")

COMBO_PREFIX = "KXMVE"
"""Every combination's ticker begins so; they have a lifecycle channel of their own."""


class Page(msgspec.Struct, Generic[T], frozen=True):
    """One page of a list; what cannot be read is told and does not cost the rest of the page."""

    items: tuple[T, ...]
    cursor: str
    """Where the next page begins; empty on the last one."""
    rejected: tuple[WireError, ...] = ()


class Listing(msgspec.Struct, frozen=True, gc=False):
    """What a registry needs of a market: a tenth of it, so that a million of them are read in a minute."""

    ticker: str
    event_ticker: str
    status: str
    """
    The exchange's word: initialized, active, inactive, closed, determined, disputed, amended or
    finalized.
    """
    open_us: int | None
    close_us: int | None
    is_combo: bool
    title: str = ""
    price_ranges: tuple[PriceRange, ...] | None = None
    """Bands of the tick grid, or None where the exchange does not say."""


class Market(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A market, whole."""

    ticker: str
    event_ticker: str
    market_type: str
    status: str
    title: str
    subtitle: str
    yes_sub_title: str
    no_sub_title: str
    created_us: int | None
    updated_us: int | None
    open_us: int | None
    close_us: int | None
    expected_expiration_us: int | None
    latest_expiration_us: int | None
    occurrence_us: int | None
    fee_waiver_expiration_us: int | None
    settlement_us: int | None
    settlement_timer_s: int | None
    yes_bid: int | None
    """None where nobody bids, as in the exchange's ``0.0000``."""
    yes_bid_size: int | None
    yes_ask: int | None
    """None where nobody offers, as in the exchange's ``1.0000``."""
    yes_ask_size: int | None
    no_bid: int | None
    no_ask: int | None
    last_price: int | None
    """None before the first trade."""
    previous_yes_bid: int | None
    previous_yes_ask: int | None
    previous_price: int | None
    volume: int | None
    volume_24h: int | None
    open_interest: int | None
    notional: int | None
    """What a contract pays at most; one dollar for every binary market."""
    result: str
    """``yes``, ``no``, ``scalar``, or empty while nobody knows."""
    settlement_value: int | None
    settlement_bounds_type: str
    settlement_floor: int | None
    expiration_value: str
    can_close_early: bool | None
    early_close_condition: str
    strike_type: str
    floor_strike: str | None
    """The JSON number as it stood."""
    cap_strike: str | None
    functional_strike: str | None
    custom_strike: bytes | None
    """JSON."""
    rules_primary: str
    rules_secondary: str
    mve_collection_ticker: str
    mve_selected_legs: bytes | None
    """JSON."""
    primary_participant_key: str
    price_level_structure: str
    price_ranges: tuple[PriceRange, ...] | None
    is_provisional: bool | None
    exchange_index: int | None
    is_combo: bool


class Event(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """An event: what its markets have in common."""

    event_ticker: str
    series_ticker: str
    title: str
    sub_title: str
    category: str
    collateral_return_type: str
    mutually_exclusive: bool | None
    strike_us: int | None
    strike_period: str
    fee_type_override: str | None
    fee_multiplier_override: str | None
    """The JSON number as it stood."""
    settlement_sources: bytes | None
    """JSON."""
    product_metadata: bytes | None
    """JSON."""
    updated_us: int | None
    exchange_index: int | None
    markets: tuple[Market, ...] | None
    """Only where they were asked for."""


class Series(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A series: a template from which events are made."""

    ticker: str
    title: str
    frequency: str
    category: str
    categories: tuple[str, ...]
    tags: tuple[str, ...]
    fee_type: str
    fee_multiplier: str | None
    """The JSON number as it stood."""
    contract_url: str
    contract_terms_url: str
    settlement_sources: bytes | None
    """JSON."""
    product_metadata: bytes | None
    """JSON."""
    additional_prohibitions: tuple[str, ...]
    volume: int | None
    updated_us: int | None
    exchange_index: int | None


class ShardStatus(msgspec.Struct, frozen=True, gc=False):
    """One matching engine."""

    exchange_index: int
    description: str
    exchange_active: bool
    trading_active: bool


class ExchangeStatus(msgspec.Struct, frozen=True, gc=False):
    """Whether the exchange is open and trades; the two flags are those of shard 0."""

    exchange_active: bool
    trading_active: bool
    resume_us: int | None
    """When it expects to be back, if it says so."""
    shards: tuple[ShardStatus, ...]


class TradingHours(msgspec.Struct, frozen=True, gc=False):
    """One stretch of calendar in which the weekly hours hold."""

    start_us: int | None
    end_us: int | None
    sessions: tuple[tuple[str, str, str], ...]
    """Weekday (``monday`` …), opening and closing time as ``HH:MM``, US Eastern."""


class MaintenanceWindow(msgspec.Struct, frozen=True, gc=False):
    """When nothing trades."""

    start_us: int
    end_us: int


class ExchangeSchedule(msgspec.Struct, frozen=True, gc=False):
    """Hours and maintenance."""

    hours: tuple[TradingHours, ...]
    maintenance: tuple[MaintenanceWindow, ...]


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """An answer that is an error, in the exchange's words."""

    code: str
    message: str
    details: str = ""

    def __str__(self) -> str:
        return (
            ": ".join(part for part in (self.code, self.message, self.details) if part) or "no reason given"
        )
