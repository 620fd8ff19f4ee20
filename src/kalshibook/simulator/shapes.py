"""Markets, events, series and trades as the exchange's REST interface writes them. Pure."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from kalshibook.numbers import ONE_DOLLAR, format_price, format_size
from kalshibook.simulator.exchange import ModelMarket
from kalshibook.simulator.told import price_ranges
from kalshibook.simulator.venue import TradeRecord
from kalshibook.wire import Side

__all__ = ["book_shape", "event_shape", "market_shape", "series_shape", "time_text", "trade_shape"]


@lru_cache(maxsize=65_536)
def _second_text(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def time_text(time_us: int) -> str:
    """Write a time as RFC 3339, to the microsecond where there are any."""
    second, rest = divmod(time_us, 1_000_000)
    return f"{_second_text(second)}.{rest:06d}Z" if rest else f"{_second_text(second)}Z"


def market_shape(market: ModelMarket) -> dict[str, Any]:
    """Return a market object."""
    bid, bid_size = market.best("yes") or (0, 0)
    no_bid, ask_size = market.best("no") or (0, 0)
    last = format_price(market.last_price or 0)
    close = time_text((market.close_s or 0) * 1_000_000)
    member = market.ticker.rpartition("-")[2]
    shape: dict[str, Any] = {
        "ticker": market.ticker,
        "event_ticker": market.event,
        "market_type": "binary",
        "title": market.title,
        "subtitle": member,
        "yes_sub_title": member,
        "no_sub_title": member,
        "created_time": time_text(market.created_us),
        "updated_time": time_text(market.updated_us),
        "open_time": time_text((market.open_s or 0) * 1_000_000),
        "close_time": close,
        "expected_expiration_time": close,
        "expiration_time": close,
        "latest_expiration_time": close,
        "settlement_timer_seconds": 5,
        "status": market.status.value,
        "yes_bid_dollars": format_price(bid),
        "yes_bid_size_fp": format_size(bid_size),
        "yes_ask_dollars": format_price(ONE_DOLLAR - no_bid),
        "yes_ask_size_fp": format_size(ask_size),
        "no_bid_dollars": format_price(no_bid),
        "no_ask_dollars": format_price(ONE_DOLLAR - bid),
        "last_price_dollars": last,
        "volume_fp": format_size(market.volume),
        "volume_24h_fp": format_size(market.volume),
        "result": market.result,
        "can_close_early": True,
        "open_interest_fp": format_size(market.open_interest),
        "notional_value_dollars": "1.0000",
        "previous_yes_bid_dollars": "0.0000",
        "previous_yes_ask_dollars": "0.0000",
        "previous_price_dollars": "0.0000",
        "settlement_bounds_type": "default",
        "expiration_value": "",
        "rules_primary": f"Resolves to yes if: {market.title}",
        "rules_secondary": "",
        "price_level_structure": market.grid.name,
        "price_ranges": price_ranges(market.grid),
        "exchange_index": market.exchange_index,
    }
    if market.settlement_value is not None:
        shape["settlement_value_dollars"] = format_price(market.settlement_value)
    if market.settled_s is not None:
        shape["settlement_ts"] = time_text(market.settled_s * 1_000_000)
    if market.is_combo:
        shape["mve_collection_ticker"] = market.series
        shape["mve_selected_legs"] = []
    return shape


def book_shape(market: ModelMarket, depth: int = 0) -> dict[str, list[tuple[str, str]]]:
    """Return both sides of a book, ascending, the best level last; `depth` 0 is all."""
    return {"yes_dollars": _levels(market, "yes", depth), "no_dollars": _levels(market, "no", depth)}


def _levels(market: ModelMarket, side: Side, depth: int) -> list[tuple[str, str]]:
    levels = market.levels(side)[-depth:] if depth else market.levels(side)
    return [(format_price(price), format_size(size)) for price, size in levels]


def trade_shape(trade: TradeRecord) -> dict[str, Any]:
    """Return a trade object."""
    return {
        "trade_id": trade.trade_id,
        "ticker": trade.ticker,
        "count_fp": format_size(trade.size),
        "yes_price_dollars": format_price(trade.yes_price),
        "no_price_dollars": format_price(ONE_DOLLAR - trade.yes_price),
        "taker_side": trade.taker,
        "taker_outcome_side": trade.taker,
        "taker_book_side": "bid" if trade.taker == "yes" else "ask",
        "created_time": time_text(trade.time_us),
        "is_block_trade": False,
    }


def event_shape(markets: Sequence[ModelMarket], *, nested: bool = False) -> dict[str, Any]:
    """Return an event object, from its markets."""
    first = markets[0]
    shape: dict[str, Any] = {
        "event_ticker": first.event,
        "series_ticker": first.series,
        "title": first.title.partition(":")[0],
        "sub_title": first.event.rpartition("-")[2],
        "collateral_return_type": "",
        "mutually_exclusive": False,
        "category": "Nature",
        "settlement_sources": [],
        "available_on_brokers": False,
        "last_updated_ts": time_text(max(market.updated_us for market in markets)),
        "exchange_index": first.exchange_index,
    }
    if nested:
        shape["markets"] = [market_shape(market) for market in markets]
    return shape


def series_shape(ticker: str, markets: Iterable[ModelMarket] = ()) -> dict[str, Any]:
    """Return a series object."""
    volume = sum(market.volume for market in markets)
    return {
        "ticker": ticker,
        "frequency": "custom",
        "title": ticker.removeprefix("KX").title(),
        "category": "Nature",
        "categories": ["Nature"],
        "tags": ["Pond"],
        "settlement_sources": [{"name": "The pond keeper", "url": "https://example.org"}],
        "contract_url": "https://example.org/contract",
        "contract_terms_url": "https://example.org/terms",
        "fee_type": "quadratic",
        "fee_multiplier": 1,
        "additional_prohibitions": [],
        "volume_fp": format_size(volume),
        "exchange_index": 0,
    }
