"""What the exchange tells of a market beside its book: lifecycle fields and ticker fields, as on the wire."""

from kalshibook.numbers import ONE_DOLLAR, format_price, format_size
from kalshibook.simulator.exchange import ModelMarket
from kalshibook.simulator.grids import Grid

__all__ = ["created_fields", "event_fields", "price_ranges", "ticker_fields"]


def price_ranges(grid: Grid) -> list[dict[str, str]]:
    """Return the bands of a grid."""
    return [
        {name: format_price(getattr(band, name)) for name in ("start", "end", "step")} for band in grid.bands
    ]


def created_fields(market: ModelMarket) -> dict[str, object]:
    """Return what the message of a market's creation holds beside ticker and type."""
    fields: dict[str, object] = {
        "open_ts": market.open_s,
        "close_ts": market.close_s,
        "exchange_index": market.exchange_index,
        "additional_metadata": {
            "name": market.title,
            "title": market.title,
            "yes_sub_title": market.ticker.rpartition("-")[2],
            "no_sub_title": market.ticker.rpartition("-")[2],
            "rules_primary": f"Resolves to yes if: {market.title}",
            "rules_secondary": "",
            "can_close_early": True,
            "event_ticker": market.event,
            "expected_expiration_ts": market.close_s,
        },
        "price_level_structure": market.grid.name,
    }
    if not market.is_combo:
        fields["price_ranges"] = price_ranges(market.grid)
    return fields


def event_fields(market: ModelMarket) -> dict[str, object]:
    """Return what the message of an event's creation holds, for the event of a market."""
    return {
        "event_ticker": market.event,
        "exchange_index": market.exchange_index,
        "title": market.title,
        "subtitle": "",
        "collateral_return_type": "",
        "series_ticker": market.series,
    }


def ticker_fields(market: ModelMarket) -> dict[str, object]:
    """Return what a `ticker` message holds beside the market's ticker and the time."""
    bid, bid_size = market.best("yes") or (0, 0)
    no_bid, ask_size = market.best("no") or (0, 0)
    return {
        "market_id": market.market_id,
        "price_dollars": "" if market.last_price is None else format_price(market.last_price),
        "yes_bid_dollars": format_price(bid),
        "yes_ask_dollars": format_price(ONE_DOLLAR - no_bid),
        "yes_bid_size_fp": format_size(bid_size),
        "yes_ask_size_fp": format_size(ask_size),
        "last_trade_size_fp": format_size(market.last_size),
        "volume_fp": format_size(market.volume),
        "open_interest_fp": format_size(market.open_interest),
        "dollar_volume": market.volume_ticks // 1_000_000,
        "dollar_open_interest": market.open_interest // 100,
    }
